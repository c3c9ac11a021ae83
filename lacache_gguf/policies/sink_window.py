"""SinkWindow: the first cells and the most recent ones, in every layer alike (StreamingLLM).

The idea: a model leans on its first few tokens as attention sinks, whatever they say; keep those and the newest
tokens, drop the oldest in between, and it stays fluent for ever. What was dropped is gone from all layers.
Paper: Xiao et al., "Efficient Streaming Language Models with Attention Sinks", arXiv 2309.17453, section 3.2.
It does not know layers (all rows are equal) and needs no cursor.

      4 layers x 16 cells, n_sink 2, 4 must become free         # kept   . freed

      layer 0   ##....##########
      layer 1   ##....##########
      layer 2   ##....##########
      layer 3   ##....##########
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lacache_gguf.errors import MemoryFull, PolicyError
from lacache_gguf.policies.plan import Plan, View, require_int


@dataclass(frozen=True)
class SinkWindow:
    """Keep `n_sink` first cells (or the pinned prefix, if longer) and the most recent rest; the last cell always stays.

    n_pos  0: what is left is numbered anew, as published; else keys keep the position of their token until so many are
           used up, see `Scored`

    Raises PolicyError if a setting is not a whole number >= 0.
    """

    n_sink: int = 4
    n_pos: int = 0

    name: ClassVar[str] = "sink_window"

    def __post_init__(self) -> None:
        require_int(self.name, "n_sink", self.n_sink, 0)
        require_int(self.name, "n_pos", self.n_pos, 0)

    def plan(self, view: View) -> Plan:
        """Drop the oldest `view.n_free` cells after the sinks. Raises MemoryFull if fewer can go."""
        n_first = max(self.n_sink, view.n_pinned)
        n_max = self.n_free_max(view.n_layer, view.n_cells, view.n_pinned)
        if view.n_free > n_max:
            raise MemoryFull(
                f"sink_window can free {n_max} of {view.n_cells} cells ({n_first} sink or pinned cells and the newest "
                f"stay), but {view.n_free} are needed; raise --ctx-size/--kv-budget, shorten the system prompt or "
                "feed fewer tokens at once"
            )
        row = np.arange(view.n_free, view.n_cells, dtype=np.int32)
        row[:n_first] = np.arange(n_first, dtype=np.int32)
        return Plan(np.broadcast_to(row, (view.n_layer, row.size)).copy())

    def check(self, n_layer: int, n_ctx: int, n_pinned: int = 0) -> None:
        """Raise PolicyError if the sinks and one recent cell leave nothing to free."""
        n_first = max(self.n_sink, n_pinned)
        if n_ctx < n_first + 2:
            raise PolicyError(
                f"sink_window: {n_first} sink or pinned cells + 2 more do not fit in a budget of {n_ctx} cells; raise "
                f"--ctx-size/--kv-budget to {n_first + 2} or more, lower n_sink or shorten the system prompt"
            )

    def n_free_max(self, n_layer: int, n_cells: int, n_pinned: int = 0) -> int:
        """Everything between the sinks and the newest cell."""
        return max(0, n_cells - max(self.n_sink, n_pinned) - 1)
