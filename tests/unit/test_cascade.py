"""The cascade against the published one, token by token and in blocks."""

from __future__ import annotations

import doctest
import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import cascade_oracle as oracle

from lacache_gguf import policies
from lacache_gguf.policies import Cascade, View

SEEDS = st.integers(0, 2**32 - 1)


def stream(policy: Cascade, n_head: int, n_ctx: int, n_tokens: int, n_block: int, worth: np.ndarray) -> np.ndarray:
    """Feed token numbers in blocks through a memory of n_ctx cells: int [n_head, n_cells] of one layer, the tokens held
    before the last block came in. worth: float32 [n_head, n_tokens], the score that a token always has."""
    held = np.empty((n_head, 0), dtype=np.int64)
    cursor = sweep = 0
    for first in range(0, n_tokens, n_block):
        block = np.arange(first, min(first + n_block, n_tokens))
        n_free = held.shape[1] + len(block) - n_ctx
        if n_free > 0:
            scores = np.take_along_axis(worth, held, axis=1)[None]
            plan = policy.plan(
                View(
                    1,
                    held.shape[1],
                    n_free,
                    cursor=cursor,
                    sweep=sweep,
                    n_head_kv=n_head,
                    scores={"attention": scores},
                )
            )
            cursor, sweep = plan.cursor, plan.sweep
            keep = np.broadcast_to(plan.keep.reshape(-1, plan.n_kept), (n_head, plan.n_kept))
            held = np.take_along_axis(held, keep, axis=1)
        held = np.hstack([held, np.tile(block, (n_head, 1))])
    return held


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(1, 5), st.integers(0, 6), st.integers(1, 3), st.integers(0, 30), st.sampled_from([1, 3, 1000]), SEEDS
)
def test_token_by_token_it_is_the_published_one(n_cascade, n_sink, n_head, n_more, n_kinds, seed):
    """The last token that was fed has not been put in yet: it is cell n_ctx - 1, which the paper has beside the cache.

    Of a capacity that does not divide, the newer sub-caches have one cell more; the published one cannot have that.
    """
    capacity, n_tokens = n_cascade + n_more, 200
    policy = Cascade(n_cascade, n_sink)
    worth = np.random.default_rng(seed).integers(0, n_kinds, (n_head, n_tokens)).astype(np.float32)
    held = stream(policy, n_head, n_sink + capacity + 1, n_tokens, 1, worth)
    for row, scores in zip(held.tolist(), worth.tolist(), strict=True):
        published = oracle.Cascade(n_sink, oracle.equal_parts(capacity, n_cascade))
        for token in range(n_tokens - 1):
            published.put(token, dict(enumerate(scores)))
        assert row == [*published.tokens(), n_tokens - 1]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 4), st.integers(0, 6), st.integers(1, 12), st.integers(1, 6), SEEDS)
def test_in_equal_blocks_it_is_the_published_one_too(n_cascade, n_sink, n_block, n_blocks, seed):
    """If scores do not change meanwhile: the tokens of a block are put in one by one before the next comes."""
    n_ctx = n_block * n_blocks
    while n_ctx < n_sink + n_cascade + n_block:
        n_ctx += n_block  # the memory fills to its last cell, so that every plan frees one block
    n_tokens = n_ctx + n_block * 30
    worth = np.random.default_rng(seed).random((2, n_tokens), dtype=np.float32)
    held = stream(Cascade(n_cascade, n_sink), 2, n_ctx, n_tokens, n_block, worth)
    n_put = n_tokens - n_block
    for row, scores in zip(held.tolist(), worth.tolist(), strict=True):
        published = oracle.Cascade(n_sink, oracle.equal_parts(n_ctx - n_block - n_sink, n_cascade))
        for token in range(n_put):
            published.put(token, dict(enumerate(scores)))
        assert row == [*published.tokens(), *range(n_put, n_tokens)]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.integers(1, 6),
    st.integers(0, 9),
    st.sampled_from(["layer", "each"]),
    st.integers(0, 12),
    st.integers(1, 80),
    st.integers(0, 100),
    st.integers(0, 300),
    st.sampled_from([1, 3, 1000]),
    SEEDS,
    st.data(),
)
def test_equals_the_oracle(n_cascade, n_sink, heads, n_pinned, n_more, cursor, sweep, n_kinds, seed, data):
    policy = Cascade(n_cascade, n_sink, heads)
    n_cells = max(n_sink, n_pinned) + n_cascade + n_more
    n_free = data.draw(st.integers(1, policy.n_free_max(2, n_cells, n_pinned)))
    scores = np.random.default_rng(seed).integers(0, n_kinds, (2, 2, n_cells)).astype(np.float32)
    plan = policy.plan(View(2, n_cells, n_free, n_pinned, cursor, sweep, n_head_kv=2, scores={"attention": scores}))
    known = {"n_free": n_free, "n_first": max(n_sink, n_pinned), "n_cascade": n_cascade}
    rows = scores.reshape(4, -1) if heads == "each" else scores.mean(axis=1)
    answers = [oracle.replan(row, **known, cursor=cursor, sweep=sweep) for row in rows.tolist()]
    assert plan.keep.reshape(len(rows), -1).tolist() == [kept for kept, *_ in answers]
    assert {(plan.cursor, plan.sweep)} == {(at, n) for _, at, n in answers}


def test_picture_in_the_docstring_is_what_is_held():
    worth = np.zeros((1, 67), dtype=np.float32)
    held = stream(Cascade(n_cascade=3, n_sink=2), 1, 15, 67, 1, worth)[0].tolist()
    assert held[-1] == 66  # on its way in
    line = "".join("#" if token in held[:-1] else "." for token in range(30, 66))
    assert re.findall(r"all scores equal   ([#.]{36})", policies.cascade.__doc__) == [line]


def test_examples_of_the_oracle_run():
    assert doctest.testmod(oracle).attempted > doctest.testmod(oracle).failed == 0
