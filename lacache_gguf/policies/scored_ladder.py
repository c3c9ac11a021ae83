"""ScoredLadder: the ladder says where and when to thin, a score says which cells survive.

The idea: the ladder's cursor sweeps from the sinks towards the recent window and thins rung after rung, so old text
fades step by step and every part of it keeps its share of the room. Only the choice inside a rung is not fixed by the
layer's number: of `n_src` neighbouring cells the `n_dst` with the highest scores survive, in every layer (or KV head)
its own. A policy that compares all cells at once can forget a whole passage; this one cannot before its next sweep.
Sources: the sweep is that of LaCache (arXiv 2507.14204, section 3.3; `ladder.py`); the scores are KeyDiff's
(arXiv 2504.15364, section 3) or the attention of the newest queries (TOVA, arXiv 2401.06104; H2O, arXiv 2306.14048).

      2 layers x 16 cells, scores 0 .. 9, n_sink 2, n_recent 4, rungs of 2 keep 1, 5 must become free
                                                                                          # kept   . freed
      layer 0   9942285189969659   ###..##..##.####
      layer 1   6737905300217268   ##.##.#..##.####
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np

from lacache_gguf.errors import MemoryFull, PolicyError
from lacache_gguf.policies.plan import Need, Plan, ScoreKind, View, require_choice, require_int
from lacache_gguf.policies.scored import Scored, as_plan, scores_of


@dataclass(frozen=True)
class ScoredLadder(Scored):
    """Thin the cells between the sinks and the recent window, rung by rung; the higher scores survive.

    n_src, n_dst     a rung of n_src neighbouring cells keeps n_dst, 1 <= n_dst < n_src
    score            "keydiff" or "attention"
    n_query, decay   of the attention score, see `Need`; without meaning for keydiff
    """

    n_src: int = 2
    n_dst: int = 1
    score: ScoreKind = "keydiff"
    n_query: int = 32
    decay: float = 0.0

    name: ClassVar[str] = "scored_ladder"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_int(self.name, "n_dst", self.n_dst, 1)
        require_int(self.name, "n_src", self.n_src, 2)
        if self.n_dst >= self.n_src:
            raise PolicyError(f"{self.name}: a rung of {self.n_src} that keeps {self.n_dst} frees nothing")
        require_choice(self.name, "score", self.score, get_args(ScoreKind))
        Need("attention", self.n_query, self.decay)  # refuses what means nothing

    @property
    def needs(self) -> tuple[Need, ...]:
        """What this policy wants to see."""
        return (Need("attention", self.n_query, self.decay) if self.score == "attention" else Need(self.score),)

    def plan(self, view: View) -> Plan:
        """Thin as few rungs as free `view.n_free` cells, from the cursor on. Raises MemoryFull if no rung is left."""
        if view.n_free > self.n_free_max(view.n_layer, view.n_cells, view.n_pinned):
            raise MemoryFull(self._full_text(view))
        first, recent = max(self.n_sink, view.n_pinned), self.recent(view.n_cells)
        cursor, sweep = max(view.cursor, first), view.sweep
        scores = scores_of(view, self.needs[0], self.heads)  # [n_layer, n_rows, cells left], as `keep`
        keep = np.broadcast_to(np.arange(view.n_cells, dtype=np.int32), scores.shape)
        n_rungs = -(-view.n_free // (self.n_src - self.n_dst))
        while n_rungs > 0:
            n_now = min(n_rungs, (keep.shape[-1] - recent - cursor) // self.n_src)
            if n_now < 1:
                cursor, sweep = first, sweep + 1
                continue
            survives = survivors(scores, cursor, n_now, self.n_src, self.n_dst)
            keep, scores = (a[survives].reshape(*a.shape[:2], -1) for a in (keep, scores))
            cursor += n_now * self.n_dst
            n_rungs -= n_now
        return as_plan(keep, self.is_per_head, cursor, sweep)

    def n_free_max(self, n_layer: int, n_cells: int, n_pinned: int = 0) -> int:
        """Cells freed when rungs are thinned until no whole one is left."""
        n_between, n_freed = super().n_free_max(n_layer, n_cells, n_pinned), self.n_src - self.n_dst
        return 0 if n_between < self.n_src else ((n_between - self.n_src) // n_freed + 1) * n_freed

    @property
    def _n_between(self) -> int:  # type: ignore[override]
        return self.n_src


def survivors(scores: np.ndarray, cursor: int, n_rungs: int, n_src: int, n_dst: int) -> np.ndarray:
    """bool, the shape of `scores` [n_layer, n_rows, n_cells]: True outside of the `n_rungs` rungs from `cursor` on and
    for the `n_dst` highest of the n_src cells of each; of equal ones the newest survive."""
    end = cursor + n_rungs * n_src
    rungs = scores[..., cursor:end].reshape(*scores.shape[:-1], n_rungs, n_src)
    best = np.argsort(rungs, axis=-1, kind="stable")[..., n_src - n_dst :]
    survives = np.ones(scores.shape, dtype=bool)
    of_rungs = np.zeros(rungs.shape, dtype=bool)
    np.put_along_axis(of_rungs, best, True, axis=-1)
    survives[..., cursor:end] = of_rungs.reshape(*scores.shape[:-1], -1)
    return survives
