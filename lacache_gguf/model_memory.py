"""Which memory a model gets: the policy that suits it, the scores that it can give, and what cannot work together.

A model may refuse to forget selectively, to let its heads part or to have its queries read; native code says which and
why. Every refusal here says what to do instead.

    memory = make_memory("smollm2-135m", context, 30, policy=None, n_ctx=1024, type_k="f16", surprise=surprise)
    check_policy(Ladder(span=15), geometry, n_ctx=1024)  # before there is a model
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from lacache_gguf import native
from lacache_gguf.context import Context
from lacache_gguf.errors import PolicyError, UnsupportedModel
from lacache_gguf.key_wear import check_key_wear
from lacache_gguf.kv_budget import KvGeometry
from lacache_gguf.memory import Memory
from lacache_gguf.policies import Full, Need, Policy, default_policies, is_per_head, needs_of

_HEADS_DIFFER = "its layers have different numbers of KV heads; use --policy ladder"
_HEADS_TOGETHER = 'use heads="layer" (--heads layer) or --policy ladder'


def make_memory(
    name: str,
    context: Context,
    n_layer_kv: int,
    policy: Policy | None,
    n_ctx: int,
    type_k: str,
    surprise: Callable[[], np.ndarray],
) -> Memory:
    """A memory of `n_ctx` cells that thins `context`; without a policy, the first of `default_policies` that the model
    can serve.

    name        what errors call the model
    n_layer_kv  layers that have cells, for a model that cannot be thinned
    surprise    gives float32 [n_layer, n_head_kv, n_cells]

    Raises UnsupportedModel where nothing but the full cache works, PolicyError for what this model cannot give.
    """
    n_layer = native.compact_n_layer(context.ptr)
    if reason := native.compact_reason(context.ptr):
        if not isinstance(policy, Full):
            raise UnsupportedModel(
                f"{name} cannot forget selectively: {reason}; use --policy full with a budget that "
                "holds the whole text, or another model"
            )
        n_layer = n_layer_kv
    if policy is None:
        choices = default_policies(n_layer, n_ctx)
        policy = next(choice for choice in choices if _no_scores(context, choice) is None)

    _check_n_query(policy, n_ctx)

    def score(need: Need, first: int) -> np.ndarray:
        return surprise() if need.kind == "surprise" else context.score(need, first)

    return Memory(
        policy,
        n_layer,
        n_ctx,
        context.compact,
        partial(check_key_wear, type_k, n_ctx),
        n_head_kv=_prepare_scores(name, context, policy),
        score=score,
        n_votes=context.n_query,
        thin=context.thin,
        turn=context.turn,
        n_ctx_train=context.model.n_ctx_train,
    )


def check_policy(policy: Policy, geometry: KvGeometry, n_ctx: int, type_k: str = "f16", type_v: str = "f16") -> None:
    """Raise PolicyError if no memory of `n_ctx` cells of such a model can have this policy and KV types, as far as the
    model's header tells."""
    if reason := _header_reason(policy, geometry, type_k, type_v):
        raise PolicyError(f"{policy.name} does not work with this model: {reason}")
    _check_n_query(policy, n_ctx)
    n_layer, check_freed = len(geometry.layers_planned), partial(check_key_wear, type_k, n_ctx)
    Memory(policy, n_layer, n_ctx, lambda keep: None, check_freed, n_ctx_train=geometry.n_ctx_train or 1 << 24)


def default_for(geometry: KvGeometry, n_ctx: int, type_k: str = "f16", type_v: str = "f16") -> Policy:
    """The policy that `make_memory` chooses for such a model, as far as the model's header tells."""
    choices = default_policies(len(geometry.layers_planned), n_ctx)
    return next(choice for choice in choices if _header_reason(choice, geometry, type_k, type_v) is None)


def _check_n_query(policy: Policy, n_ctx: int) -> None:
    if (n_query := sum(need.n_query for need in needs_of(policy))) > n_ctx:
        raise PolicyError(
            f"{policy.name}: {n_query} queries cannot vote in a memory of {n_ctx} cells; "
            f"lower n_query to {n_ctx} or less"
        )


def _header_reason(policy: Policy, geometry: KvGeometry, type_k: str, type_v: str) -> str | None:
    """`_no_scores`, as far as the model's header tells."""
    if (needs_of(policy) or is_per_head(policy)) and not geometry.n_head_kv:
        return _HEADS_DIFFER
    if is_per_head(policy) and not geometry.heads_can_part(type_k, type_v):
        return f"its KV heads cannot part with K in {type_k}, V in {type_v}; {_HEADS_TOGETHER}"
    return None


def _no_scores(context: Context, policy: Policy) -> str | None:
    """Why this model or memory cannot give `policy` what it needs, and what to do instead; None if it can."""
    ptr, has_votes = context.ptr, any(need.n_query for need in needs_of(policy))
    if not needs_of(policy) and not is_per_head(policy):
        return None
    if native.compact_n_head_kv(ptr) == 0:
        return _HEADS_DIFFER
    if is_per_head(policy) and (reason := native.compact_head_reason(ptr)):
        return f"{reason}; {_HEADS_TOGETHER}"
    if has_votes and (reason := native.query_reason(ptr)):
        return f"{reason}; use keydiff scores or --policy ladder"
    return None


def _prepare_scores(name: str, context: Context, policy: Policy) -> int:
    """KV heads that `policy` decides about; queries are recorded from now on if it wants them to vote.

    Raises PolicyError where this model or memory has no such scores, or its heads cannot part.
    """
    if not needs_of(policy) and not is_per_head(policy):
        return 1
    if reason := _no_scores(context, policy):
        raise PolicyError(f"{policy.name} does not work with {name}: {reason}")
    if n_query := sum(need.n_query for need in needs_of(policy)):
        context.set_n_query(n_query, any(need.spread for need in needs_of(policy)))
    return native.compact_n_head_kv(context.ptr)
