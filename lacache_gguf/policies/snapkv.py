"""SnapKV: the newest queries show what will be needed; neighbours of what they look at stay with it.

The idea: what the last few queries of a prompt attend to is what the answer attends to. The newest `n_query` queries
vote; every cell gets the highest vote among its neighbours, so that words stay whole; the cells with the lowest go. The
observation window, the cells of those queries, stays.
Paper: Li et al., "SnapKV: LLM Knows What You are Looking for Before Generation", arXiv 2404.14469, section 4.
Differences: there it happens once, after a prompt that ends with the question; here whenever room is needed, so while
a text is read the "question" is only the text itself.

      2 heads x 16 cells, votes 0 .. 9, n_recent 4, pooled over 3, 5 must become free         # kept   . freed

      head 0   9942285189969659   ###.....########
      head 1   6737905300217268   ######.#....####
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lacache_gguf.errors import PolicyError
from lacache_gguf.policies.plan import Need, View, require_int
from lacache_gguf.policies.scored import Heads, Scored


@dataclass(frozen=True)
class SnapKV(Scored):
    """Drop the cells with the lowest pooled votes before the observation window; every KV head its own by default.

    n_query  newest queries that vote; `n_recent` is the window that stays, as long by default
    n_pool   an odd number: a cell counts as its best of so many neighbours, itself in the middle; 1 = no pooling
    """

    n_sink: int = 0
    n_recent: int | None = 32
    heads: Heads = "each"
    n_query: int = 32
    n_pool: int = 7

    name: ClassVar[str] = "snapkv"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_int(self.name, "n_pool", self.n_pool, 1)
        if self.n_pool % 2 == 0:
            raise PolicyError(f"{self.name}: n_pool must be odd, got {self.n_pool}")
        _ = self.needs  # refuses what means nothing

    @property
    def needs(self) -> tuple[Need, ...]:
        """What this policy wants to see."""
        return (Need("attention", self.n_query),)

    def ranking(self, view: View) -> np.ndarray:
        """float32 [n_layer, 1 or n_head_kv, n_cells]: votes, pooled outside of the window that stays."""
        votes, half = super().ranking(view), self.n_pool // 2
        n = view.n_cells - self.recent(view.n_cells)
        padded = np.pad(votes[..., :n], ((0, 0), (0, 0), (half, half)), constant_values=-np.inf)
        best = padded[..., :n]
        for shift in range(1, self.n_pool):
            best = np.maximum(best, padded[..., shift : shift + n])
        return np.concatenate([best, votes[..., n:]], axis=-1)
