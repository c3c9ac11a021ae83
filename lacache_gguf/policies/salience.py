"""Salience: keep what stands out, by its key, by the attention it gets and by how little the model expected it.

The idea: three signs say that a token will be needed, and each misses what another one sees. A key unlike the others
can be picked out by a later query (KeyDiff). What was attended to lately is attended to again. And a token that the
model could foretell adds nothing to what the memory holds, while a surprising one (a name, a number, a turn) is what it
cannot restore: the loss is known anyway wherever a next token is predicted. The signs have no common unit, so each
ranks the cells and the ranks are added, attention's and surprise's twice. What stands out most would stay for ever, and
after many thousand tokens the memory would be full of it, so a cell loses a rank with every four tokens. Every KV head
keeps cells of its own between the sinks and a recent window of a quarter of the cells.
Sources: KeyDiff, arXiv 2504.15364, section 3; averaged attention, Cascading KV cache, arXiv 2406.17808, section 3; the
rest is measured in docs/quality-log.md.

      2 heads x 16 cells, ranks added up, as digits, n_sink 2, n_recent 4, 5 must become free     # kept   . freed

      head 0   9942285189969659   ##...#..########
      head 1   6737905300217268   #####.##....####
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lacache_gguf.errors import PolicyError
from lacache_gguf.policies.plan import Need, View
from lacache_gguf.policies.scored import Heads, Scored, scores_of

_N_AT_ONCE = 1 << 15  # cells that are ranked at a time: what is written for them stays in the processor's cache


@dataclass(frozen=True)
class Salience(Scored):
    """Drop the cells whose ranks add up to least; every KV head its own by default.

    n_recent                    newest cells that never go; None = a quarter of the cells in use
    keydiff, attention,         weights of the three ranks, >= 0; one of 0 is never asked for
    surprise
    fade                        ranks that a cell loses with every token that is fed after its own, >= 0; not all are 0
    n_query, decay              of the attention score, see `Need`
    """

    heads: Heads = "each"
    n_pos: int = 1024
    keydiff: float = 1.0
    attention: float = 2.0
    surprise: float = 2.0
    fade: float = 0.25
    n_query: int = 16
    decay: float = 0.997

    name: ClassVar[str] = "salience"

    def __post_init__(self) -> None:
        super().__post_init__()
        weights = {name: getattr(self, name) for name in ("keydiff", "attention", "surprise", "fade")}
        for name, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < np.inf:
                raise PolicyError(f"{self.name}: the weight {name} must be a number of at least 0, got {weight!r}")
        if not any(weights.values()):
            raise PolicyError(f"{self.name}: all weights are 0; give one of {', '.join(weights)} a higher one")
        Need("attention", self.n_query, self.decay)  # refuses what means nothing

    @property
    def needs(self) -> tuple[Need, ...]:  # type: ignore[override]
        """What this policy wants to see: what has a weight."""
        signs = (Need("keydiff", once=True), Need("attention", self.n_query, self.decay, spread=True), Need("surprise"))
        return tuple(need for need in signs if getattr(self, need.kind)) + (Need("age"),) * (self.fade > 0)

    def recent(self, n_cells: int) -> int:
        """Newest of `n_cells` cells that never go, >= 1."""
        return max(1, n_cells // 4 if self.n_recent is None else self.n_recent)

    def ranking(self, view: View) -> np.ndarray:
        """float32 [n_layer, 1 or n_head_kv, n_cells]: weighted ranks, each from 0 to n_cells - 1, less the age."""
        total = np.zeros((view.n_layer, view.n_head_kv if self.is_per_head else 1, view.n_cells), dtype=np.float32)
        for need in self.needs:
            scores = scores_of(view, need, self.heads)
            if need.kind == "age":
                total += np.float32(self.fade) * scores
            else:
                total += np.float32(getattr(self, need.kind)) * ranks(scores)
        return total


def ranks(scores: np.ndarray) -> np.ndarray:
    """float32, the shape of `scores` float32 [..., n]: how many of its row are lower; an earlier equal one is.

    A float's bits, but for the sign, are in the order of the floats; with the place below them every number is another,
    and numpy sorts whole numbers several times faster than it finds the order of floats.
    """
    n = scores.shape[-1]
    rows = scores.reshape(-1, n)
    result = np.empty(rows.shape, dtype=np.float32)
    order, n_rows = np.arange(n, dtype=np.float32), max(1, _N_AT_ONCE // n)
    place = np.arange(min(n_rows, len(rows)) * n).reshape(-1, n)
    for first in range(0, len(rows), n_rows):
        part = rows[first : first + n_rows]
        bits = (part + np.float32(0)).view(np.int32)  # + 0: there is no -0 any more
        bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
        keys = bits.astype(np.int64)
        keys <<= 32
        keys |= place[: len(part)]
        keys.sort(axis=-1)
        keys &= 0xFFFFFFFF
        result[first : first + n_rows].reshape(-1)[keys] = order
    return result.reshape(scores.shape)
