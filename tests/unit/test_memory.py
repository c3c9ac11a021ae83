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
