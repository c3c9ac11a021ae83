"""What is known of the worth of every cell, in the plainest case: nothing between two plans, it is asked for each time.

A memory has one of these for every `Need` of its policy. What more must be known moves with the cells: `votes.py` for
attention, `arrival.py` for what is said of a cell once, when it is new. None knows policies' rules nor where scores
come from.

    scores = Scores(Need("surprise"), n_layer=30, n_head_kv=3, n_ctx=1024, ask=surprise)
    scores.look(n_cells, n_intact)          # before the plan
    scores.move(plan.keep)                  # after it
    scores.start(n_cells, end)              # cells that come in
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lacache_gguf.errors import LacacheError
from lacache_gguf.policies import Need
from lacache_gguf.rows import taken

Ask = Callable[[Need, int], np.ndarray]


class Scores:
    """Scores float32 [n_layer, n_head_kv, n_cells] of the cells of one sequence."""

    def __init__(self, need: Need, n_layer: int, n_head_kv: int, n_ctx: int, ask: Ask) -> None:
        """`ask(need, first)` gives float32 [n_layer, n_head_kv, n_cells - first]; `n_ctx` bounds what is kept of it."""
        self.need, self._ask, self._shape = need, ask, (n_layer, n_head_kv)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""

    def look(self, n_cells: int, n_intact: int) -> np.ndarray:
        """Ask, and take what is said into account: float32 [n_layer, n_head_kv, n_cells], valid until the next call.

        n_intact: the newest cells, of which every layer holds all. Raises LacacheError if a score is no finite number.
        """
        return self._asked(n_cells)

    def move(self, keep: np.ndarray) -> None:
        """The cells `keep` int32 [n_layer, n_kept] or [n_layer, n_head_kv, n_kept] stay, as cells 0 .. n_kept - 1."""

    def start(self, first: int, end: int) -> None:
        """Cells `first` .. `end` - 1 came in: nothing is known of them."""

    def state(self, n_cells: int) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        """(counters, arrays) that `restore` needs; changes nothing, so that a saved engine goes on as before."""
        return {}, {}

    def check(self, n_cells: int, counters: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Raise ValueError unless `restore` can set these."""

    def restore(self, n_cells: int, counters: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Set what `state` gave and `check` has seen."""

    def _asked(self, n_cells: int, first: int = 0) -> np.ndarray:
        """What is said of the cells from `first` on, float32 [n_layer, n_head_kv, n_cells - first]."""
        scores, shape = self._ask(self.need, first), (*self._shape, n_cells - first)
        if scores.shape != shape:
            raise ValueError(f"scores of shape {scores.shape}, not {shape}")
        if not np.isfinite(scores).all():
            raise LacacheError(f"{self.need.kind} scores of this model are no finite numbers; use a policy without")
        return scores


def move_kept(known: np.ndarray, keep: np.ndarray) -> None:
    """Move what is known of the cells `keep`, int32 [n_layer, n_kept] or [n_layer, n_head_kv, n_kept], to the front of
    `known`, [n_layer, n_head_kv, n]."""
    kept = taken(known, keep if keep.ndim == 3 else keep[:, None])
    known[..., : keep.shape[-1]] = kept
