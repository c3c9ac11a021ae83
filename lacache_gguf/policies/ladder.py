"""Ladder: forget old tokens step by step, in different layers at different times (LaCache).

The idea: cut the cells between the sinks and the recent window into rungs of a few neighbours. Every layer keeps the
same number of cells of a rung, but another layer keeps other ones, so a token that one layer forgot is still seen by
the next. A cursor sweeps from the sinks towards the recent window, thinning rung after rung as room is needed; when
no whole rung is left before the recent cells it wraps to the sinks and thins the survivors again. Old text fades,
young text is dense, and all layers hold the same number of cells at all times: the plan is a rectangle.
Paper: Shi et al., "LaCache: Ladder-Shaped KV Caching for Efficient Long-Context Modeling of Large Language Models",
arXiv 2507.14204, section 3.2 (the ladder) and 3.3 (iterative compaction). It does not know keys, scores or tokens.

      4 layers x 16 cells, n_sink 2, n_recent 2         # kept   . freed

      span 1, overlap 0, 9 must become free            span 2, overlap 0, 6 must become free
      rungs of 4 keep 1                                rungs of 2 keep 1
      layer 0   ###...#...#...##                       layer 0   ###.#.#.#.#.#.##
      layer 1   ##.#...#...#..##                       layer 1   ##.#.#.#.#.#.###
      layer 2   ##..#...#...#.##                       layer 2   ###.#.#.#.#.#.##
      layer 3   ##...#...#...###                       layer 3   ##.#.#.#.#.#.###

With L layers, S = span, O = overlap, d = S - O, a rung has 1 + ceil((L - S) / d) cells and keeps ceil(S / d) of them
(at most all). S and O act through these two numbers only: say "span" for the setting, never for a count of layers.

The published code, name by name:

      cache_size                          n_ctx (the budget; ours never grows, see below)
      start_size                          n_sink
      ladder_size                         n_ctx - n_sink
      cache_size_per_ladder_before        Rung.n_src
      cache_size_per_ladder_after         Rung.n_dst
      can_reduce                          Rung.n_freed
      ladder_cursor                       Plan.cursor
      startover                           the cursor wraps, Plan.sweep + 1
      ladder_index                        Plan.keep[il]
      layer number mod (can_reduce + 1)   layers="interleaved"
      num_hidden_layers newest cells      n_recent=None
      compensation_for_match_average_size none: a budget is a promise, so room is made before a token comes in

Two deliberate differences. A call that needs several sweeps composes them one after another on the already thinned
rows; the published shortcut for that case can name a cell twice. Settings that free nothing are refused with the
numbers; there they divide by zero. Called for one cell at a time, every row equals the published one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, NamedTuple, get_args

import numpy as np

from lacache_gguf.errors import MemoryFull, PolicyError
from lacache_gguf.policies.plan import Plan, View, require_choice, require_int

Layers = Literal["interleaved", "contiguous", "digit"]


class Rung(NamedTuple):
    """Consecutive cells that shrink together: `n_src` cells in, `n_dst` kept by each layer."""

    n_src: int
    n_dst: int

    @property
    def n_freed(self) -> int:
        """Cells that one rung frees in every layer."""
        return self.n_src - self.n_dst


@dataclass(frozen=True)
class Ladder:
    """Thin the cells between the sinks and the recent window, rung by rung, differently in every layer.

    span      S, 1 .. n_layer - 1; half of the layers halves old text at every sweep, fewer thin it more
    overlap   O, 0 .. span - 1; neighbouring rungs share layers, which makes longer and gentler rungs
    n_sink    first cells that are never thinned (the pinned prefix, if longer, replaces them)
    n_recent  newest cells that are never thinned; None = as many as there are layers, as published; 0 acts as 1
    layers    which part of a rung layer il keeps: "interleaved" (published: il mod the number of choices),
              "contiguous" (neighbouring layers keep the same, shallow ones the older part) or
              "digit" (on sweep p digit p of il, so that repeated sweeps do not pick the same tokens again)
    n_pos     0: what is left is numbered anew, as published; else keys keep the position of their token until so many
              are used up, see `Scored`

    Raises PolicyError if a setting is impossible for every model; `check` knows the model and the budget.
    """

    span: int
    overlap: int = 0
    n_sink: int = 4
    n_recent: int | None = None
    layers: Layers = "interleaved"
    n_pos: int = 0

    name: ClassVar[str] = "ladder"

    def __post_init__(self) -> None:
        require_int(self.name, "span", self.span, 1)
        require_int(self.name, "overlap", self.overlap, 0)
        require_int(self.name, "n_sink", self.n_sink, 0)
        if self.n_recent is not None:
            require_int(self.name, "n_recent", self.n_recent, 0)
        if self.overlap >= self.span:
            raise PolicyError(
                f"ladder: overlap {self.overlap} must be below span {self.span}; choose 0 .. {self.span - 1}"
            )
        require_choice(self.name, "layers", self.layers, get_args(Layers))
        require_int(self.name, "n_pos", self.n_pos, 0)

    def rung(self, n_layer: int) -> Rung:
        """Size of a rung in a model of `n_layer` layers. Raises PolicyError if these settings free nothing there."""
        return _rung(n_layer, self.span, self.overlap)

    def recent(self, n_layer: int) -> int:
        """Newest cells that are never thinned, >= 1."""
        return n_layer if self.n_recent is None else max(1, self.n_recent)

    def plan(self, view: View) -> Plan:
        """Thin as few rungs as free `view.n_free` cells, from the cursor on. Raises MemoryFull and PolicyError."""
        rung = self.rung(view.n_layer)
        if view.n_free > self.n_free_max(view.n_layer, view.n_cells, view.n_pinned):
            raise MemoryFull(self._full_text(view))
        first = max(self.n_sink, view.n_pinned)
        cursor, sweep = max(view.cursor, first), view.sweep
        rows = np.arange(view.n_cells, dtype=np.int32)[None, :]  # [n_distinct, cells left]: equal layers share a row
        row_of = np.zeros(view.n_layer, dtype=np.intp)  # [n_layer]
        n_rungs = -(-view.n_free // rung.n_freed)
        while n_rungs > 0:
            n_now = min(n_rungs, (rows.shape[1] - self.recent(view.n_layer) - cursor) // rung.n_src)
            if n_now < 1:
                cursor, sweep = first, sweep + 1
                continue
            offsets = _offsets(self.layers, view.n_layer, rung.n_freed + 1, sweep)
            rows, row_of = _thin(rows, row_of, offsets, cursor, n_now, rung)
            cursor += n_now * rung.n_dst
            n_rungs -= n_now
        is_in_order = np.array_equal(row_of, np.arange(len(rows)))  # span 1: all rows differ, so spare a second copy
        return Plan(rows if is_in_order else rows.take(row_of, axis=0), cursor, sweep)

    def check(self, n_layer: int, n_ctx: int, n_pinned: int = 0) -> None:
        """Raise PolicyError if the ladder does not fit this model, or not one rung fits this budget."""
        rung = self.rung(n_layer)
        first, recent = max(self.n_sink, n_pinned), self.recent(n_layer)
        if n_ctx < first + recent + rung.n_src:
            raise PolicyError(
                f"ladder: {first} sink or pinned cells + {recent} recent cells + one rung of {rung.n_src} do not fit "
                f"in a budget of {n_ctx} cells; raise --ctx-size/--kv-budget to {first + recent + rung.n_src} or more, "
                "lower n_recent or n_sink, or shorten the system prompt"
            )

    def n_free_max(self, n_layer: int, n_cells: int, n_pinned: int = 0) -> int:
        """Cells freed when rungs are thinned until no whole one is left. Raises PolicyError as `rung` does."""
        rung = self.rung(n_layer)
        n_between = n_cells - max(self.n_sink, n_pinned) - self.recent(n_layer)
        if n_between < rung.n_src:
            return 0
        return ((n_between - rung.n_src) // rung.n_freed + 1) * rung.n_freed

    def _full_text(self, view: View) -> str:
        rung, first, recent = self.rung(view.n_layer), max(self.n_sink, view.n_pinned), self.recent(view.n_layer)
        n_max = self.n_free_max(view.n_layer, view.n_cells, view.n_pinned)
        return (
            f"the ladder can free {n_max} of {view.n_cells} cells ({first} sink or pinned and {recent} recent cells "
            f"stay, what is between shrinks in rungs of {rung.n_src} to {rung.n_dst}), but {view.n_free} are needed; "
            "raise --ctx-size/--kv-budget, lower n_recent, shorten the system prompt or feed fewer tokens at once"
        )


@lru_cache(maxsize=256)
def _rung(n_layer: int, span: int, overlap: int) -> Rung:
    if n_layer < 2:
        raise PolicyError(f"ladder: a model of {n_layer} layer(s) has no layers to take turns; use sink_window")
    half = f"span {(n_layer + 1) // 2}, overlap 0 halves old text"
    if span > n_layer:
        raise PolicyError(f"ladder: span {span} exceeds the {n_layer} layers of this model; lower it ({half})")
    stride = span - overlap
    n_src = 1 + -(-(n_layer - span) // stride)
    n_dst = min(-(-span // stride), n_src)
    if n_dst == n_src:
        raise PolicyError(
            f"ladder: span {span}, overlap {overlap} frees nothing on {n_layer} layers (a rung of {n_src} keeps "
            f"{n_dst}); lower span or overlap ({half})"
        )
    return Rung(n_src, n_dst)


def _offsets(layers: Layers, n_layer: int, n_choices: int, sweep: int) -> np.ndarray:
    """intp [n_layer]: the first offset that each layer keeps inside a rung, 0 .. n_choices - 1 (read-only)."""
    n_digits = 1
    while layers == "digit" and n_choices**n_digits < n_layer:
        n_digits += 1
    return _offsets_of_digit(layers, n_layer, n_choices, sweep % n_digits)


@lru_cache(maxsize=256)
def _offsets_of_digit(layers: Layers, n_layer: int, n_choices: int, digit: int) -> np.ndarray:
    il = np.arange(n_layer)
    offsets = il * n_choices // n_layer if layers == "contiguous" else il // n_choices**digit % n_choices
    offsets.flags.writeable = False  # shared by all callers
    return offsets


def _thin(
    rows: np.ndarray, row_of: np.ndarray, offsets: np.ndarray, cursor: int, n_rungs: int, rung: Rung
) -> tuple[np.ndarray, np.ndarray]:
    """Thin `n_rungs` rungs from `cursor` on: (new distinct rows [n_distinct, n - freed], row of each layer [n_layer]).

    Layers that shared a row and keep the same offset go on sharing one, so the work is per distinct row.
    """
    pairs, row_of_new = _distinct(row_of * rung.n_src + offsets)
    old, offset = (column.tolist() for column in np.divmod(pairs, rung.n_src))
    end_src, end_dst = cursor + n_rungs * rung.n_src, cursor + n_rungs * rung.n_dst
    thinned = np.empty((pairs.size, rows.shape[1] - n_rungs * rung.n_freed), dtype=np.int32)
    for to, i_old, first in zip(thinned, old, offset, strict=True):
        src = rows[i_old]
        to[:cursor] = src[:cursor]
        kept = src[cursor:end_src].reshape(n_rungs, rung.n_src)[:, first : first + rung.n_dst]
        to[cursor:end_dst].reshape(n_rungs, rung.n_dst)[:] = kept
        to[end_dst:] = src[end_src:]
    return thinned, row_of_new


def _distinct(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distinct labels ascending, index of each label among them); faster than np.unique for a few small numbers."""
    is_used = np.bincount(labels) > 0
    return np.flatnonzero(is_used), (np.cumsum(is_used) - 1)[labels]
