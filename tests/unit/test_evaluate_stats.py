"""Intervals and blocks: hand-computed values, coverage, pairing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lacache_app.evaluate.stats import (
    N_BLOCK,
    Blocks,
    average,
    difference,
    mean_of_trials,
    share_closed,
    wilson,
)


def text(n: int, seed: int, mean: float = 3.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, n)


@given(st.integers(1, 5 * N_BLOCK))
def test_blocks_lose_no_token(n: int) -> None:
    values = text(n, n)
    blocks = Blocks.of(values)
    assert blocks.n_tokens == n
    assert blocks.mean == pytest.approx(values.mean())
    again = Blocks.read(blocks.sums.tolist(), n)
    assert again.mean == pytest.approx(blocks.mean)
    with pytest.raises(ValueError, match="do not fit"):
        Blocks.read([*blocks.sums, 1.0], n)


def test_the_mean_of_the_first_tokens_and_the_part_behind_them() -> None:
    values = text(1000, 1)
    blocks = Blocks.of(values)
    assert blocks.mean_to(256) == pytest.approx(values[:256].mean())
    assert blocks.mean_to(1000) == pytest.approx(values.mean())
    assert blocks.part(256).mean == pytest.approx(values[256:].mean())
    assert blocks.part(200).n_tokens == 1000 - 256  # only whole blocks behind it
    assert blocks.part(5000).n_tokens == 0


def test_paired_differences_are_much_surer_than_the_losses() -> None:
    base = text(64 * N_BLOCK, 1)
    noise = text(64 * N_BLOCK, 2, mean=0.0)
    other = base - 0.05 + 0.01 * noise
    wide, narrow = average([Blocks.of(base)]), difference([Blocks.of(other)], [Blocks.of(base)])
    assert narrow.value == pytest.approx((other - base).mean())
    assert narrow.low < narrow.value < narrow.high < 0
    assert narrow.high - narrow.low < (wide.high - wide.low) / 10
    assert difference([Blocks.of(base)], [Blocks.of(base)]).high == 0


def test_intervals_hold_what_they_promise() -> None:
    n_inside = 0
    for seed in range(100):
        interval = average([Blocks.of(text(40 * N_BLOCK, seed))])
        n_inside += interval.low <= 3.0 <= interval.high
    assert 85 <= n_inside <= 100


def test_the_same_numbers_give_the_same_interval() -> None:
    assert average([Blocks.of(text(2000, 3))]) == average([Blocks.of(text(2000, 3))])


def test_share_of_the_distance_is_summed_over_texts() -> None:
    zero, one = [text(20 * N_BLOCK, seed) for seed in (1, 2)], []
    one = [zero[0] - 0.4, zero[1] - 0.1]
    mine = [zero[0] - 0.1, zero[1] - 0.1]
    blocks = [[Blocks.of(x) for x in group] for group in (mine, zero, one)]
    share = share_closed(*blocks)
    assert share.value == pytest.approx(0.2 / 0.5)
    assert share.low <= share.value <= share.high
    assert share_closed(blocks[1], blocks[1], blocks[2]).value == pytest.approx(0)
    assert share_closed(blocks[2], blocks[1], blocks[2]).value == pytest.approx(1)
    assert math.isnan(share_closed(blocks[0], blocks[2], blocks[1]).value)  # the full cache is worse: no distance


def test_texts_that_differ_are_not_compared() -> None:
    with pytest.raises(ValueError, match="different texts"):
        difference([Blocks.of(text(500, 1))], [Blocks.of(text(900, 1))])


def test_one_block_says_nothing_about_its_spread() -> None:
    assert math.isnan(average([Blocks.of(text(100, 1))]).low)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0), (10, 20, 0.2993, 0.7007), (1, 10, 0.0179, 0.4042)],
)
def test_wilson(k: int, n: int, low: float, high: float) -> None:
    interval = wilson(k, n)
    assert (interval.value, interval.low, interval.high) == pytest.approx((k / n, low, high), abs=1e-3)


def test_trials() -> None:
    assert mean_of_trials([1, 0, 1, 1]) == wilson(3, 4)
    parts = mean_of_trials([0.25, 0.5, 1.0, 0.75])
    assert parts.value == pytest.approx(0.625)
    assert 0.25 <= parts.low < parts.value < parts.high <= 1
    assert math.isnan(mean_of_trials([]).value)
    same = mean_of_trials([0.25, 0.25])
    assert same.value == 0.25
    assert same.low < 0.1 < 0.6 < same.high  # two equal trials are no proof
