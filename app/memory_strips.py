"""The arithmetic of the memory map: which share of every stretch of the text the layers hold.

What it is: pure functions of `held`, int32 [n_rows or n_distinct, n_cells], the position of what is in every cell; rows
ascend. A row is a layer, or a KV head of a layer where every head keeps cells of its own.
What it does not know: engines, threads, time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

N_BINS_OVERVIEW = 384
"""Most bins of the strip that shows everything seen; their size is a power of two, so they rarely change."""
N_BINS_RECENT = 512
"""Most bins of the strip that shows the newest `RECENT_BUDGETS` x n_ctx tokens."""
RECENT_BUDGETS = 2
N_ROWS = 12
"""Most rows of a strip. Where more of them would differ, neighbouring layers share one: their mean."""


@dataclass(frozen=True, eq=False)
class Strip:
    """A stretch of what was seen, in bins of equal size counted from token 0 on: bin k starts at token
    first + k * bin_size, and `first` is a multiple of bin_size. The last bin may be shorter.

    rows    uint8 [n_rows, n_bins]: 0 = the layers of this row hold nothing of the bin, 255 = all of it; n_rows is
            at most `N_ROWS`, however many layers and heads there are
    row_of  intp [n_layer]: the row of every layer
    """

    first: int
    last: int
    bin_size: int
    rows: np.ndarray
    row_of: np.ndarray

    @property
    def share(self) -> np.ndarray:
        """uint8 [n_layer, n_bins]"""
        return self.rows[self.row_of]

    @property
    def n_bins(self) -> int:
        """Columns of `share`."""
        return self.rows.shape[1]


def distinct_rows(held: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the different rows of `held` as a copy, read-only [n_distinct, n_cells]; which one every row is [n_rows])."""
    found: dict[int, list[int]] = {}  # sum of a row -> numbers of rows with that sum
    layers: list[int] = []  # first layer that has the row
    row_of = np.empty(len(held), dtype=np.intp)
    for il, key in enumerate(held.sum(axis=1, dtype=np.int64).tolist()):
        same = found.setdefault(key, [])
        row = next((i for i in same if np.array_equal(held[layers[i]], held[il])), None)
        if row is None:
            row = len(layers)
            same.append(row)
            layers.append(il)
        row_of[il] = row
    rows = held[layers]
    rows.flags.writeable = False
    return rows, row_of


def overview_bin_size(n_seen: int) -> int:
    """The smallest power of two with which `n_seen` tokens fit into `N_BINS_OVERVIEW` bins."""
    return 1 << max(0, -(-n_seen // N_BINS_OVERVIEW) - 1).bit_length()


def recent_strip(held: np.ndarray, rows_of: np.ndarray, n_seen: int, n_ctx: int) -> Strip:
    """The newest tokens, twice as many as the memory has cells."""
    n_tokens = RECENT_BUDGETS * n_ctx
    bin_size = -(-n_tokens // N_BINS_RECENT)
    first = max(0, -(-(n_seen - n_tokens) // bin_size) * bin_size)
    return strip(held, rows_of, first, n_seen, bin_size)


def strip(held: np.ndarray, rows_of: np.ndarray, first: int, last: int, bin_size: int) -> Strip:
    """What the layers hold of tokens first .. last - 1; `first` is a multiple of `bin_size`.

    rows_of: intp [n_layer, n_head], the row of `held` of every head, n_head 1 where the heads of a layer go together.
    A layer holds the mean of what its heads hold; see `N_ROWS` for more.
    """
    edges = np.append(np.arange(first, last, bin_size, dtype=np.int32), np.int32(last))
    sizes = np.diff(edges)
    counts = np.empty((len(held), len(sizes)), dtype=np.int64)
    for row, to in zip(held, counts, strict=True):
        to[:] = np.diff(np.searchsorted(row, edges))
    row_of = rows_of[:, 0]
    if len(held) > N_ROWS or (rows_of != row_of[:, None]).any():
        n_layer, n_head = rows_of.shape
        n_together = -(-n_layer // N_ROWS)
        starts = np.arange(0, n_layer, n_together)
        counts = np.add.reduceat(counts[rows_of].sum(axis=1), starts)
        sizes = np.diff(starts, append=n_layer)[:, None] * n_head * sizes
        row_of = np.arange(n_layer) // n_together
    share = -(-255 * counts // np.maximum(sizes, 1))  # rounded up: a trace is never shown as nothing
    share = np.where(counts < sizes, np.minimum(share, 254), share).astype(np.uint8)  # ... nor a gap as all
    share.flags.writeable = False
    return Strip(first, last, bin_size, share, row_of)


def whole_ends(held: np.ndarray, n_seen: int) -> tuple[int, int]:
    """(first tokens, newest tokens) that every layer holds without a gap."""
    n_cells = held.shape[1]
    if n_cells == 0:
        return 0, 0
    n_first = int(_n_up_to(held, 0).min())
    n_newest = n_cells - int(_n_up_to(held, n_seen - n_cells - 1).max())
    return n_first, n_newest


def _n_up_to(held: np.ndarray, n_missing: int) -> np.ndarray:
    """int64 [n_layer]: leading cells before which at most `n_missing` tokens are missing. held[i] - i, the number of
    tokens missing before cell i, never falls along a row, so a bisection in all rows at once finds it."""
    n_layer, n_cells = held.shape
    low, high = np.zeros(n_layer, dtype=np.int64), np.full(n_layer, n_cells, dtype=np.int64)
    rows = np.arange(n_layer)
    while (low < high).any():
        middle = (low + high) // 2
        is_in = (held[rows, np.minimum(middle, n_cells - 1)] - middle <= n_missing) & (low < high)
        low, high = np.where(is_in, middle + 1, low), np.where(is_in, high, middle)
        high = np.maximum(low, high)
    return low


def n_traced(held: np.ndarray, n_seen: int) -> int:
    """Tokens that at least one layer holds."""
    is_held = np.zeros(n_seen, dtype=bool)
    is_held[held.ravel()] = True
    return int(np.count_nonzero(is_held))
