"""KeyDiff: forget the cells whose keys look like all the others.

The idea: keys that point where most keys point hold little that is not held elsewhere, and the ones that stand apart
are those that later queries pick out. So the score of a cell is how little its key resembles the mean key of its head,
-cos(k, m), and the lowest scores go. It looks at no query, so it neither needs attention weights nor guesses what will
be asked, and it suits a memory that is thinned while a text is read.
Paper: Park et al., "KeyDiff: Key Similarity-Based KV Cache Eviction for Long-Context LLM Inference in
Resource-Constrained Environments", arXiv 2504.15364, section 3. Differences: keys are compared without their rotation,
so that the place of a cell does not count, and sinks and a recent window are kept.

      2 heads x 16 cells, scores 0 .. 9, n_sink 2, n_recent 4, 5 must become free         # kept   . freed

      head 0   9942285189969659   ##...#..########
      head 1   6737905300217268   #####.##....####
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lacache_gguf.policies.plan import Need
from lacache_gguf.policies.scored import Heads, Scored


@dataclass(frozen=True)
class KeyDiff(Scored):
    """Drop the cells with the lowest KeyDiff score between sinks and recent ones; every KV head its own by default."""

    heads: Heads = "each"

    name: ClassVar[str] = "keydiff"
    needs: ClassVar[tuple[Need, ...]] = (Need("keydiff"),)
