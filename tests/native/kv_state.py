"""Read the KV rows out of llama.cpp's state blobs.

The layout is that of llama_kv_cache::state_write in src/llama-kv-cache.cpp of the pinned base, little endian:
magic, sequence, streams; per stream the cells (position, sequences), then per layer K as rows and V as rows or, without
flash attention, transposed. A sliding-window model writes its full-attention cache first, then the window cache;
a hybrid model its attention cache first, then the recurrent state, which is kept here as opaque bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import gguf
import numpy as np

MAGIC = 0xAF143CD8


@dataclass
class Rows:
    """The K or V rows of one layer."""

    type: gguf.GGMLQuantizationType
    raw: np.ndarray  # uint8 [n_cells, bytes of a row]; a transposed V is turned back into rows

    def values(self) -> np.ndarray:
        """float32 [n_cells, elements of a row], as stored: quantized rows may be in the Hadamard-rotated basis."""
        if self.raw.size == 0:
            return np.zeros((len(self.raw), 0), np.float32)
        if self.type == gguf.GGMLQuantizationType.F32:
            return self.raw.view(np.float32)
        if self.type == gguf.GGMLQuantizationType.F16:
            return self.raw.view(np.float16).astype(np.float32)
        return gguf.quants.dequantize(self.raw, self.type).astype(np.float32)


@dataclass
class Cache:
    """One KV cache restricted to one sequence, cells in order of position."""

    pos: np.ndarray  # int32 [n_cells]
    k: list[Rows] = field(default_factory=list)
    v: list[Rows] = field(default_factory=list)
    v_trans: bool = False


@dataclass
class SeqState:
    """What one sequence holds: one cache, or two for a sliding-window model, and what follows them."""

    caches: list[Cache]
    rest: bytes  # recurrent state of a hybrid model

    @property
    def full(self) -> Cache:
        """The cache of the full-attention layers."""
        return self.caches[0]


class Reader:
    def __init__(self, blob: bytes) -> None:
        self.blob, self.at = blob, 0

    def take(self, n: int) -> np.ndarray:
        if self.at + n > len(self.blob):
            raise ValueError(f"state ends at byte {len(self.blob)}, {self.at + n} wanted")
        self.at += n
        return np.frombuffer(self.blob, np.uint8, n, self.at - n)

    def number(self, kind: str = "I") -> int:
        return struct.unpack("<" + kind, self.take(struct.calcsize(kind)).tobytes())[0]


def parse_seq(blob: bytes, n_caches: int = 1) -> SeqState:
    """Parse llama_state_seq_get_data(); `n_caches` is 2 for sliding-window models. Raises ValueError on nonsense."""
    reader = Reader(blob)
    if (magic := reader.number()) != MAGIC:
        raise ValueError(f"magic {magic:#x} is not that of a sequence state")
    reader.number("i")  # the sequence
    caches = [_parse_cache(reader) for _ in range(n_caches)]
    return SeqState(caches, blob[reader.at :])


def _parse_cache(reader: Reader) -> Cache:
    cache = Cache(np.zeros(0, np.int32))
    for _ in range(reader.number()):  # streams; a sequence has cells in one of them
        n_cells = reader.number()
        if n_cells == 0:
            continue
        if len(cache.pos):
            raise ValueError("a sequence has cells in two streams")
        pos = np.empty(n_cells, np.int32)
        for i in range(n_cells):
            pos[i], n_seq = reader.number("i"), reader.number()
            reader.take(4 * n_seq)
        order = np.argsort(pos, kind="stable")
        cache.pos, cache.v_trans = pos[order], bool(reader.number())
        n_layer = reader.number()
        for _ in range(n_layer):
            cache.k.append(_parse_rows(reader, n_cells, order))
        for _ in range(n_layer):
            rows = _parse_transposed(reader, n_cells, order) if cache.v_trans else _parse_rows(reader, n_cells, order)
            cache.v.append(rows)
    return cache


def _parse_rows(reader: Reader, n_cells: int, order: np.ndarray) -> Rows:
    kind = gguf.GGMLQuantizationType(reader.number("i"))
    n_row = reader.number("Q")
    return Rows(kind, reader.take(n_cells * n_row).reshape(n_cells, n_row)[order])


def _parse_transposed(reader: Reader, n_cells: int, order: np.ndarray) -> Rows:
    kind = gguf.GGMLQuantizationType(reader.number("i"))
    n_element, n_embd = reader.number(), reader.number()
    raw = reader.take(n_embd * n_cells * n_element).reshape(n_embd, n_cells, n_element)
    return Rows(kind, raw.transpose(1, 0, 2).reshape(n_cells, n_embd * n_element)[order])
