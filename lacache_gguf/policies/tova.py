"""TOVA: forget what the newest query does not look at (token omission via attention).

The idea: a decoder with a bounded memory is a recurrent network whose state is what it keeps; let every layer keep what
its newest query attends to most, heads averaged. No sinks and no recent window are set apart: what matters shows.
Paper: Oren et al., "Transformers are Multi-State RNNs", arXiv 2401.06104, section 3.2. Differences: the newest cell
always stays, and cells leave in blocks, by the newest query before more come in.

      2 layers x 16 cells, attention 0 .. 9, 6 must become free         # kept   . freed

      layer 0   9942285189969659   ##...#..######.#
      layer 1   6737905300217268   #####.##....#.##
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lacache_gguf.policies.plan import Need
from lacache_gguf.policies.scored import Scored


@dataclass(frozen=True)
class TOVA(Scored):
    """Drop the cells that the newest query attends to least; all heads of a layer keep the same by default."""

    n_sink: int = 0
    n_recent: int | None = 1

    name: ClassVar[str] = "tova"
    needs: ClassVar[tuple[Need, ...]] = (Need("attention", n_query=1),)
