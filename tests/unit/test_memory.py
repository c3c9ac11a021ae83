"""Memory counts what the policy does: budget, pinned prefix, tokens held. Lists of numbers stand in for the cache."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lacache_gguf.errors import MemoryFull, PolicyError, UsageError
from lacache_gguf.memory import Memory
from lacache_gguf.policies import Full, Ladder, SinkWindow


class Cache:
    """What native compaction does, in lists: cells[il] = token numbers that layer il holds."""

    def __init__(self, n_layer: int) -> None:
        self.cells: list[list[int]] = [[] for _ in range(n_layer)]

    def compact(self, keep: np.ndarray) -> None:
        self.cells = [[row[i] for i in kept] for row, kept in zip(self.cells, keep, strict=True)]

    def append(self, tokens: range) -> None:
        for row in self.cells:
            row.extend(tokens)


def stream(memory: Memory, cache: Cache, sizes: list[int], n_block: int | None = None) -> None:
    for n in sizes:
        memory.make_room(n, n_block)
        assert memory.n_cells + n <= memory.n_ctx
        cache.append(range(memory.n_seen, memory.n_seen + n))
        memory.advance(n)


@settings(max_examples=200, deadline=None)
@given(
    n_layer=st.integers(2, 12),
    n_ctx=st.integers(64, 200),
    sizes=st.lists(st.integers(1, 24), min_size=1, max_size=60),
    n_pinned=st.integers(0, 12),
    n_block=st.integers(1, 16),
    is_ladder=st.booleans(),
)
def test_never_exceeds_the_budget_and_knows_every_token(n_layer, n_ctx, sizes, n_pinned, n_block, is_ladder):
    policy = Ladder(span=(n_layer + 1) // 2, n_recent=8) if is_ladder else SinkWindow()
    cache = Cache(n_layer)
    memory = Memory(policy, n_layer, n_ctx, cache.compact)
    memory.pin(n_pinned)
    stream(memory, cache, sizes, n_block)
    assert memory.n_seen == sum(sizes)
    assert memory.n_cells == memory.pos_next == len(cache.cells[0])
    assert memory.n_cells <= memory.n_cells_peak <= n_ctx
    assert memory.n_evicted == memory.n_seen - memory.n_cells
    assert memory.held.tolist() == cache.cells
    n_prefix = min(n_pinned, memory.n_seen)
    assert all(row[:n_prefix] == list(range(n_prefix)) for row in cache.cells)
    assert all(row[-1] == memory.n_seen - 1 for row in cache.cells)


def test_compacts_only_when_full_and_then_a_whole_block():
    cache = Cache(4)
    memory = Memory(Ladder(span=2, n_recent=8), 4, 64, cache.compact)
    stream(memory, cache, [1] * 64, n_block=8)
    assert (memory.n_cells, memory.n_compactions) == (64, 0)
    stream(memory, cache, [1], n_block=8)
    assert (memory.n_cells, memory.n_compactions, memory.n_seen) == (57, 1, 65)


@pytest.mark.parametrize(("n_ctx", "n_block"), [(64, 16), (256, 64), (512, 64), (1024, 128), (8192, 1024)])
def test_frees_an_eighth_of_the_budget_at_a_time(n_ctx, n_block):
    cache = Cache(2)
    memory = Memory(SinkWindow(), 2, n_ctx, cache.compact)
    stream(memory, cache, [1] * n_ctx)
    memory.make_room(1)
    assert memory.n_cells == n_ctx - n_block


def test_reads_in_small_steps_so_that_old_cells_are_thinned_gently():
    memory = Memory(Ladder(span=2, n_recent=512), 4, 1024, lambda keep: None)
    assert memory.n_read(512) == 128
    assert memory.n_read(16) == 16


def test_full_policy_refuses_with_the_numbers():
    cache = Cache(2)
    memory = Memory(Full(), 2, 64, cache.compact)
    stream(memory, cache, [64])
    with pytest.raises(MemoryFull, match="64 cells"):
        memory.make_room(1)
    assert (memory.n_cells, memory.n_compactions) == (64, 0)


def test_more_tokens_than_cells_at_once_are_refused():
    memory = Memory(SinkWindow(), 2, 64, lambda keep: None)
    with pytest.raises(MemoryFull, match="65 tokens at once"):
        memory.make_room(65)


def test_a_pinned_prefix_that_leaves_no_room_is_refused():
    memory = Memory(Ladder(span=2, n_recent=32), 4, 64, lambda keep: None)
    with pytest.raises(PolicyError, match="40"):
        memory.pin(40)
    with pytest.raises(UsageError, match="-1"):
        memory.pin(-1)


def test_held_is_read_only():
    cache = Cache(2)
    memory = Memory(SinkWindow(), 2, 64, cache.compact)
    stream(memory, cache, [8])
    with pytest.raises(ValueError, match="read-only"):
        memory.held[0, 0] = 1
    stream(memory, cache, [8])  # the view does not freeze the memory itself
    assert memory.held[1, -1] == 15


def test_reset_forgets_everything():
    cache = Cache(2)
    memory = Memory(SinkWindow(), 2, 64, cache.compact)
    memory.pin(4)
    stream(memory, cache, [8] * 20)
    memory.reset()
    assert (memory.n_seen, memory.n_cells, memory.n_compactions, memory.n_pinned) == (0, 0, 0, 0)


@settings(max_examples=100, deadline=None)
@given(
    n_layer=st.integers(2, 8),
    n_ctx=st.integers(64, 200),
    steps=st.lists(st.tuples(st.integers(1, 24), st.floats(0, 1)), min_size=1, max_size=40),
    is_ladder=st.booleans(),
)
def test_tokens_taken_back_leave_no_trace(n_layer, n_ctx, steps, is_ladder):
    policy = Ladder(span=(n_layer + 1) // 2, n_recent=8) if is_ladder else SinkWindow()
    cache = Cache(n_layer)
    memory = Memory(policy, n_layer, n_ctx, cache.compact)
    for n, share in steps:
        stream(memory, cache, [n])
        n_most = memory.n_retractable
        held = memory.held
        newest = np.arange(memory.n_seen - n_most, memory.n_seen)
        assert (held[:, memory.n_cells - n_most :] == newest).all()
        if n_most < memory.n_cells:  # one more is gone in some layer
            assert (held[:, memory.n_cells - n_most - 1] != memory.n_seen - n_most - 1).any()
        n_back = int(share * n_most)
        n_seen = memory.n_seen - n_back
        memory.retract(n_back)
        for row in cache.cells:
            del row[len(row) - n_back :]
        assert memory.n_seen == n_seen
        assert memory.held.tolist() == cache.cells
        assert all(token < n_seen for row in cache.cells for token in row)
        with pytest.raises(UsageError, match="cannot be taken back"):
            memory.retract(memory.n_retractable + 1)


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 24), max_size=30), n_after=st.integers(1, 30), n_pinned=st.integers(0, 9))
def test_a_restored_memory_thins_as_the_saved_one(sizes, n_after, n_pinned):
    caches = Cache(4), Cache(4)
    one, other = (Memory(Ladder(span=2, n_recent=8), 4, 96, cache.compact) for cache in caches)
    one.pin(n_pinned)
    stream(one, caches[0], sizes)
    other.restore(*one.state())
    caches[1].cells = [list(row) for row in caches[0].cells]
    for memory, cache in zip((one, other), caches, strict=True):
        stream(memory, cache, [7] * n_after)
    assert caches[0].cells == caches[1].cells
    counts = [{**memory.state()[0], "seconds_compact": 0} for memory in (one, other)]
    assert counts[0] == counts[1]


def test_a_state_that_cannot_be_is_refused_and_changes_nothing():
    memory = Memory(Ladder(span=2, n_recent=8), 4, 96, lambda keep: None)
    for _ in range(30):
        memory.make_room(7)
        memory.advance(7)
    counters, arrays = memory.state()
    held = arrays["held"]
    before = dict(counters), held.tolist()
    for wrong in (
        {"n_seen": 3},
        {"n_cells": 200},
        {"n_cells": -1},
        {"n_cells_peak": 97},
        {"n_pinned": 97},
        {"sweep": -1},
    ):
        with pytest.raises(ValueError, match=r"contradict|held"):
            memory.restore({**counters, **wrong}, arrays)
    for wrong in (held[:2], held[:, :-1], held.astype(np.int64), held + 1000, held - 1, held[:, ::-1]):
        with pytest.raises(ValueError, match="held"):
            memory.restore(counters, {"held": wrong})
    for empty in (({}, arrays), (counters, {})):
        with pytest.raises(KeyError):
            memory.restore(*empty)
    assert (dict(memory.state()[0]), memory.held.tolist()) == before


@pytest.mark.parametrize(
    ("policy", "n_layer", "n_ctx"), [(Ladder(span=8, overlap=4), 32, 1024), (Ladder(span=1, overlap=0), 4, 64)]
)
def test_what_is_read_at_a_time_always_finds_room(policy, n_layer, n_ctx):
    """Whole rungs free the less, the fewer cells there are: with every pinned prefix, from every filling."""
    for n_pinned in range(0, n_ctx - 8, 1 + n_ctx // 80):
        memory = Memory(policy, n_layer, n_ctx, lambda keep: None)
        try:
            memory.pin(n_pinned)
        except PolicyError:
            continue
        n = memory.n_read(512)
        for first in range(max(1, n_pinned), n_ctx + 1, 1 + n_ctx // 40):
            memory.reset()
            memory.advance(first)
            memory.pin(n_pinned)
            memory.make_room(n)
            assert memory.n_cells + n <= n_ctx
