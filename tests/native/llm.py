"""A thin hold on llama.cpp for the native tests: one model, one context, no policy, no sampling.

Models stay loaded for the whole test run (they are tiny); contexts belong to one test and are closed with `with`.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import gguf
import numpy as np

from lacache_gguf import native

try:
    lib = native.load()
except native.NativeError:
    lib = None  # nothing to call: tests/conftest.py skips the tests, with the reason

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")

# the numbers of enum llama_compact_status; the header is the contract
OK, ERR_CONTEXT, ERR_UNSUPPORTED, ERR_SEQ, ERR_LAYERS, ERR_KEPT = 0, -1, -2, -3, -4, -5
ERR_LENGTH, ERR_RANGE, ERR_ORDER, ERR_SHARED, ERR_HEADS, ERR_QUERY = -6, -7, -8, -9, -12, -13


def type_number(name: str) -> int:
    return int(gguf.GGMLQuantizationType[name.upper()])


def compaction() -> ctypes.CDLL:
    """The library itself, for calls that no honest caller would make."""
    return lib._lib


@cache
def load_model(path: Path) -> object:
    native.clear_errors()
    model = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
    if not model:
        raise RuntimeError(f"llama.cpp cannot load {path}: {native.recent_errors()}")
    return model


class Llm:
    """A context on a model file. Tokens are numbers below `n_vocab`; positions are counted by the caller or here."""

    def __init__(
        self,
        path: Path,
        *,
        n_ctx: int = 256,
        n_seq: int = 1,
        type_k: str = "f32",
        type_v: str = "f32",
        flash_attn: bool = False,
        unified: bool = True,
        swa_full: bool = True,
        n_ubatch: int = 64,
        cb_eval: object = None,
        stock_cells: bool = False,
    ) -> None:
        self.path = path
        self.model = load_model(path)
        params = lib.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = n_ubatch
        params.n_seq_max = n_seq
        params.type_k, params.type_v = type_number(type_k), type_number(type_v)
        params.flash_attn_type = int(flash_attn)  # LLAMA_FLASH_ATTN_TYPE_DISABLED = 0, _ENABLED = 1
        params.kv_unified, params.swa_full = unified, swa_full
        if cb_eval:
            params.cb_eval = self.cb_eval = cb_eval  # kept: the callback must outlive the context
        params.n_threads = params.n_threads_batch = 1  # tiny matrices: threads only cost
        init = lib.llama_init_from_model if stock_cells else native.init_from_model
        self.ctx = init(self.model, params)
        if not self.ctx:
            raise RuntimeError(f"no context for {path.name}: {native.recent_errors()}")
        self.n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.n_ctx = lib.llama_n_ctx(self.ctx)
        self.n_ctx_seq = self.n_ctx if unified else self.n_ctx // n_seq
        self.n_ubatch = n_ubatch
        self.memory = lib.llama_get_memory(self.ctx)

    def __enter__(self) -> Llm:
        return self

    def __exit__(self, *exc: object) -> None:
        lib.llama_free(self.ctx)
        self.ctx = None

    def decode(self, tokens: np.ndarray | list[int], *, seq: int = 0, pos: int | None = None) -> np.ndarray:
        """Feed tokens to one sequence; float32 logits [n_tokens, n_vocab]."""
        pos = self.pos_next(seq) if pos is None else pos
        parts = [
            self._decode(np.asarray(tokens[i : i + self.n_ubatch], np.int32), seq, pos + i)
            for i in range(0, len(tokens), self.n_ubatch)
        ]
        return np.concatenate(parts)

    def _decode(self, tokens: np.ndarray, seq: int, pos: int) -> np.ndarray:
        n = len(tokens)
        batch = lib.llama_batch_init(n, 0, 1)
        try:
            batch.n_tokens = n
            for i in range(n):
                batch.token[i], batch.pos[i], batch.n_seq_id[i] = int(tokens[i]), pos + i, 1
                batch.seq_id[i][0], batch.logits[i] = seq, 1
            status = lib.llama_decode(self.ctx, batch)
        finally:
            lib.llama_batch_free(batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}: {native.recent_errors()}")
        logits = lib.llama_get_logits(self.ctx)
        return np.ctypeslib.as_array(logits, (n, self.n_vocab)).copy()

    def pos_next(self, seq: int = 0) -> int:
        return lib.llama_memory_seq_pos_max(self.memory, seq) + 1

    def pos_min(self, seq: int = 0) -> int:
        return lib.llama_memory_seq_pos_min(self.memory, seq)

    def state(self, seq: int | None = None) -> bytes:
        """The bytes of one sequence, or of the whole memory."""
        if seq is None:
            size, get = lib.llama_state_get_size(self.ctx), lib.llama_state_get_data
            buffer = (ctypes.c_uint8 * size)()
            n = get(self.ctx, buffer, size)
        else:
            size, get = lib.llama_state_seq_get_size(self.ctx, seq), lib.llama_state_seq_get_data
            buffer = (ctypes.c_uint8 * size)()
            n = get(self.ctx, buffer, size, seq)
        if n != size:
            raise RuntimeError(f"state of {size} bytes announced, {n} written")
        return bytes(buffer)

    def restore(self, state: bytes, seq: int | None = None) -> None:
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        if seq is None:
            n = lib.llama_state_set_data(self.ctx, buffer, len(state))
        else:
            n = lib.llama_state_seq_set_data(self.ctx, buffer, len(state), seq)
        if n != len(state):
            raise RuntimeError(f"state of {len(state)} bytes, {n} read: {native.recent_errors()}")

    def seq_cp(self, source: int, target: int, p0: int = -1, p1: int = -1) -> None:
        lib.llama_memory_seq_cp(self.memory, source, target, p0, p1)

    def seq_rm(self, seq: int, p0: int = -1, p1: int = -1) -> bool:
        return lib.llama_memory_seq_rm(self.memory, seq, p0, p1)

    def seq_add(self, seq: int, p0: int, p1: int, shift: int) -> None:
        lib.llama_memory_seq_add(self.memory, seq, p0, p1, shift)

    def seq_div(self, seq: int, p0: int, p1: int, divisor: int) -> None:
        lib.llama_memory_seq_div(self.memory, seq, p0, p1, divisor)

    # the added functions

    @property
    def n_layer(self) -> int:
        return native.compact_n_layer(self.ctx)

    def n_cells(self, seq: int = 0) -> int:
        return native.seq_n_cells(self.ctx, seq)

    def reason(self) -> str | None:
        return native.compact_reason(self.ctx)

    def compact(self, keep: np.ndarray, *, seq: int = 0) -> int:
        """Compact by keep [n_layer, n_kept] or [n_layer, n_head_kv, n_kept]; returns the status."""
        return self._with_box("compact", keep, seq)

    def thin(self, keep: np.ndarray, *, seq: int = 0) -> int:
        """The same, but keys stay turned as they are."""
        return self._with_box("thin", keep, seq)

    def turn(self, turn: np.ndarray, shift: int = 0, *, seq: int = 0) -> int:
        """Turn keys by turn [n_layer, n_cells] or [n_layer, n_head_kv, n_cells]; returns the status."""
        return self._with_box("turn", turn, seq, shift)

    def _with_box(self, name: str, box: np.ndarray, seq: int, last: int | None = None) -> int:
        box = np.ascontiguousarray(box, dtype=np.int32)
        n_head = box.shape[1] if box.ndim == 3 else 1
        return self.raw(name, seq, box, box.size, box.shape[0], box.shape[-1] if last is None else last, n_head)

    def raw(
        self, name: str, seq: int, box: np.ndarray | None, n_box: int, n_layer: int, last: int, n_head: int = 1
    ) -> int:
        """The bare llama_memory_seq_<name>(), for what no honest caller would pass; `last` is n_kept or shift."""
        pointer = None if box is None else box.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        return getattr(compaction(), f"llama_memory_seq_{name}")(self.ctx, seq, pointer, n_box, n_layer, n_head, last)


def score_raw(llm: Llm, kind: str, seq: int, scores: np.ndarray | None, n_scores: int, first: int = 0) -> int:
    """The bare llama_memory_seq_score_<kind>(); returns the status."""
    pointer = None if scores is None else scores.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    where = (seq, first) if kind == "keys" else (seq,)
    return getattr(compaction(), f"llama_memory_seq_score_{kind}")(llm.ctx, *where, pointer, n_scores)
