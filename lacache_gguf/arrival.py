"""Scores that are taken once, when a cell is new, and that the cell keeps.

KeyDiff needs keys without their rotation, so it must know the position of every key that it compares. Where cells keep
original positions only the newest ones, behind the last gap, have those of the table; so a cell is compared while it is
among them. That costs less, too, and hardly changes what is kept (docs/quality-log.md).

    scores = ArrivalScores(Need("keydiff"), n_layer=30, n_head_kv=3, n_ctx=1024, ask=context.score)
    scores.look(n_cells, n_intact)          # before the plan
    scores.move(plan.keep)                  # after it
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lacache_gguf.policies import Need
from lacache_gguf.scores import Ask, Scores, move_kept


class ArrivalScores(Scores):
    """Scores float32 [n_layer, n_head_kv, n_ctx]; the first `_n_known` cells have one."""

    def __init__(self, need: Need, n_layer: int, n_head_kv: int, n_ctx: int, ask: Ask) -> None:
        self._known = np.zeros((n_layer, n_head_kv, n_ctx), dtype=np.float32)
        super().__init__(need, n_layer, n_head_kv, n_ctx, ask)

    def reset(self) -> None:
        self._n_known = 0

    def look(self, n_cells: int, n_intact: int) -> np.ndarray:
        """New cells are compared with the newest `n_intact` ones."""
        first = n_cells - n_intact
        if self._n_known < n_cells:
            if first > self._n_known:
                raise ValueError(f"cells from {self._n_known} on are new, but those before {first} have gaps")
            self._known[..., self._n_known : n_cells] = self._asked(n_cells, first)[..., self._n_known - first :]
            self._n_known = n_cells
        return self._known[..., :n_cells]

    def move(self, keep: np.ndarray) -> None:
        self._n_known = keep.shape[-1]
        move_kept(self._known, keep)

    def start(self, first: int, end: int) -> None:
        self._n_known = min(self._n_known, first)

    def state(self, n_cells: int) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        return {}, {"arrival": self._known[..., : min(self._n_known, n_cells)].copy()}

    def check(self, n_cells: int, counters: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        known = arrays.get("arrival")
        if known is None:
            raise ValueError(f"it was saved without {self.need.kind} scores of its cells, which this policy needs")
        fits = known.ndim == 3 and known.shape[:2] == self._shape and known.shape[2] <= n_cells
        if known.dtype != np.float32 or not fits or not np.isfinite(known).all():
            raise ValueError(f"{self.need.kind} scores are {known.dtype} {known.shape}, for {n_cells} cells")

    def restore(self, n_cells: int, counters: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self._n_known = arrays["arrival"].shape[2]
        self._known[..., : self._n_known] = arrays["arrival"]
