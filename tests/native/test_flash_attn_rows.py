"""Attention of a few queries: the same bits as llama.cpp's own, which takes one query row after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from native.ggml_graph import BF16, F16, F32, IQ4_NL, Q4_0, Q5_1, Q8_0, computed

pytestmark = pytest.mark.native

PAIRS = [(F16, F16), (Q8_0, Q4_0), (Q8_0, Q8_0), (Q5_1, Q4_0), (F16, Q8_0), (Q8_0, F16), (BF16, BF16), (Q4_0, IQ4_NL)]
GROUPS = [(9, 3), (8, 2), (7, 1), (4, 4)]  # heads, KV heads
TOKENS = [1, 3, 17]


def attention(inputs: list[tuple[int, np.ndarray]], softcap: float, n_threads: int) -> Iterator[np.ndarray]:
    """Of q, k, v, mask: with the kernel, then by llama.cpp alone."""

    def build(base, context, q, k, v, mask):
        return base.ggml_flash_attn_ext(context, q, k, v, mask, inputs[0][1].shape[-1] ** -0.5, 0.0, softcap)

    return computed(inputs, build, n_threads)


def masked(rng, n_tokens: int, n_cells: int) -> np.ndarray:
    """Causal for the newest cells, holes elsewhere, and whole stretches that no row sees."""
    mask = np.where(rng.random((n_tokens, n_cells)) < 0.1, -np.inf, 0).astype(np.float32)
    mask[:, n_cells // 3 : n_cells // 2] = -np.inf
    mask[:, n_cells - n_tokens :] = np.where(np.tri(n_tokens) > 0, 0, -np.inf)
    return mask[None, None]


@pytest.mark.parametrize("n_head", [64, 128, 96, 256])
@pytest.mark.parametrize("types", PAIRS)
def test_every_row_has_the_bits_of_one_row_at_a_time(rng, types, n_head):
    for (heads, heads_kv), n_tokens, n_cells in itertools.product(GROUPS, TOKENS, (32, 200, 544)):
        shape = (1, heads_kv, n_cells, n_head)
        inputs = [
            (F32, rng.standard_normal((1, heads, n_tokens, n_head), np.float32) * 4),
            *((type_, rng.standard_normal(shape, np.float32)) for type_ in types),
            (F16, masked(rng, n_tokens, n_cells)),
        ]
        ours, theirs = attention(inputs, softcap=0.0, n_threads=1)
        assert np.isfinite(theirs).all()
        assert ours.tobytes() == theirs.tobytes(), (heads, heads_kv, n_tokens, n_cells)


def test_several_sequences_threads_and_a_capped_score(rng):
    inputs = [
        (F32, rng.standard_normal((2, 9, 5, 64), np.float32) * 4),
        *((F16, rng.standard_normal((2, 3, 96, 64), np.float32)) for _ in "kv"),
        (F16, masked(rng, 5, 96)),
    ]
    for n_threads in (1, 2, 5):  # threads begin in the midst of a group
        ours, theirs = attention(inputs, softcap=30.0, n_threads=n_threads)
        assert np.isfinite(theirs).all()
        assert ours.tobytes() == theirs.tobytes(), n_threads


def test_a_row_that_sees_nothing_is_zero(rng):
    inputs = [
        (F32, rng.standard_normal((1, 3, 2, 64), np.float32)),
        *((F16, rng.standard_normal((1, 1, 64, 64), np.float32)) for _ in "kv"),
        (F16, np.stack([np.full(64, -np.inf, np.float32), np.zeros(64, np.float32)])[None, None]),
    ]
    ours, theirs = attention(inputs, softcap=0.0, n_threads=1)
    assert ours.tobytes() == theirs.tobytes()
    assert (ours.reshape(2, 3, 64)[0] == 0).all()
    assert (ours.reshape(2, 3, 64)[1] != 0).all()
