"""Scores that travel with their cells, against a dictionary per head: token -> what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lacache_gguf.errors import LacacheError, UsageError
from lacache_gguf.memory import Memory
from lacache_gguf.policies import KeyDiff, Need, Plan, Salience, ScoredLadder, View


class Heads:
    """What native code knows, in lists: tokens[row] of every (layer, head), and queries since the last compaction."""

    def __init__(self, n_layer: int, n_head: int, n_query: int) -> None:
        self.n_layer, self.n_head, self.n_query = n_layer, n_head, n_query
        self.tokens: list[list[int]] = [[] for _ in range(n_layer * n_head)]
        self.queries: list[int] = []

    def append(self, first: int, end: int) -> None:
        for row in self.tokens:
            row.extend(range(first, end))
        self.queries = [*self.queries, *range(first, end)][-self.n_query :]

    def compact(self, keep: np.ndarray) -> None:
        rows = np.broadcast_to(
            keep if keep.ndim == 3 else keep[:, None], (self.n_layer, self.n_head, keep.shape[-1])
        ).reshape(len(self.tokens), -1)
        self.tokens = [[row[i] for i in kept] for row, kept in zip(self.tokens, rows.tolist(), strict=True)]
        self.queries = []

    def vote(self, row: int, token: int) -> float:
        """The mean over the queries of what they give the token: a number out of thin air, 0 for a later token."""
        given_by = [(query * 7 + token * 13 + row * 5) % 16 / 16 if token <= query else 0 for query in self.queries]
        return sum(given_by) / len(given_by)

    def score(self, need: Need, first: int) -> np.ndarray:
        assert (need.n_query, first) == (self.n_query, 0)
        rows = [[self.vote(row, token) for token in tokens] for row, tokens in enumerate(self.tokens)]
        return np.array(rows, dtype=np.float32).reshape(self.n_layer, self.n_head, -1)


class Spy:
    """A scored ladder that remembers the scores it was shown."""

    name = "spy"

    def __init__(self, policy: ScoredLadder) -> None:
        self.policy, self.seen = policy, []
        self.needs, self.is_per_head = policy.needs, policy.is_per_head
        self.check, self.n_free_max = policy.check, policy.n_free_max

    def plan(self, view: View) -> Plan:
        self.seen.append(view.scores["attention"].copy())
        return self.policy.plan(view)


def memory_of(policy: ScoredLadder, n_layer: int, n_head: int, n_ctx: int = 64) -> tuple[Memory, Heads, Spy]:
    heads, spy = Heads(n_layer, n_head, policy.n_query), Spy(policy)
    memory = Memory(
        spy,  # type: ignore[arg-type]
        n_layer,
        n_ctx,
        heads.compact,
        n_head_kv=n_head,
        score=heads.score,
        n_votes=lambda: len(heads.queries),
    )
    return memory, heads, spy


def feed(memory: Memory, heads: Heads, n: int, before_plan: Callable[[], None] = lambda: None) -> None:
    if memory.n_cells + n > memory.n_ctx:
        before_plan()
    memory.make_room(n)
    heads.append(memory.n_seen, memory.n_seen + n)
    memory.advance(n)


@st.composite
def attentive(draw: st.DrawFn) -> ScoredLadder:
    return ScoredLadder(
        n_recent=draw(st.sampled_from([0, 8, None])),
        heads=draw(st.sampled_from(["layer", "each"])),
        score="attention",
        n_query=draw(st.integers(1, 12)),
        decay=draw(st.sampled_from([0.0, 0.5, 0.875])),  # halves: sums of few are exact
    )


@settings(max_examples=100, deadline=None, derandomize=True)
@given(attentive(), st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(1, 9), min_size=20, max_size=60))
def test_what_is_known_fades_and_travels_with_the_cells(policy, n_layer, n_head, sizes):
    memory, heads, spy = memory_of(policy, n_layer, n_head)
    known: list[dict[int, float]] = [{} for _ in heads.tokens]
    expected, n_known = [], 0

    def look() -> None:
        nonlocal n_known
        weight, n_known = policy.decay ** (memory.n_seen - n_known), memory.n_seen
        for row, tokens in enumerate(heads.tokens):
            known[row] = {
                token: weight * known[row].get(token, 0) + (1 - weight) * heads.vote(row, token) for token in tokens
            }
        expected.append([list(row.values()) for row in known])

    for n in sizes:
        feed(memory, heads, n, look)
    n_rows = memory.n_head * n_layer
    assert memory.held.shape == (n_rows, memory.n_cells)
    each = memory.held if memory.n_head == n_head else np.repeat(memory.held, n_head, axis=0)
    assert each.tolist() == heads.tokens
    assert len(spy.seen) == memory.n_compactions
    for seen, rows in zip(spy.seen, expected, strict=True):
        np.testing.assert_allclose(seen.reshape(len(heads.tokens), -1), rows, atol=1e-6)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(attentive(), st.lists(st.integers(1, 9), max_size=40), st.lists(st.integers(1, 9), min_size=20))
def test_a_restored_memory_is_shown_the_same_scores(policy, before, after):
    """Its queries are gone, their votes are not."""
    memory, heads, spy = memory_of(policy, 2, 2)
    for n in before:
        feed(memory, heads, n)
    again, other, spied = memory_of(policy, 2, 2)
    again.restore(*memory.state())
    other.tokens = [list(row) for row in heads.tokens]
    n_old, n_new = len(heads.queries), 0
    for n in after:
        if again.n_cells + n_new + n > again.n_ctx:
            break
        n_new += n
    assume(not 0 < n_new < policy.n_query < n_old + n_new)  # only some are superseded: one cannot tell whose vote
    spy.seen.clear()
    for n in after:
        feed(memory, heads, n)
        feed(again, other, n)
    for seen, expected in zip(spied.seen, spy.seen, strict=True):
        np.testing.assert_allclose(seen, expected, atol=1e-6)
    np.testing.assert_array_equal(again.held, memory.held)


def test_without_votes_what_was_known_stands():
    policy = ScoredLadder(n_recent=8, score="attention", n_query=4)
    memory, heads, spy = memory_of(policy, 2, 2)
    for _ in range(16):
        feed(memory, heads, 4)
    memory.make_room(4)
    (first,) = spy.seen
    kept = memory.held[0].copy()
    memory.make_room(40)  # nothing was fed since: no query voted
    np.testing.assert_array_equal(spy.seen[1][0], first[0][:, kept])


def test_votes_outlive_cells_that_are_taken_back():
    policy = ScoredLadder(n_recent=8, score="attention", n_query=4)
    memory, heads, spy = memory_of(policy, 2, 2)
    for _ in range(16):
        feed(memory, heads, 4)
    expected = heads.score(policy.needs[0], 0)
    votes = memory.votes()
    memory.retract(3, votes)
    heads.tokens, heads.queries = [row[:-3] for row in heads.tokens], []  # native code forgets its queries
    feed(memory, heads, 2)
    heads.queries = []
    memory.make_room(2)
    (seen,) = spy.seen
    np.testing.assert_array_equal(seen[..., :61], expected[..., :61])
    assert (seen[..., 61:] == 0).all(), "cells that came in where others were"


def test_checkpoints_without_scores_are_refused_where_they_are_needed():
    policy = ScoredLadder(n_recent=8, score="attention", n_query=4, decay=0.5)
    memory, heads, _ = memory_of(policy, 2, 2)
    for _ in range(30):
        feed(memory, heads, 4)
    counters, arrays = memory.state()
    assert set(arrays) == {"held", "scores", "votes"}
    before = {name: array.tolist() for name, array in arrays.items()}
    with pytest.raises(ValueError, match="without scores"):
        memory.restore(counters, {"held": arrays["held"]})
    for name, wrong in (
        ("scores", arrays["scores"][:, :1]),
        ("scores", arrays["scores"] * np.float32("nan")),
        ("scores", arrays["scores"].astype(np.float64)),
        ("votes", arrays["votes"][..., 1:]),
    ):
        with pytest.raises(ValueError, match=name):
            memory.restore(counters, {**arrays, name: wrong})
    with pytest.raises(ValueError, match="5 votes of 4"):
        memory.restore({**counters, "n_votes": 5}, arrays)
    assert {name: array.tolist() for name, array in memory.state()[1].items()} == before


def test_keydiff_keeps_nothing_between_plans():
    asked = []

    def score(need: Need, first: int) -> np.ndarray:
        asked.append((need, first))
        return np.zeros((2, 3, memory.n_cells), dtype=np.float32)

    memory = Memory(KeyDiff(), 2, 64, lambda keep: None, n_head_kv=3, score=score)
    for _ in range(20):
        memory.make_room(8)
        memory.advance(8)
    counters, arrays = memory.state()
    assert asked == [(Need("keydiff"), 0)] * memory.n_compactions
    assert set(arrays) == {"held"}
    memory.restore(counters, arrays)


@pytest.mark.parametrize("heads", ["layer", "each"])
def test_a_memory_knows_itself_how_old_its_cells_are(heads):
    policy = Salience(n_recent=8, heads=heads, keydiff=0, attention=0, surprise=0, fade=1)
    shown = []
    spy = SimpleNamespace(
        name="spy", needs=policy.needs, is_per_head=policy.is_per_head, check=policy.check,
        n_free_max=policy.n_free_max, plan=lambda view: shown.append(view.scores["age"].copy()) or policy.plan(view),
    )  # fmt: skip
    memory = Memory(spy, 2, 64, lambda keep: None, n_head_kv=3)
    for _ in range(40):
        held, n_seen, n = memory.held.copy(), memory.n_seen, len(shown)
        memory.make_room(4)
        if len(shown) > n:
            ages = (held - (n_seen - 1)).reshape(2, -1, held.shape[1])
            np.testing.assert_array_equal(shown[-1], np.broadcast_to(ages, (2, 3, held.shape[1])))
        memory.advance(4)
    assert memory.n_compactions > 2
    assert memory.held[:, 4:].min() == memory.n_seen - memory.n_cells + 4, "only the newest are left behind the sinks"


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_scores_that_are_no_numbers_are_refused(value):
    scores = np.full((2, 1, 64), value, np.float32)
    memory = Memory(KeyDiff(), 2, 64, lambda keep: None, score=lambda need, first: scores)
    memory.advance(64)
    with pytest.raises(LacacheError, match="no finite numbers"):
        memory.make_room(1)


def test_a_memory_without_a_model_says_so():
    memory = Memory(KeyDiff(), 2, 64, lambda keep: None)
    memory.advance(64)
    with pytest.raises(UsageError, match="needs keydiff scores"):
        memory.make_room(1)


def test_votes_outlive_a_turn_of_all_keys():
    """Native code forgets the queries when keys turn, also where no plan was made that would have counted them."""
    heads = Heads(1, 1, n_query=4)

    def turn(turns: np.ndarray, shift: int) -> None:
        heads.queries = []

    policy = Salience(keydiff=0, surprise=0, fade=0, n_query=4, n_recent=4, n_pos=61)
    memory = Memory(
        policy, 1, 16, heads.compact, thin=heads.compact, turn=turn, score=heads.score,
        n_votes=lambda: len(heads.queries), n_ctx_train=64,
    )  # fmt: skip
    n_turns_with_votes = 0
    for _ in range(100):
        (votes, n_votes), first = memory.votes(), memory.pos_next
        has_compacted = memory.make_room(1)
        if memory.pos_next < first and not has_compacted and n_votes:
            after, n_after = memory.votes()
            assert n_after == n_votes
            np.testing.assert_array_equal(after, votes)
            n_turns_with_votes += 1
        heads.append(memory.n_seen, memory.n_seen + 1)
        memory.advance(1)
    assert n_turns_with_votes
