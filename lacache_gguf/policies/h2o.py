"""H2O: keep the heavy hitters, the cells that attention has leaned on most, and the newest ones.

The idea: a few tokens receive most of the attention, and the ones that received much so far go on receiving it. The
score of a cell is the sum of the attention it got since it came in; half of the room is for the highest sums, half for
the newest cells, which had no time yet to collect any.
Paper: Zhang et al., "H2O: Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models",
arXiv 2306.14048, section 4. Differences: the sum is taken over the newest `n_query` queries before every compaction
(128: all of them while the memory frees at most 128 cells at a time), and a decay just below 1 makes it a moving
average of nearly the same order. Here cells leave in blocks, before more come in.

      2 heads x 16 cells, sums 0 .. 9, n_sink 0, n_recent 8, 4 must become free         # kept   . freed

      head 0   9942285189969659   ##...##.########
      head 1   6737905300217268   ##.##...########
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lacache_gguf.policies.plan import Need
from lacache_gguf.policies.scored import Heads, Scored


@dataclass(frozen=True)
class H2O(Scored):
    """Drop the cells with the smallest sums of attention outside of the recent half; every KV head its own by default.

    n_query  newest queries that vote at a compaction
    decay    per token, below 1; sums, up to a factor, as it comes near 1
    """

    n_sink: int = 0
    heads: Heads = "each"
    n_query: int = 128
    decay: float = 0.99999

    name: ClassVar[str] = "h2o"

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.needs  # refuses what means nothing

    @property
    def needs(self) -> tuple[Need, ...]:
        """What this policy wants to see."""
        return (Need("attention", self.n_query, self.decay),)
