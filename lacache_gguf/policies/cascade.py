"""Cascade: equal sub-caches in a row, each of which takes half as many tokens as the one before.

The idea: new tokens enter the first sub-cache; what leaves it at the other end falls into the second, which takes only
every 2nd token that comes by, the third every 4th, and so on. So the same number of cells reaches 2**n_cascade - 1
times as far back as a window of one sub-cache, thinner and thinner. When a sub-cache does not take a token, the token
competes with the newest one there, and the one with the higher score stays: what was attended to survives.
Paper: Willette et al., "Training-Free Exponential Context Extension via Cascading KV Cache", arXiv 2406.17808,
section 3.

      n_sink 2, 3 sub-caches of 4, 66 tokens read: which of the newest 36 are held         # kept   . freed

      all scores equal   ...........#...#...#...#.#.#.#.#####
                         third: every 4th    second: 2nd  first: all

The published code, name by name:

      window_length             cells - n_sink, cut into `n_cascade` equal parts (the newer ones take a remainder)
      num_sink_tokens           n_sink (64 in most of the paper's runs, 4 in its latency test)
      cascade_func="pow2"       sub-cache i takes tokens whose number, counted behind the sinks, is divisible by 2**i
      eager_fill=True           nothing is dropped before the memory is full
      homogeneous_heads         heads="layer"
      beta                      decay, per query
      stride of the prefill     the number of tokens fed at a time

It is carried out in blocks: a plan takes the tokens that came in since the last one and puts them in one by one, in
order, by the scores of now. Freed one cell at a time with n_query=1, every step is the published one; fed in larger
steps it is the paper's strided prefill, in which a whole stride attends to the memory before its tokens are put in.
Two numbers are all that is carried: how many cells the last plan left (`Plan.cursor`) and how many tokens were put in
behind the sinks (`Plan.sweep`). Sub-caches fill and empty alike in all layers and heads; only who wins differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import numpy as np

from lacache_gguf.errors import MemoryFull, PolicyError
from lacache_gguf.policies.plan import Need, Plan, View, require_choice, require_int
from lacache_gguf.policies.scored import Heads, as_plan, scores_of


@dataclass(frozen=True)
class Cascade:
    """Keep sinks and `n_cascade` sub-caches, the scores deciding who stays where only one can.

    n_cascade        sub-caches, 1 .. 16; 1 is a plain window
    n_sink           first cells that never go (the pinned prefix, if longer, replaces them)
    heads            "each": every KV head keeps tokens of its own; "layer": the heads of a layer keep the same
    n_query, decay   of the attention score, see `Need`

    Raises PolicyError if a setting is impossible for every model; `check` knows the budget.
    """

    n_cascade: int = 4
    n_sink: int = 4
    heads: Heads = "each"
    n_query: int = 128
    decay: float = 0.9999

    name: ClassVar[str] = "cascade"

    def __post_init__(self) -> None:
        require_int(self.name, "n_cascade", self.n_cascade, 1)
        if self.n_cascade > 16:
            raise PolicyError(f"{self.name}: n_cascade must be at most 16, got {self.n_cascade}")
        require_int(self.name, "n_sink", self.n_sink, 0)
        require_choice(self.name, "heads", self.heads, get_args(Heads))
        _ = self.needs  # refuses what means nothing

    @property
    def needs(self) -> tuple[Need, ...]:
        """What this policy wants to see."""
        return (Need("attention", self.n_query, self.decay),)

    @property
    def is_per_head(self) -> bool:
        """True if every KV head keeps cells of its own."""
        return self.heads == "each"

    def plan(self, view: View) -> Plan:
        """Put the tokens that came since the last plan into the sub-caches. Raises MemoryFull if they get too small."""
        n_max = self.n_free_max(view.n_layer, view.n_cells, view.n_pinned)
        first, n_left = max(self.n_sink, view.n_pinned), view.n_cells - view.n_free
        if view.n_free > n_max:
            raise MemoryFull(
                f"cascade can free {n_max} of {view.n_cells} cells ({first} sink or pinned cells and {self.n_cascade} "
                f"sub-caches of one stay), but {view.n_free} are needed; raise --ctx-size/--kv-budget, shorten the "
                "system prompt or feed fewer tokens at once"
            )
        scores = scores_of(view, self.needs[0], self.heads)
        n_rows = scores.shape[1]
        scores = scores.reshape(-1, view.n_cells).T  # [n_cells, rows]: what is compared lies side by side
        n_stored = min(max(view.cursor, first), view.n_cells)
        n_laid = max(n_stored, n_left)  # while there is room every sub-cache takes everything
        buffers = _Buffers(np.arange(n_laid - (n_left - first), n_laid), self.n_cascade, scores)
        n_seen = view.sweep + n_laid - n_stored
        for cell in range(n_laid, view.n_cells):
            buffers.put(cell, n_seen)
            n_seen += 1
        keep = np.empty((scores.shape[1], n_left), dtype=np.int32)
        keep[:, :first] = np.arange(first)
        keep[:, first:] = buffers.cells().T
        return as_plan(keep.reshape(view.n_layer, n_rows, n_left), self.is_per_head, n_left, n_seen)

    def check(self, n_layer: int, n_ctx: int, n_pinned: int = 0) -> None:
        """Raise PolicyError if the sinks, a cell for every sub-cache and one that comes in do not fit."""
        least = max(self.n_sink, n_pinned) + self.n_cascade + 1
        if n_ctx < least:
            raise PolicyError(
                f"cascade: {least - self.n_cascade - 1} sink or pinned cells + {self.n_cascade} sub-caches + 1 more do "
                f"not fit in a budget of {n_ctx} cells; raise --ctx-size/--kv-budget to {least} or more, lower n_sink "
                "or n_cascade, or shorten the system prompt"
            )

    def n_free_max(self, n_layer: int, n_cells: int, n_pinned: int = 0) -> int:
        """Everything but the sinks and a cell for every sub-cache."""
        return max(0, n_cells - max(self.n_sink, n_pinned) - self.n_cascade)


class _Buffers:
    """Full ring buffers: who is in cell j of buffer i, intp [n, rows], for all layers and heads at once."""

    def __init__(self, cells: np.ndarray, n_cascade: int, scores: np.ndarray) -> None:
        """`cells` ascending, the newest for the first buffer; `scores` float32 [n_cells, rows]."""
        self._scores = scores
        self._n = len(cells)
        self._rows = np.arange(scores.shape[1])
        parts = np.array_split(cells[::-1], n_cascade)  # the first ones take what does not divide
        self._rings = [np.tile(part[::-1, None], scores.shape[1]) for part in parts]
        self._oldest = [0] * n_cascade

    def put(self, cell: int, number: int) -> None:
        """Token number `number` behind the sinks, which lies in `cell`, comes in; in every row somebody goes."""
        comer = np.full(len(self._rows), cell)
        for i, ring in enumerate(self._rings):
            oldest = self._oldest[i]
            if number > self._n and number % 2**i:  # as published, the first one after it is full goes all the way
                newest = ring[oldest - 1]
                wins = self._scores[comer, self._rows] >= self._scores[newest, self._rows]
                ring[oldest - 1] = np.where(wins, comer, newest)
                return
            comer, ring[oldest] = ring[oldest].copy(), comer
            self._oldest[i] = (oldest + 1) % len(ring)

    def cells(self) -> np.ndarray:
        """intp [n, rows], ascending along the first axis."""
        rings = zip(self._rings, self._oldest, strict=True)
        return np.concatenate([np.roll(ring, -oldest, axis=0) for ring, oldest in rings][::-1])
