"""Coarse keys may not be rounded anew too often: arithmetic on what a memory frees at a time."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import pytest

from lacache_gguf.errors import PolicyError, UsageError
from lacache_gguf.key_wear import COARSE_KEY_TYPES, N_ROUNDINGS_MAX, check_key_wear
from lacache_gguf.kv_budget import KV_TYPES, KvGeometry, KvLayer
from lacache_gguf.memory import Memory
from lacache_gguf.model_memory import check_policy, default_for
from lacache_gguf.policies import Full, Ladder, Salience, SinkWindow, default_ladder


def memory(policy, n_ctx, type_k, n_layer=30):
    return Memory(policy, n_layer, n_ctx, lambda keep: None, partial(check_key_wear, type_k, n_ctx))


@pytest.mark.parametrize("type_k", COARSE_KEY_TYPES)
def test_the_product_thins_rarely_enough_at_every_budget(type_k):
    """The default policy, and a plain window, with and without a short prompt pinned."""
    for n_ctx in [*range(64, 1200), 2048, 4096, 8192, 32768, 131072]:
        for policy in (default_ladder(30, n_ctx), SinkWindow()):
            memory(policy, n_ctx, type_k).pin(n_ctx // 8)


@pytest.mark.parametrize("type_k", KV_TYPES)
def test_only_coarse_types_are_refused(type_k):
    if type_k not in COARSE_KEY_TYPES:
        check_key_wear(type_k, 1024, 1)
        return
    check_key_wear(type_k, 1024, 1024 // N_ROUNDINGS_MAX)
    with pytest.raises(PolicyError, match=f"K in {type_k} would be rounded anew 16 times.*1024 cells.*64.*-ctk q8_0"):
        check_key_wear(type_k, 1024, 64)


def test_a_ladder_with_few_cells_to_thin_is_refused_with_coarse_keys_only():
    policy = Ladder(span=15, overlap=0, n_sink=4, n_recent=960)  # 60 cells between sinks and the recent window
    memory(policy, 1024, "f16")
    memory(policy, 1024, "q5_0")
    with pytest.raises(UsageError, match="K in q4_0"):
        memory(policy, 1024, "q4_0")


def test_a_long_pinned_prompt_is_refused_with_coarse_keys_and_changes_nothing():
    coarse = memory(default_ladder(30, 1024), 1024, "q4_1")
    with pytest.raises(UsageError, match="shorten the system prompt"):
        coarse.pin(450)
    assert coarse.n_pinned == 0
    memory(default_ladder(30, 1024), 1024, "q8_0").pin(450)


def test_a_memory_that_never_thins_takes_every_type():
    memory(Full(), 1024, "iq4_nl").pin(100)


def test_keys_that_keep_their_positions_do_not_wear_but_a_short_trained_context_leaves_no_room_for_that():
    policy = Salience(n_pos=4096, n_recent=960)
    for n_ctx_train, is_possible in ((8192, True), (0, True), (1024, False)):  # 0: the file does not say
        geometry = KvGeometry((KvLayer(3, 64, 64),) * 30, n_layer=30, n_ctx_train=n_ctx_train)
        with nullcontext() if is_possible else pytest.raises(PolicyError, match="K in q4_0"):
            check_policy(policy, geometry, 1024, "q4_0")


def test_heads_that_cannot_part_are_refused_before_a_model_is_loaded():
    """Rows are moved as 4-byte words: three q8_0 blocks of 34 bytes are no whole number of them."""
    phi = KvGeometry((KvLayer(32, 96, 96),) * 32, n_layer=32, n_ctx_train=4096)
    assert phi.heads_can_part("f16", "f16")
    assert not phi.heads_can_part("f16", "q8_0")
    check_policy(Salience(), phi, 1024)
    check_policy(Salience(heads="layer"), phi, 1024, "q8_0", "q8_0")
    with pytest.raises(PolicyError, match="its KV heads cannot part with K in q8_0, V in f16; use heads="):
        check_policy(Salience(), phi, 1024, "q8_0")
    mixed = KvGeometry((KvLayer(1, 64, 64), KvLayer(2, 64, 64)), n_layer=2, n_ctx_train=4096)
    assert not mixed.heads_can_part("f16", "f16")
    with pytest.raises(PolicyError, match="different numbers of KV heads; use --policy ladder"):
        check_policy(Salience(heads="layer"), mixed, 1024)
    assert default_for(mixed, 1024) == default_ladder(2, 1024), "as the engine chooses"
    assert default_for(phi, 1024, "q8_0") == Salience(heads="layer")
    assert default_for(phi, 1024) == Salience()
