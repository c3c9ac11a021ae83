"""Full: never forget. The baseline every other policy is measured against.

The idea: keep every token of every layer and refuse when the memory is full, so that what the model sees is exactly
what it was given. There is nothing to plan; the only answer is an error that says what to do.

      4 layers x 16 cells, 4 must become free         # kept   . freed

      layer 0..3   ################   -> MemoryFull
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lacache_gguf.errors import MemoryFull, PolicyError
from lacache_gguf.policies.plan import Plan, View


@dataclass(frozen=True)
class Full:
    """Evict nothing; `plan` always raises MemoryFull."""

    name: ClassVar[str] = "full"

    def plan(self, view: View) -> Plan:
        """Raise MemoryFull: a full cache frees nothing."""
        raise MemoryFull(
            f"the full cache holds {view.n_cells} cells and may free none, but {view.n_free} more are needed; "
            "raise --ctx-size/--kv-budget or choose a policy that evicts (ladder, sink_window)"
        )

    def check(self, n_layer: int, n_ctx: int, n_pinned: int = 0) -> None:
        """Raise PolicyError if the pinned cells alone fill the memory."""
        if n_pinned >= n_ctx:
            raise PolicyError(
                f"full: {n_pinned} pinned cells leave no room in a budget of {n_ctx} cells; "
                f"raise --ctx-size/--kv-budget above {n_pinned} or shorten the system prompt"
            )

    def n_free_max(self, n_layer: int, n_cells: int, n_pinned: int = 0) -> int:
        """Always 0."""
        return 0
