"""Random: forget cells by lot, the honest control for every policy with a score.

The idea: a policy that reads keys or attention must beat the one that reads nothing and drops cells of the same stretch
by lot. The lots come from the seed and the number of the plan, so a run can be repeated, and a saved memory goes on as
it would have.
Paper: none; a uniform random subset is the usual control.

      4 layers x 16 cells, seed 0, n_sink 2, n_recent 4, 5 must become free         # kept   . freed

      layer 0   ###.#....#######
      layer 1   ####.##..#..####
      layer 2   ##.#.####...####
      layer 3   ###..###..#.####
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lacache_gguf.policies.plan import Plan, View, require_int
from lacache_gguf.policies.scored import Scored


@dataclass(frozen=True)
class Random(Scored):
    """Drop cells between sinks and recent ones by lot, other ones in every layer (or head).

    seed  a whole number >= 0; another one draws other lots
    """

    seed: int = 0

    name: ClassVar[str] = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_int(self.name, "seed", self.seed, 0)

    def ranking(self, view: View) -> np.ndarray:
        """float32 [n_layer, 1 or n_head_kv, n_cells]: lots of plan number `view.sweep`."""
        n_rows = view.n_head_kv if self.is_per_head else 1
        lots = np.random.default_rng([self.seed, view.sweep])
        return lots.random((view.n_layer, n_rows, view.n_cells), dtype=np.float32)

    def plan(self, view: View) -> Plan:
        """Drop `view.n_free` cells by lot; `Plan.sweep` counts the plans. Raises MemoryFull if fewer can go."""
        return replace(super().plan(view), sweep=view.sweep + 1)
