"""One llama.cpp context with one sequence: decode tokens at positions, read logits, count bytes. No policy, no text.

The KV memory is allocated once, here; `n_ctx` cells are the budget.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

import numpy as np

from lacache_gguf import native
from lacache_gguf.errors import MemoryFull, OutOfMemory, UnsupportedModel, UsageError
from lacache_gguf.kv_budget import KV_TYPES
from lacache_gguf.model import Model
from lacache_gguf.policies import Need

_GGML_TYPE = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30}
_FLASH_ATTN = {None: -1, False: 0, True: 1}


class Context:
    """Owns a `llama_context *` and a batch of up to `n_batch` tokens of sequence 0."""

    def __init__(
        self,
        model: Model,
        n_ctx: int,
        *,
        n_ubatch: int = 512,
        type_k: str = "f16",
        type_v: str = "f16",
        flash_attn: bool | None = None,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
    ) -> None:
        """Raises UsageError for settings llama.cpp refuses, OutOfMemory if the buffers do not fit."""
        self._lib = lib = native.load()
        self.model = model
        for kv_type in (type_k, type_v):
            if kv_type not in KV_TYPES:
                raise UsageError(f"KV cache type {kv_type!r} is unknown; choose one of {', '.join(KV_TYPES)}")
        params = lib.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = n_ctx
        params.n_ubatch = n_ubatch
        params.n_seq_max = 1
        params.swa_full = False  # window layers hold their window, as kv_budget counts; the C default is all cells
        params.type_k, params.type_v = _GGML_TYPE[type_k], _GGML_TYPE[type_v]
        params.flash_attn_type = _FLASH_ATTN[flash_attn]
        params.n_threads = n_threads or default_n_threads()
        params.n_threads_batch = n_threads_batch or params.n_threads
        params.no_perf = True
        native.clear_errors()
        self._ptr = native.init_from_model(model.ptr, params)
        if not self._ptr:
            raise _init_error(native.recent_errors(), n_ctx, type_k, type_v)
        self._memory = lib.llama_get_memory(self._ptr)
        self._batch = lib.llama_batch_init(n_ctx, 0, 1)
        view = np.ctypeslib.as_array
        self._token = view(self._batch.token, (n_ctx,))
        self._pos = view(self._batch.pos, (n_ctx,))
        self._logits = view(self._batch.logits, (n_ctx,))
        view(self._batch.n_seq_id, (n_ctx,))[:] = 1
        for i in range(n_ctx):
            self._batch.seq_id[i][0] = 0
        self.n_batch = n_ctx
        self.n_vocab = self._n_vocab_wanted = 0  # see set_n_vocab

    @property
    def ptr(self):
        """The `llama_context *`. Raises UsageError after close()."""
        if self._ptr is None:
            raise UsageError("the engine was closed")
        return self._ptr

    def close(self) -> None:
        """Free the context; safe to call twice."""
        if getattr(self, "_ptr", None) is not None:
            self._lib.llama_batch_free(self._batch)
            self._lib.llama_free(self._ptr)
            self._ptr = None

    def clear(self) -> None:
        """Drop every cell."""
        self._lib.llama_memory_clear(self._memory, False)

    def compact(self, keep: np.ndarray) -> None:
        """Execute a plan and number cells anew; see native.seq_compact."""
        native.seq_compact(self.ptr, keep)

    def thin(self, keep: np.ndarray) -> None:
        """Execute a plan and let keys keep their positions; see native.seq_thin."""
        native.seq_thin(self.ptr, keep)

    def turn(self, turn: np.ndarray, shift: int) -> None:
        """Move keys and the newest position; see native.seq_turn."""
        native.seq_turn(self.ptr, turn, shift)

    # ---- scores ----------------------------------------------------------------------------------------------------

    def set_n_query(self, n_query: int, spread: bool) -> None:
        """See native.set_n_query. Raises NativeError where that cannot be done."""
        native.set_n_query(self.ptr, n_query, spread)

    def n_query(self) -> int:
        """Queries recorded since the cells were last renumbered."""
        return native.n_query(self.ptr)

    def score(self, need: Need, first: int = 0) -> np.ndarray:
        """How much every cell is worth, float32 [n_layer, n_head_kv, n_cells - first], higher = keep; see
        policies.Need. `first` leaves older cells out, with keys only."""
        return native.score_keys(self.ptr, first=first) if need.kind == "keydiff" else native.score_attention(self.ptr)

    # ---- losses ----------------------------------------------------------------------------------------------------

    def set_n_vocab(self, n_vocab: int) -> None:
        """Of chunks all of whose tokens are outputs compute `totals`, among the first `n_vocab` tokens, and the logits
        of the last token only; 0 = logits of all. `n_vocab` stays 0 where that cannot be done."""
        if n_vocab != self._n_vocab_wanted:
            self.n_vocab = n_vocab if native.set_n_vocab(self.ptr, n_vocab) else 0
            self._n_vocab_wanted = n_vocab

    def totals(self, n: int) -> np.ndarray:
        """float32 [n]: of the last decode of n + 1 outputs after `set_n_vocab`, of all but the last: the logarithm of
        the summed exponentials of the first `n_vocab` logits, less the logit of the token behind; valid until the next
        decode."""
        self.synchronize()
        return np.ctypeslib.as_array(self._lib.llama_get_logits(self.ptr), (n,))

    # ---- cells -----------------------------------------------------------------------------------------------------

    def retract(self, pos: int) -> bool:
        """Free the cells at positions `pos`, `pos` + 1, ...; False, with nothing changed, if that cannot be done: there
        is a recurrent state, or a sliding window has moved on."""
        lib, n_swa = self._lib, self._lib.llama_model_n_swa(self.model.ptr)
        first = lib.llama_memory_seq_pos_min(self._memory, 0)
        if first > (max(0, pos - n_swa) if n_swa > 0 else pos):
            return False
        return bool(lib.llama_memory_seq_rm(self._memory, 0, pos, -1))

    def state(self) -> np.ndarray:
        """All cells as llama.cpp writes them: uint8 [n_bytes], a copy."""
        size = self._lib.llama_state_seq_get_size(self.ptr, 0)
        data = np.empty(size, dtype=np.uint8)
        n = self._lib.llama_state_seq_get_data(self.ptr, _as_bytes(data), size, 0)
        if n == 0 or n > size:
            raise OutOfMemory(f"llama.cpp could not write {size} bytes of KV memory: {native.recent_errors()}")
        return data[:n]

    def restore(self, data: np.ndarray, n_cells: int) -> None:
        """Replace all cells by what `state` gave, which must be unaltered: llama.cpp trusts it.

        Raises ValueError if llama.cpp refuses it; the memory is empty then.
        """
        self.clear()
        if not len(data) and not n_cells:
            return
        native.clear_errors()
        n = self._lib.llama_state_seq_set_data(self.ptr, _as_bytes(data), len(data), 0)
        n_now = native.seq_n_cells(self.ptr) if native.compact_reason(self.ptr) is None else n_cells
        if n != len(data) or n_now != n_cells:
            self.clear()
            raise ValueError(f"llama.cpp refuses {len(data)} bytes for {n_cells} cells: {native.recent_errors()}")

    def check(self, tokens: Sequence[int]) -> np.ndarray:
        """`tokens` as int64 [n]. Raises UsageError for none, for more than a batch, or one outside the vocabulary."""
        n = len(tokens)
        if not 0 < n <= self.n_batch:
            raise UsageError(f"a batch of {n} tokens; give 1 to {self.n_batch}")
        chunk = np.asarray(tokens, dtype=np.int64)
        if chunk.min() < 0 or chunk.max() >= self.model.n_vocab:
            raise UsageError(
                f"token {chunk[(chunk < 0) | (chunk >= self.model.n_vocab)][0]} is not in this model's "
                f"vocabulary of {self.model.n_vocab}"
            )
        return chunk

    def decode(self, chunk: np.ndarray, pos: int, all_logits: bool = False) -> None:
        """Feed a chunk that `check` gave at positions pos, pos + 1, ...; logits of the last token are kept, or of all.

        Raises MemoryFull if the cells do not suffice.
        """
        n = len(chunk)
        self._token[:n] = chunk
        self._pos[:n] = np.arange(pos, pos + n)
        self._logits[:n] = all_logits
        self._logits[n - 1] = 1
        self._batch.n_tokens = n
        native.clear_errors()
        status = self._lib.llama_decode(self.ptr, self._batch)
        if status == 1:
            raise MemoryFull(f"no free cells for {n} tokens at position {pos}")
        if status != 0:
            raise OutOfMemory(f"llama.cpp could not decode {n} tokens at position {pos}: {native.recent_errors()}")

    def synchronize(self) -> None:
        """Wait until nothing computes: a GPU may still be at the last decode."""
        self._lib.llama_synchronize(self.ptr)

    def logits(self, n: int = 1) -> np.ndarray:
        """float32 [n, n_vocab]: the last n outputs of the last decode; valid until the next one."""
        self.synchronize()
        first = self._lib.llama_get_logits_ith(self.ptr, -n)
        return np.ctypeslib.as_array(first, (n * self.model.n_vocab,)).reshape(n, self.model.n_vocab)


def _as_bytes(data: np.ndarray):
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def default_n_threads() -> int:
    """Physical cores this process may use; hyper-threads slow ggml down."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return n if n <= 4 else n // 2


def _init_error(log: str, n_ctx: int, type_k: str, type_v: str) -> Exception:
    text = log or "llama.cpp gave no reason"
    if "alloc" in text or "memory" in text:
        return OutOfMemory(f"a KV memory of {n_ctx} cells does not fit: {text}; lower --kv-budget or --ctx-size")
    if "flash" in text.lower() or "V cache" in text or "type" in text:
        return UsageError(f"K in {type_k} and V in {type_v} cannot be used: {text}; try f16 or flash attention on")
    return UnsupportedModel(f"llama.cpp cannot make a context: {text}")
