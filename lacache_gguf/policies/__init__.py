"""Policies decide which cells every layer keeps; native code only executes. Settings in, plans out, no tensors.

    >>> from lacache_gguf.policies import Ladder, View
    >>> policy = Ladder(span=15)
    >>> plan = policy.plan(View(n_layer=30, n_cells=1024, n_free=64))
    >>> plan.keep.shape
    (30, 960)

A new policy is one file beside these and one line in `POLICIES`.
"""

from __future__ import annotations

from lacache_gguf.policies.cascade import Cascade
from lacache_gguf.policies.full import Full
from lacache_gguf.policies.h2o import H2O
from lacache_gguf.policies.keydiff import KeyDiff
from lacache_gguf.policies.ladder import Ladder
from lacache_gguf.policies.plan import Need, Plan, Policy, View, is_per_head, need_of
from lacache_gguf.policies.random import Random
from lacache_gguf.policies.scored_ladder import ScoredLadder
from lacache_gguf.policies.sink_window import SinkWindow
from lacache_gguf.policies.snapkv import SnapKV
from lacache_gguf.policies.tova import TOVA

_ALL = (Full, SinkWindow, Ladder, ScoredLadder, KeyDiff, TOVA, H2O, SnapKV, Cascade, Random)
POLICIES: dict[str, type] = {policy.name: policy for policy in _ALL}

__all__ = [
    "H2O",
    "POLICIES",
    "TOVA",
    "Cascade",
    "Full",
    "KeyDiff",
    "Ladder",
    "Need",
    "Plan",
    "Policy",
    "Random",
    "ScoredLadder",
    "SinkWindow",
    "SnapKV",
    "View",
    "default_policy",
    "is_per_head",
    "need_of",
]


def default_policy(n_layer: int, n_ctx: int) -> Policy:
    """The product's choice for a model of `n_layer` layers and a memory of `n_ctx` cells.

    A ladder of span n_layer // 2 and overlap 0 (rungs of 2 keep 1; of 3 where the number of layers is odd) with half of
    the budget as a complete recent window. A model of a single layer has no layers that could take turns, so it gets a
    SinkWindow. Raises PolicyError if the budget is too small (64 cells always suffice).
    """
    policy = SinkWindow() if n_layer == 1 else Ladder(span=max(1, n_layer // 2), overlap=0, n_recent=n_ctx // 2)
    policy.check(n_layer, n_ctx)
    return policy
