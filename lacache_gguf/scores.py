"""What is known of the worth of every cell: asks for scores, averages them over time, and moves with the cells.

A position-only policy has none of this; scores of keys and surprise are asked for anew each time. Attention is more:
the newest queries vote, older votes fade (`Need.decay`), cells that came since the last compaction start from 0, and a
plan moves what is known along with the cells it keeps. It knows neither policies' rules nor where scores come from.

    scores = Scores(Need("attention", n_query=32, decay=0.999), n_layer=30, n_head_kv=3, n_ctx=1024, ask=context.score)
    scores.look(n_cells)          # before the plan
    scores.move(plan.keep)        # after it
    scores.start(n_cells, end)    # cells that come in

Starting from 0 is the sum that H2O keeps: a young cell, which fewer queries have seen, looks worse than it may be. The
recent window protects it until the average has caught up: m tokens later it has reached 1 - decay**m of its worth.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lacache_gguf.errors import LacacheError
from lacache_gguf.policies import Need


class Scores:
    """Scores float32 [n_layer, n_head_kv, n_ctx] of the cells of one sequence; the first n_cells count."""

    def __init__(
        self,
        need: Need,
        n_layer: int,
        n_head_kv: int,
        n_ctx: int,
        ask: Callable[[Need, int], np.ndarray],
        n_votes: Callable[[], int] | None = None,
    ) -> None:
        """`ask(need, 0)` gives float32 [n_layer, n_head_kv, n_cells]; `n_votes()` tells how many queries stand behind
        what it gives (attention only; None = always enough). With 0 it is not asked: what was known stands.
        """
        self.need = need
        self._ask, self._count = ask, n_votes or (lambda: need.n_query)
        self._is_kept = need.kind == "attention"
        self._shape = (n_layer, n_head_kv)
        self._known = np.zeros((n_layer, n_head_kv, n_ctx if self._is_kept else 0), dtype=np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._n_fresh = 0  # tokens that came since somebody looked
        self._votes: np.ndarray | None = None  # float32 [n_layer, n_head_kv, n]: of queries that native code lost
        self._n_votes = 0

    def look(self, n_cells: int) -> np.ndarray:
        """Ask, and take what is said into account: float32 [n_layer, n_head_kv, n_cells], valid until the next call.

        Raises LacacheError if a score is no finite number.
        """
        if not self._is_kept:
            return self._asked(n_cells)
        votes, _ = self.votes(n_cells)
        known = self._known[..., :n_cells]
        if votes is not None:
            weight = self.need.decay**self._n_fresh
            known *= weight
            known += (1 - weight) * votes
            self.reset()
        return known

    def move(self, keep: np.ndarray) -> None:
        """The cells `keep` int32 [n_layer, n_kept] or [n_layer, n_head_kv, n_kept] stay, as cells 0 .. n_kept - 1."""
        if self._is_kept:
            move_kept(self._known, keep)

    def retract(self, n_cells: int, n_back: int, votes: np.ndarray | None, n_votes: int) -> None:
        """The `n_back` cells from `n_cells` on are gone, and native code forgets all queries; `votes` came before."""
        self._n_fresh = max(0, self._n_fresh - n_back)
        self._votes, self._n_votes = (None, 0) if votes is None else (votes[..., :n_cells].copy(), n_votes)

    def start(self, first: int, end: int) -> None:
        """Cells `first` .. `end` - 1 came in: nothing is known of them."""
        self._known[..., first:end] = 0
        self._n_fresh += end - first

    def _asked(self, n_cells: int) -> np.ndarray:
        return asked(self._ask, self.need, (*self._shape, n_cells))

    def votes(self, n_cells: int) -> tuple[np.ndarray | None, int]:
        """(votes float32 [n_layer, n_head_kv, n_cells] since the last look, their number); None, 0 if there are none.

        The newest `n_query` queries count. Those from before a checkpoint, or before cells were taken back, are known
        only as their mean, in which all weigh the same, so this equals what an engine would say that was never saved,
        unless some but not all of them were superseded.
        """
        if not self._is_kept:
            return None, 0
        n_new = min(self._count(), self.need.n_query)
        votes = self._asked(n_cells) if n_new else None
        n_old = min(self._n_votes, self.need.n_query - n_new)
        if n_old:
            old = np.zeros((*self._shape, n_cells), dtype=np.float32)
            n = min(n_cells, self._votes.shape[-1])
            old[..., :n] = self._votes[..., :n]
            votes = old if votes is None else (n_old * old + n_new * votes) / np.float32(n_old + n_new)
        return votes, n_old + n_new

    def state(self, n_cells: int) -> tuple[dict[str, int], dict[str, np.ndarray]]:
        """(counters, arrays) that `restore` needs; changes nothing, so that a saved engine goes on as before."""
        if not self._is_kept:
            return {}, {}
        votes, n_votes = self.votes(n_cells)
        empty = np.empty((*self._shape, 0), dtype=np.float32)
        arrays = {"scores": self._known[..., :n_cells].copy(), "votes": empty if votes is None else votes.copy()}
        return {"n_votes": n_votes, "n_fresh": self._n_fresh}, arrays

    def check(self, n_cells: int, counters: dict[str, int | float], arrays: dict[str, np.ndarray]) -> None:
        """Raise ValueError unless `restore` can set these."""
        if not self._is_kept:
            return
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

    def restore(self, n_cells: int, counters: dict[str, int | float], arrays: dict[str, np.ndarray]) -> None:
        """Set what `state` gave. Raises ValueError, changing nothing, if it cannot be."""
        self.check(n_cells, counters, arrays)
        self.reset()
        n_votes, self._n_fresh = int(counters.get("n_votes", 0)), int(counters.get("n_fresh", 0))
        if self._is_kept:
            self._known[..., :n_cells] = arrays["scores"]
            self._votes, self._n_votes = (arrays["votes"].copy(), n_votes) if n_votes else (None, 0)


def asked(
    ask: Callable[[Need, int], np.ndarray], need: Need, shape: tuple[int, int, int], first: int = 0
) -> np.ndarray:
    """What `ask(need, first)` says of the cells from `first` on, float32 `shape`. Raises LacacheError if a score is no
    finite number."""
    scores = ask(need, first)
    if scores.shape != shape:
        raise ValueError(f"scores of shape {scores.shape}, not {shape}")
    if not np.isfinite(scores).all():
        raise LacacheError(f"{need.kind} scores of this model are no finite numbers; use a policy without")
    return scores


def move_kept(known: np.ndarray, keep: np.ndarray) -> None:
    """Move what is known of the cells `keep`, int32 [n_layer, n_kept] or [n_layer, n_head_kv, n_kept], to the front of
    `known`, [n_layer, n_head_kv, n]."""
    rows = keep if keep.ndim == 3 else keep[:, None]
    known[..., : rows.shape[-1]] = np.take_along_axis(known, rows, axis=-1)
