"""The memory map against slow loops over the same cells, and when it looks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lacache_app import memory_map as module
from lacache_app import memory_strips as strips
from lacache_app.memory_map import MemoryMap

from lacache_gguf.memory import Memory
from lacache_gguf.policies import KeyDiff, Ladder, Policy, SinkWindow, default_ladder

N_LAYER = 6


# ---- slow twins ------------------------------------------------------------------------------------------------------


def held_after(policy: Policy, n_ctx: int, chunks: list[int], n_layer: int = N_LAYER, n_pinned: int = 0) -> np.ndarray:
    """What the layers hold after chunks of tokens were fed: int32 [n_layer, n_cells]."""
    memory = Memory(policy, n_layer, n_ctx, lambda keep: None)
    if n_pinned:
        memory.pin(n_pinned)
    for n in chunks:
        memory.make_room(n)
        memory.advance(n)
    return np.array(memory.held)


def slow_share(held: np.ndarray, first: int, last: int, bin_size: int) -> list[list[int]]:
    rows = []
    for row in held.tolist():
        shares = []
        for start in range(first, last, bin_size):
            tokens = range(start, min(start + bin_size, last))
            n = sum(token in tokens for token in row)
            share = -(-255 * n // len(tokens))
            shares.append(255 if n == len(tokens) else min(254, share))
        rows.append(shares)
    return rows


def slow_whole_ends(held: np.ndarray, n_seen: int) -> tuple[int, int]:
    common = set.intersection(*(set(row) for row in held.tolist())) if held.size else set()
    first = next((token for token in range(n_seen) if token not in common), n_seen)
    newest = next((n for n in range(n_seen) if n_seen - 1 - n not in common), n_seen)
    return first, newest


chunks = st.lists(st.integers(1, 16), min_size=0, max_size=40)
policies = st.sampled_from([Ladder(span=3, n_recent=20), Ladder(span=2, overlap=1, n_sink=2, n_recent=8), SinkWindow()])


@settings(max_examples=60, deadline=None)
@given(policies, chunks, st.integers(0, 9))
def test_every_number_is_that_of_the_slow_loops(policy: Policy, sizes: list[int], n_pinned: int) -> None:
    n_ctx = 64
    held, n_seen = held_after(policy, n_ctx, sizes, n_pinned=n_pinned), sum(sizes)
    rows, row_of = strips.distinct_rows(held)
    assert np.array_equal(rows[row_of], held)
    assert len({row.tobytes() for row in rows}) == len(rows)
    for strip in (
        strips.strip(rows, row_of[:, None], 0, n_seen, strips.overview_bin_size(n_seen)),
        strips.strip(rows, row_of[:, None], 0, n_seen, 5),
        strips.recent_strip(rows, row_of[:, None], n_seen, 4),
    ):
        assert strip.share.tolist() == slow_share(held, strip.first, strip.last, strip.bin_size)
    assert strips.whole_ends(rows, n_seen) == slow_whole_ends(held, n_seen)
    assert strips.n_traced(rows, n_seen) == len(set(held.ravel().tolist()))


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_a_row_is_the_mean_of_its_layers_and_heads(
    n_layer: int, n_head: int, n_cells: int, bin_size: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    n_seen = 2 * n_cells
    held = np.sort([rng.choice(n_seen, n_cells, replace=False) for _ in range(n_layer * n_head)]).astype(np.int32)
    rows, row_of = strips.distinct_rows(held)
    strip = strips.strip(rows, row_of.reshape(n_layer, n_head), 0, n_seen, bin_size)
    assert len(strip.rows) <= strips.N_ROWS
    assert strip.row_of.shape == (n_layer,)
    assert n_layer > strips.N_ROWS or n_head == 1 or len(rows) == 1 or len(strip.rows) == n_layer, (
        "none is mixed in vain"
    )
    held = held.reshape(n_layer, -1)
    for row, line in enumerate(strip.rows.tolist()):
        tokens = held[strip.row_of == row].ravel().tolist()
        for i, share in enumerate(line):
            in_bin = range(i * bin_size, min((i + 1) * bin_size, n_seen))
            n, n_all = sum(token in in_bin for token in tokens), len(in_bin) * n_head * sum(strip.row_of == row)
            assert share == (255 if n == n_all else min(254, -(-255 * n // n_all)))


@given(st.integers(0, 10_000_000))
def test_overview_bins_are_few_and_their_size_is_a_power_of_two(n_seen: int) -> None:
    size = strips.overview_bin_size(n_seen)
    assert size & (size - 1) == 0
    assert -(-n_seen // size) <= strips.N_BINS_OVERVIEW
    assert size == 1 or -(-n_seen // (size // 2)) > strips.N_BINS_OVERVIEW  # no smaller one would do


def test_a_trace_is_not_nothing_and_a_gap_is_not_all() -> None:
    held = np.array([[0], [7]], dtype=np.int32)
    strip = strips.strip(held, np.arange(2)[:, None], 0, 2000, 1000)
    assert strip.share.tolist() == [[1, 0], [1, 0]]
    almost = np.delete(np.arange(1000, dtype=np.int32), 500)[None]
    assert strips.strip(almost, np.zeros((1, 1), dtype=np.intp), 0, 1000, 1000).share.tolist() == [[254]]


@given(st.integers(0, 5000), st.integers(1, 700))
def test_recent_bins_start_at_multiples_and_end_with_the_newest_token(n_seen: int, n_ctx: int) -> None:
    held = np.zeros((1, 0), dtype=np.int32)
    strip = strips.recent_strip(held, np.zeros((1, 1), dtype=np.intp), n_seen, n_ctx)
    assert strip.first % strip.bin_size == 0
    assert strip.last == n_seen
    assert n_seen - strip.first <= strips.RECENT_BUDGETS * n_ctx
    assert strip.n_bins <= strips.N_BINS_RECENT


def test_the_default_ladder_has_few_distinct_rows() -> None:
    held = held_after(default_ladder(30, 256), 256, [32] * 200, n_layer=30)
    rows, _ = strips.distinct_rows(held)
    assert len(rows) == 2


# ---- looking ---------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that stands still until it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_snapshot_has_the_engines_own_numbers(fake_engine: Any) -> None:
    engine, memory_map = fake_engine(n_ctx=128), MemoryMap()
    for _ in engine.read(engine.tokenize("All work and no play. " * 60), n_pinned=9):
        memory_map.observe(engine, force=True)
    snapshot, stats = memory_map.snapshot(), engine.stats
    for name in ("n_ctx", "n_cells", "n_seen", "n_evicted", "n_compactions", "kv_bytes", "kv_bytes_full"):
        assert getattr(snapshot, name) == getattr(stats, name)
    assert snapshot.n_compactions > 0
    assert (snapshot.model, snapshot.policy, snapshot.n_layer, snapshot.n_head) == ("fake", "salience", 30, 2)
    assert (snapshot.n_first_whole, snapshot.n_newest_whole) == slow_whole_ends(np.array(engine.held), stats.n_seen)
    assert snapshot.n_first_whole >= 9
    assert np.array_equal(snapshot.held[snapshot.rows_of.ravel()], engine.held)
    assert snapshot.share.shape == (30, snapshot.n_bins)


def test_heads_that_keep_cells_of_their_own_are_shown_as_layers(fake_engine: Any) -> None:
    engine, memory_map = fake_engine(n_ctx=128, policy=KeyDiff(n_recent=16)), MemoryMap()
    for _ in engine.read(engine.tokenize("All work and no play. " * 60)):
        memory_map.observe(engine, force=True)
    snapshot, held = memory_map.snapshot(), np.array(engine.held)
    assert held.shape == (60, snapshot.n_cells)
    assert (snapshot.n_layer, snapshot.share.shape) == (30, (30, snapshot.n_bins))
    assert snapshot.row_of.tolist() == [il // 3 for il in range(30)], "three neighbours share a row"
    assert (snapshot.n_first_whole, snapshot.n_newest_whole) == slow_whole_ends(held, snapshot.n_seen)
    close_up = memory_map.close_up(0, 40)
    for il, row in enumerate(close_up.n_kept.tolist()):
        assert row == [(token in held[2 * il]) + (token in held[2 * il + 1]) for token in range(40)]


def test_it_looks_five_times_a_second_at_most(fake_engine: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: 0.0, time=lambda: 0.0))  # looks are quick
    engine, memory_map = fake_engine(n_ctx=128), MemoryMap(clock)
    looks = []
    for _ in engine.read(list(range(200)) * 20):
        clock.now += 0.05
        looks.append(memory_map.observe(engine))
    assert len(looks) > 200
    assert len(looks) / 5 <= sum(looks) <= len(looks) / 4 + 2


def test_the_last_step_is_never_missed(fake_engine: Any, clock: Clock) -> None:
    engine, memory_map = fake_engine(n_ctx=128), MemoryMap(clock)
    for _ in engine.read([1] * 500):
        memory_map.observe(engine)  # the clock stands still: only the first call looks
    assert memory_map.snapshot().n_seen < 500
    assert memory_map.observe(engine)  # as the host calls it at a work's end
    assert memory_map.snapshot().n_seen == 500
    clock.now += 10
    assert not memory_map.observe(engine)  # nothing new, so nothing to look at


def test_a_slow_look_makes_the_next_one_wait(fake_engine: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.1])  # a look that takes 100 ms
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(times, 0.1), time=lambda: 0.0))
    engine, memory_map = fake_engine(n_ctx=128), MemoryMap(clock)
    reading = engine.read([1] * 2000)
    next(reading)
    assert memory_map.observe(engine)
    for now, is_due in ((1.0, False), (4.9, False), (5.1, True)):  # 2 % of the time at most
        clock.now = now
        next(reading)
        assert memory_map.observe(engine) == is_due


def test_speed_is_that_of_the_last_seconds(fake_engine: Any, clock: Clock) -> None:
    engine, memory_map = fake_engine(n_ctx=128), MemoryMap(clock)
    for n, _ in enumerate(engine.read([1] * 16 * 20), 1):  # 16 tokens each
        clock.now += 0.5
        memory_map.observe(engine, force=True)
        if n > 1:
            assert memory_map.snapshot().tokens_per_s == pytest.approx(32)
    clock.now += 60  # a pause is not slow work
    list(engine.read([1]))
    memory_map.observe(engine, force=True)
    assert memory_map.snapshot().tokens_per_s == 0


def test_while_another_engine_is_watched_the_usual_one_is_not(fake_engine: Any, clock: Clock) -> None:
    usual, guest, memory_map = fake_engine(n_ctx=128), fake_engine(n_ctx=256), MemoryMap(clock)
    memory_map.observe(usual)
    with memory_map.watching(guest):
        assert memory_map.observe(guest)
        clock.now += 1
        assert not memory_map.observe(usual)
        assert memory_map.snapshot().n_ctx == 256
    assert memory_map.observe(usual)
    assert memory_map.snapshot().n_ctx == 128


def test_revisions_grow_also_over_restarts() -> None:
    first = MemoryMap()
    assert first._revision > 10**12  # milliseconds of the clock: a page left open cannot hold a larger one
    assert MemoryMap()._revision >= first._revision
