"""How sure a number is: bootstrap over blocks of a text, and Wilson's interval for counts.

Neighbouring tokens are not independent, so what is drawn with replacement are blocks of 128 tokens. Several memories
read the same tokens, so the same blocks are drawn for all of them: differences are paired.
Knows numbers only.

    texts = [Blocks(sums_a, counts), ...]
    difference(texts_a, texts_b)           # Interval(value=-0.031, low=-0.045, high=-0.018), nats per token
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

N_BLOCK = 128
"""Tokens of a block."""
N_RESAMPLES = 2000
SEED = 0
_TAIL = 2.5  # percent on either side: 95 % intervals
_NAN_MOST = 0.01  # resamples in which a statistic may have no value
_Z = 1.959963984540054  # the same for a normal distribution


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; `low` and `high` are nan where there is too little to say."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Blocks:
    """Per-token values of one text as sums over its blocks: float64 [n_blocks], and how many tokens each has."""

    sums: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Blocks:
        """Blocks of per-token values [n]; the last one may be shorter."""
        starts = np.arange(0, len(values), N_BLOCK)
        counts = np.minimum(N_BLOCK, len(values) - starts)
        return cls(np.add.reduceat(np.asarray(values, dtype=np.float64), starts), counts)

    @classmethod
    def read(cls, sums: Sequence[float], n_tokens: int) -> Blocks:
        """From what was stored: sums over blocks of a text of n_tokens."""
        starts = np.arange(0, n_tokens, N_BLOCK)
        if len(sums) != len(starts):
            raise ValueError(f"{len(sums)} blocks do not fit {n_tokens} tokens")
        return cls(np.asarray(sums, dtype=np.float64), np.minimum(N_BLOCK, n_tokens - starts))

    @property
    def n_tokens(self) -> int:
        """Tokens of all blocks."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """Mean per token."""
        return float(self.sums.sum() / self.counts.sum())

    def mean_to(self, n_tokens: int) -> float:
        """Mean of the first tokens, a whole number of blocks or all."""
        n = -(-n_tokens // N_BLOCK)
        return float(self.sums[:n].sum() / self.counts[:n].sum())

    def part(self, first: int) -> Blocks:
        """The blocks that begin at token `first` or later; may be none."""
        n = -(-first // N_BLOCK)
        return Blocks(self.sums[n:], self.counts[n:])

    def means(self, drawn: np.ndarray) -> np.ndarray:
        """Means per token of drawn blocks: intp [n_resamples, n_blocks] -> float64 [n_resamples]."""
        return self.sums[drawn].sum(axis=1) / self.counts[drawn].sum(axis=1)


def bootstrap(groups: Sequence[Sequence[Blocks]], statistic: Callable[[np.ndarray], np.ndarray]) -> Interval:
    """A statistic of several memories on several texts.

    groups     [n_memories][n_texts], the same blocks in every memory
    statistic  float64 [n_memories, n_texts, n] of mean values -> [n]
    """
    n_blocks = [len(blocks.sums) for blocks in groups[0]]
    if any([len(blocks.sums) for blocks in group] != n_blocks for group in groups):
        raise ValueError("the memories have read different texts")
    value = float(statistic(np.array([[[blocks.mean] for blocks in group] for group in groups]))[0])
    if min(n_blocks) < 2:
        return Interval(value, math.nan, math.nan)
    rng = np.random.default_rng(SEED)
    drawn = [rng.integers(0, n, (N_RESAMPLES, n)) for n in n_blocks]
    means = np.array([[blocks.means(d) for blocks, d in zip(group, drawn, strict=True)] for group in groups])
    drawn_values = statistic(means)
    if np.isnan(drawn_values).mean() > _NAN_MOST:
        return Interval(value, math.nan, math.nan)
    low, high = np.nanpercentile(drawn_values, (_TAIL, 100 - _TAIL))
    return Interval(value, float(low), float(high))


def average(texts: Sequence[Blocks]) -> Interval:
    """Mean over texts of the mean per token."""
    return bootstrap([texts], lambda m: m[0].mean(axis=0))


def difference(texts: Sequence[Blocks], baseline: Sequence[Blocks]) -> Interval:
    """Mean over texts of the paired difference per token, negative = smaller than the baseline."""
    return bootstrap([texts, baseline], lambda m: (m[0] - m[1]).mean(axis=0))


def share_closed(texts: Sequence[Blocks], zero: Sequence[Blocks], one: Sequence[Blocks]) -> Interval:
    """How much of the distance from `zero` to `one` is closed, differences summed over all texts: 0 .. 1 and beyond.

    nan where `one` is not below `zero`, for then there is no distance to close.
    """

    def statistic(means: np.ndarray) -> np.ndarray:
        distance = (means[1] - means[2]).sum(axis=0)
        closed = (means[1] - means[0]).sum(axis=0)
        return np.divide(closed, distance, out=np.full_like(closed, np.nan), where=distance > 0)

    return bootstrap([texts, zero, one], statistic)


def wilson(n_right: float, n: int) -> Interval:
    """Share of `n` trials with Wilson's 95 % interval, which is sound for few trials and at 0 and 1."""
    if n == 0:
        return Interval(math.nan, math.nan, math.nan)
    p, z2 = n_right / n, _Z * _Z
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return Interval(p, max(0.0, middle - half), min(1.0, middle + half))


def mean_of_trials(values: Sequence[float]) -> Interval:
    """Mean of independent trials, each 0 .. 1: bootstrap over the trials, but Wilson where all are 0 or 1, and, as a
    wide guess, where all are equal."""
    x = np.asarray(values, dtype=np.float64)
    if len(set(values)) < 2 or np.isin(x, (0.0, 1.0)).all():
        return wilson(float(x.sum()), len(x))
    rng = np.random.default_rng(SEED)
    means = x[rng.integers(0, len(x), (N_RESAMPLES, len(x)))].mean(axis=1)
    low, high = np.percentile(means, (_TAIL, 100 - _TAIL))
    return Interval(float(x.mean()), float(low), float(high))
