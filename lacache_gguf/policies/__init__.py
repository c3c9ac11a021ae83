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
from lacache_gguf.policies.plan import Need, Plan, Policy, View, is_per_head, n_pos_of, needs_of
from lacache_gguf.policies.random import Random
from lacache_gguf.policies.salience import Salience
from lacache_gguf.policies.scored_ladder import ScoredLadder
from lacache_gguf.policies.sink_window import SinkWindow
from lacache_gguf.policies.snapkv import SnapKV
from lacache_gguf.policies.tova import TOVA

_ALL = (Full, SinkWindow, Ladder, Salience, ScoredLadder, KeyDiff, TOVA, H2O, SnapKV, Cascade, Random)
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
    "Salience",
    "ScoredLadder",
    "SinkWindow",
    "SnapKV",
    "View",
    "default_ladder",
    "default_policies",
    "default_policy",
    "is_per_head",
    "n_pos_of",
    "needs_of",
]


def default_policy(n_layer: int, n_ctx: int) -> Policy:
    """The product's choice for a memory of `n_ctx` cells, where the model's scores can be had: Salience.

    Raises PolicyError if the budget is too small (64 cells always suffice).
    """
    policy = Salience()
    policy.check(n_layer, n_ctx)
    return policy


def default_ladder(n_layer: int, n_ctx: int) -> Policy:
    """The choice that needs nothing but cell numbers: the ladder with half of the budget as a complete recent window.

    Its span is n_layer // 2 and its overlap 0 (rungs of 2 keep 1; of 3 where the number of layers is odd). A model of a
    single layer has no layers that could take turns, so it gets a SinkWindow. Raises PolicyError as `default_policy`.
    """
    policy = SinkWindow() if n_layer == 1 else Ladder(span=max(1, n_layer // 2), overlap=0, n_recent=n_ctx // 2)
    policy.check(n_layer, n_ctx)
    return policy


def default_policies(n_layer: int, n_ctx: int) -> tuple[Policy, ...]:
    """What to try in turn when nobody chose: not every model lets its heads part or its queries be read.

    Raises PolicyError as `default_policy`.
    """
    best = default_policy(n_layer, n_ctx)
    return best, Salience(heads="layer"), Salience(heads="layer", attention=0), default_ladder(n_layer, n_ctx)
