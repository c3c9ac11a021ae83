"""Random plans, and the comparison of a compacted cache with what the oracle says it must hold."""

from __future__ import annotations

import struct
from dataclasses import replace

import gguf
import numpy as np
from native.kv_state import Cache, Rows, SeqState
from reference.kv_oracle import Layer, key_bound, largest, moved_keys, worst

# no quantizer in the gguf package: the bound per element has to do
NO_QUANTIZER = (gguf.GGMLQuantizationType.IQ4_NL,)


def random_plan(rng: np.random.Generator, n_layer: int, n_cells: int, n_kept: int, n_pinned: int = 0) -> np.ndarray:
    """keep int32 [n_layer, n_kept]: another random choice in every layer, the first `n_pinned` cells in all of them."""
    rows = [
        np.concatenate(
            [
                np.arange(n_pinned),
                np.sort(n_pinned + rng.choice(n_cells - n_pinned, n_kept - n_pinned, replace=False)),
            ]
        )
        for _ in range(n_layer)
    ]
    return np.array(rows, np.int32)


def check_compacted(before: Cache, after: Cache, keep: np.ndarray, layers: list[Layer]) -> None:
    """The full-attention cache after compaction by `keep` [n_layer, n_kept]; rows counted in order of position."""
    n_kept = keep.shape[1]
    assert after.pos.tolist() == list(range(n_kept))
    assert len(before.k) == len(after.k) == len(layers) == len(keep)
    for il, source in enumerate(keep):
        delta = np.arange(n_kept) - before.pos[source]
        _check_rows(before.k[il], after.k[il], source, layers[il], delta, f"layer {il}")
        assert np.array_equal(after.v[il].raw, before.v[il].raw[source]), f"V of layer {il}"


def random_head_plan(
    rng: np.random.Generator, n_layer: int, n_head: int, n_cells: int, n_kept: int, n_pinned: int = 0
) -> np.ndarray:
    """keep int32 [n_layer, n_head, n_kept]: another random choice in every layer and head."""
    return random_plan(rng, n_layer * n_head, n_cells, n_kept, n_pinned).reshape(n_layer, n_head, n_kept)


def check_compacted_heads(before: Cache, after: Cache, keep: np.ndarray, layers: list[Layer]) -> None:
    """As check_compacted, for keep [n_layer, n_head_kv, n_kept]: every head is a cache of its own."""
    for h in range(keep.shape[1]):
        heads = [replace(layer, n_head_kv=1) for layer in layers]
        check_compacted(_one_head(before, keep.shape[1], h), _one_head(after, keep.shape[1], h), keep[:, h], heads)


def check_thinned(before: Cache, after: Cache, keep: np.ndarray, newest: int | None = None) -> None:
    """After thinning by keep [n_layer, n_kept] or [n_layer, n_head_kv, n_kept]: rows keep every bit, K too."""
    n_kept, newest = keep.shape[-1], before.pos[-1] if newest is None else newest
    assert after.pos.tolist() == list(range(newest - n_kept + 1, newest + 1))
    assert len(before.k) == len(after.k) == len(keep)
    for h in range(keep.shape[1] if keep.ndim == 3 else 1):
        old, new, rows = before, after, keep
        if keep.ndim == 3:
            old, new, rows = _one_head(before, keep.shape[1], h), _one_head(after, keep.shape[1], h), keep[:, h]
        for il, source in enumerate(rows):
            assert np.array_equal(new.k[il].raw, old.k[il].raw[source]), f"K of layer {il}, head {h}"
            assert np.array_equal(new.v[il].raw, old.v[il].raw[source]), f"V of layer {il}, head {h}"


def check_turned(before: Cache, after: Cache, turn: np.ndarray, shift: int, layers: list[Layer]) -> None:
    """Keys turned by turn [n_layer, n_cells] or [n_layer, n_head_kv, n_cells], table shifted, V untouched."""
    if turn.ndim == 3:
        heads = [replace(layer, n_head_kv=1) for layer in layers]
        for h in range(turn.shape[1]):
            old, new = (_one_head(cache, turn.shape[1], h) for cache in (before, after))
            check_turned(old, new, turn[:, h], shift, heads)
        return
    assert after.pos.tolist() == (before.pos + shift).tolist()
    assert len(before.k) == len(after.k) == len(layers) == len(turn)
    for il, delta in enumerate(turn):
        _check_rows(before.k[il], after.k[il], np.arange(len(delta)), layers[il], delta, f"layer {il}")
        assert np.array_equal(after.v[il].raw, before.v[il].raw), f"V of layer {il}"


def same_cache(one: Cache, other: Cache) -> bool:
    """The same rows at the same positions, wherever the cells lie."""
    pairs = zip(one.k + one.v, other.k + other.v, strict=True)
    return np.array_equal(one.pos, other.pos) and all(np.array_equal(a.raw, b.raw) for a, b in pairs)


def _one_head(cache: Cache, n_head: int, h: int) -> Cache:
    def pick(rows: Rows) -> Rows:
        return Rows(rows.type, np.ascontiguousarray(rows.raw.reshape(len(rows.raw), n_head, -1)[:, h]))

    return Cache(cache.pos, [pick(rows) for rows in cache.k], [pick(rows) for rows in cache.v], cache.v_trans)


def check_shifted(before: Cache, after: Cache, shift: int, layers: list[Layer]) -> None:
    """A sliding-window cache whose cells only moved by `shift` positions (cells below 0 are gone)."""
    source = np.flatnonzero(before.pos + shift >= 0)
    # a state holds only what the window can still see, which a shift does not change
    assert after.pos.tolist() == (before.pos[source] + shift).tolist()
    for il, layer in enumerate(layers):
        _check_rows(before.k[il], after.k[il], source, layer, np.full(len(source), shift), f"window layer {il}")
        assert np.array_equal(after.v[il].raw, before.v[il].raw[source]), f"V of window layer {il}"


def _check_rows(before: Rows, after: Rows, source: np.ndarray, layer: Layer, delta: np.ndarray, where: str) -> None:
    still = (delta == 0) | (layer.rope.kind == "none")
    assert np.array_equal(after.raw[still], before.raw[source[still]]), f"unmoved K of {where}"
    if still.all() or before.raw.shape[1] == 0:
        return
    moved, raw = ~still, after.raw[~still]
    exact = moved_keys(before.values()[source[moved]], before.type, layer, delta[moved])
    stored = after.values()[moved]
    ratio = worst(stored, exact, key_bound(raw, after.type, exact, delta[moved]))
    assert ratio <= 1, f"K of {where} is {ratio:.2f} times its bound from the exact rotation"
    if after.type not in NO_QUANTIZER:
        # the bound allows every element a full step; all together they may be no worse than storing the exact row
        again = exact.astype(np.float32)
        if after.type != gguf.GGMLQuantizationType.F32:
            again = gguf.quants.dequantize(gguf.quants.quantize(again, after.type), after.type)
        rms, rms_best = (np.sqrt(((rows - exact) ** 2).mean()) for rows in (stored, again))
        allowed = 1.05 * rms_best + 1e-6 * largest(exact) * (1 + np.abs(delta).max() / 8)
        assert rms <= allowed, f"K of {where}: error {rms:.3g}, storing the exact row costs {rms_best:.3g}"


def recurrent_state(state: SeqState) -> tuple[int, bytes]:
    """Position and opaque rest of the recurrent part of a hybrid state."""
    n_cells, pos, n_seq = struct.unpack_from("<IiI", state.rest)
    assert (n_cells, n_seq) == (1, 0)
    return pos, state.rest[12:]
