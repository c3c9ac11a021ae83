"""What scored policies share: whose scores count, which cells are out of reach, and dropping the lowest of the rest.

A score says how much a cell is worth keeping: float32 [n_layer, n_head_kv, n_cells], higher = keep. Everything here is
vectorised over layers and heads, and of cells with equal scores the older goes first, so a plan has one answer.
It is no policy itself; `keydiff.py` is the shortest that uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from lacache_gguf.errors import MemoryFull, PolicyError
from lacache_gguf.policies.plan import Need, Plan, View, require_choice, require_int

Heads = Literal["layer", "each"]


@dataclass(frozen=True)
class Scored:
    """Sinks and a recent window stay; the cells between them may go, the lowest scores first.

    n_sink    first cells that never go (the pinned prefix, if longer, replaces them)
    n_recent  newest cells that never go; None = half of the cells in use; 0 acts as 1
    heads     "layer": the heads of a layer keep the same cells, by the mean of their scores; "each": every KV head its
              own, as many as the others
    n_pos     0: what is left is numbered anew, cell i has position i; else keys keep the position of their token until
              so many (at most the trained context) are used up, then all move down, and KeyDiff scores are taken
              once, when a cell is new. No more than the budget acts as 0

    A subclass has a `name`, `needs` and perhaps `ranking`. Raises PolicyError for a setting that is impossible for
    every model; `check` knows the budget.
    """

    n_sink: int = 4
    n_recent: int | None = None
    heads: Heads = "layer"
    n_pos: int = 0

    name: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]] = ()

    def __post_init__(self) -> None:
        require_int(self.name, "n_sink", self.n_sink, 0)
        if self.n_recent is not None:
            require_int(self.name, "n_recent", self.n_recent, 0)
        require_choice(self.name, "heads", self.heads, get_args(Heads))
        require_int(self.name, "n_pos", self.n_pos, 0)

    @property
    def is_per_head(self) -> bool:
        """True if every KV head keeps cells of its own."""
        return self.heads == "each"

    def recent(self, n_cells: int) -> int:
        """Newest of `n_cells` cells that never go, >= 1."""
        return max(1, n_cells // 2 if self.n_recent is None else self.n_recent)

    def ranking(self, view: View) -> np.ndarray:
        """float32 [n_layer, n_rows, n_cells]: what decides, higher = keep; n_rows is 1 or n_head_kv."""
        return scores_of(view, self.needs[0], self.heads)

    def plan(self, view: View) -> Plan:
        """Drop the `view.n_free` lowest cells between sinks and recent ones. Raises MemoryFull if fewer can go."""
        if view.n_free > self.n_free_max(view.n_layer, view.n_cells, view.n_pinned):
            raise MemoryFull(self._full_text(view))
        first, last = max(self.n_sink, view.n_pinned), view.n_cells - self.recent(view.n_cells)
        goes = np.zeros((view.n_layer, view.n_head_kv if self.is_per_head else 1, view.n_cells), dtype=bool)
        goes[..., first:last] = lowest(self.ranking(view)[..., first:last], view.n_free)
        kept = np.flatnonzero(~goes).reshape(*goes.shape[:2], -1)
        return as_plan((kept % view.n_cells).astype(np.int32), self.is_per_head)

    def check(self, n_layer: int, n_ctx: int, n_pinned: int = 0) -> None:
        """Raise PolicyError if nothing could go in this budget."""
        if self.n_free_max(n_layer, n_ctx, n_pinned) < 1:
            first, least = max(self.n_sink, n_pinned), self._n_least(max(self.n_sink, n_pinned))
            raise PolicyError(
                f"{self.name}: {first} sink or pinned cells + {self.recent(n_ctx)} recent cells leave no room to thin "
                f"in a budget of {n_ctx} cells; raise --ctx-size/--kv-budget to {least} or more, lower n_recent or "
                "n_sink, or shorten the system prompt"
            )

    def n_free_max(self, n_layer: int, n_cells: int, n_pinned: int = 0) -> int:
        """Everything between the sinks and the recent cells."""
        return max(0, n_cells - max(self.n_sink, n_pinned) - self.recent(n_cells))

    _n_between: ClassVar[int] = 1  # cells between sinks and recent ones without which nothing can go

    def _n_least(self, n_first: int) -> int:
        """The smallest budget of which anything can go."""
        n_ctx = n_first + self._n_between
        while n_ctx - n_first - self.recent(n_ctx) < self._n_between:
            n_ctx += 1
        return n_ctx

    def _full_text(self, view: View) -> str:
        n_max = self.n_free_max(view.n_layer, view.n_cells, view.n_pinned)
        return (
            f"{self.name} can free {n_max} of {view.n_cells} cells ({max(self.n_sink, view.n_pinned)} sink or pinned "
            f"and {self.recent(view.n_cells)} recent cells stay), but {view.n_free} are needed; raise "
            "--ctx-size/--kv-budget, lower n_recent, shorten the system prompt or feed fewer tokens at once"
        )


def scores_of(view: View, need: Need, heads: Heads) -> np.ndarray:
    """float32 [n_layer, 1 or n_head_kv, n_cells]: the mean over the heads of every layer, or each head's own.

    Raises ValueError if the view has no such scores: the caller's mistake, not the user's.
    """
    if need.kind not in view.scores:
        raise ValueError(f"{need.kind} scores are needed, and this view has none")
    scores = view.scores[need.kind]
    return scores if heads == "each" else scores.mean(axis=1, keepdims=True)


def lowest(scores: np.ndarray, n_drop: int) -> np.ndarray:
    """bool, the shape of `scores` [..., n]: the `n_drop` lowest along the last axis, of equal ones the first.

    A partition finds the highest score that goes; that is several times faster than to sort them all.
    """
    if not 0 < n_drop < scores.shape[-1]:
        return np.full(scores.shape, n_drop > 0)
    limit = np.partition(scores, n_drop - 1, axis=-1)[..., n_drop - 1, None]
    goes, is_limit = scores < limit, scores == limit
    n_more = n_drop - goes.sum(axis=-1, keepdims=True)
    return goes | (is_limit & (is_limit.cumsum(axis=-1) <= n_more))


def as_plan(keep: np.ndarray, is_per_head: bool, cursor: int = 0, sweep: int = 0) -> Plan:
    """`keep` int32 [n_layer, n_rows, n_kept] as the plan of a policy whose rows are layers or (layer, head) pairs."""
    return Plan(np.ascontiguousarray(keep if is_per_head else keep[:, 0]), cursor, sweep)
