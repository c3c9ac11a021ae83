"""Attention, averaged over time: the last queries vote, older votes fade (`Need.decay`), and a plan moves what is
known along with the cells it keeps.

    votes = Votes(Need("attention", n_query=32, decay=0.999), n_layer=30, n_head_kv=3, n_ctx=1024, ask=context.score)

Cells that came since the last plan start from 0. That is the sum that H2O keeps: a young cell, which fewer queries have
seen, looks worse than it may be. The recent window protects it until the average has caught up: m tokens later it has
reached 1 - decay**m of its worth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lacache_gguf.policies import Need
from lacache_gguf.scores import Ask, Scores, move_kept


class Votes(Scores):
    """Scores float32 [n_layer, n_head_kv, n_ctx]; the first n_cells count."""

    def __init__(
        self,
        need: Need,
        n_layer: int,
        n_head_kv: int,
        n_ctx: int,
        ask: Ask,
        n_votes: Callable[[], int] | None = None,
    ) -> None:
        """`ask(need, 0)` gives float32 [n_layer, n_head_kv, n_cells]; `n_votes()` tells how many queries stand behind
        what it gives (None = always enough). With 0 it is not asked: what was known stands.
        """
        self._count = n_votes or (lambda: need.n_query)
        self._known = np.zeros((n_layer, n_head_kv, n_ctx), dtype=np.float32)
        super().__init__(need, n_layer, n_head_kv, n_ctx, ask)

    def reset(self) -> None:
        self._n_fresh = 0  # tokens that came since somebody looked
        self._votes: np.ndarray | None = None  # float32 [n_layer, n_head_kv, n]: of queries that native code lost
        self._n_votes = 0

    def look(self, n_cells: int, n_intact: int) -> np.ndarray:
        votes, _ = self.votes(n_cells)
        known = self._known[..., :n_cells]
        if votes is not None:
            weight = self.need.decay**self._n_fresh
            known *= weight
            known += (1 - weight) * votes
            self.reset()
        return known

    def votes(self, n_cells: int) -> tuple[np.ndarray | None, int]:
        """(votes float32 [n_layer, n_head_kv, n_cells] since the last look, their number); None, 0 if there are none.

        `n_query` queries count. Those from before a checkpoint, or before cells were taken back, are known only as
        their mean, in which all weigh the same, and newer ones come first; so this equals what an engine would say that
        was never saved, unless some but not all of them were superseded or, spread, some would have stayed.
        """
        n_new = min(self._count(), self.need.n_query)
        votes = self._asked(n_cells) if n_new else None
        n_old = min(self._n_votes, self.need.n_query - n_new)
        if n_old:
            old = np.zeros((*self._shape, n_cells), dtype=np.float32)
            n = min(n_cells, self._votes.shape[-1])
            old[..., :n] = self._votes[..., :n]
            votes = old if votes is None else (n_old * old + n_new * votes) / np.float32(n_old + n_new)
        return votes, n_old + n_new

    def move(self, keep: np.ndarray) -> None:
        move_kept(self._known, keep)

    def start(self, first: int, end: int) -> None:
        self._known[..., first:end] = 0
        self._n_fresh += end - first

    def retract(self, n_cells: int, n_back: int, votes: np.ndarray | None, n_votes: int) -> None:
        """The `n_back` cells from `n_cells` on are gone, and native code forgets all queries; `votes` came before."""
        self._n_fresh = max(0, self._n_fresh - n_back)
        self._votes, self._n_votes = (None, 0) if votes is None else (votes[..., :n_cells].copy(), n_votes)

    def state(self, n_cells: int) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        votes, n_votes = self.votes(n_cells)
        empty = np.empty((*self._shape, 0), dtype=np.float32)
        arrays = {"scores": self._known[..., :n_cells].copy(), "votes": empty if votes is None else votes.copy()}
        return {"n_votes": n_votes, "n_fresh": self._n_fresh}, arrays

    def check(self, n_cells: int, counters: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        n_votes, n_fresh = int(counters.get("n_votes", 0)), int(counters.get("n_fresh", 0))
        wanted = {"scores": n_cells, "votes": n_cells if n_votes else 0}
        for name, n in wanted.items():
            array = arrays.get(name)
            if array is None:
                raise ValueError(f"it was saved without {name} of its cells, which this policy needs")
            if array.dtype != np.float32 or array.shape != (*self._shape, n) or not np.isfinite(array).all():
                raise ValueError(f"{name} are {array.dtype} {array.shape}, not finite float32 {(*self._shape, n)}")
        if not 0 <= n_votes <= self.need.n_query or n_fresh < 0:
            raise ValueError(f"{n_votes} votes of {self.need.n_query}, {n_fresh} new tokens")

    def restore(self, n_cells: int, counters: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        n_votes, self._n_fresh = int(counters.get("n_votes", 0)), int(counters.get("n_fresh", 0))
        self._known[..., :n_cells] = arrays["scores"]
        self._votes, self._n_votes = (arrays["votes"].copy(), n_votes) if n_votes else (None, 0)
