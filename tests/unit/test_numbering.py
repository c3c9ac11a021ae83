"""Original positions, against lists of keys that know their token and the position they were turned to."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lacache_gguf.errors import OutOfMemory, PolicyError
from lacache_gguf.key_wear import check_key_wear
from lacache_gguf.memory import Memory
from lacache_gguf.numbering import Original
from lacache_gguf.policies import KeyDiff, Ladder, Need, Salience, SinkWindow, n_pos_of


class Keys:
    """What native code does, row by row: [token, position] of every key, and the newest position of the table."""

    def __init__(self, n_layer: int, n_head: int = 1) -> None:
        self.n_head = n_head
        self.rows: list[list[list[int]]] = [[] for _ in range(n_layer * n_head)]
        self.n_turns = 0

    def thin(self, keep: np.ndarray) -> None:
        rows = keep.reshape(len(self.rows), -1).tolist()
        self.rows = [[row[i] for i in kept] for row, kept in zip(self.rows, rows, strict=True)]

    def turn(self, turn: np.ndarray, shift: int) -> None:
        assert turn.shape == (len(self.rows) // self.n_head, self.n_head, len(self.rows[0]))
        newest = {row[-1][1] for row in self.rows}
        for row, turns in zip(self.rows, turn.reshape(len(self.rows), -1).tolist(), strict=True):
            row[:] = [[token, pos + delta] for (token, pos), delta in zip(row, turns, strict=True)]
        assert {row[-1][1] - shift for row in self.rows} == newest
        self.n_turns += 1

    def append(self, n_seen: int, pos: int, n: int) -> None:
        for row in self.rows:
            row.extend([n_seen + i, pos + i] for i in range(n))

    def score(self, need: Need, first: int) -> np.ndarray:
        tokens = np.array([[token for token, _ in row[first:]] for row in self.rows])
        return (tokens * 37 % 101).astype(np.float32).reshape(-1, self.n_head, tokens.shape[1])


def memory_of(policy, keys: Keys, n_layer: int, n_ctx: int = 64, n_ctx_train: int = 200) -> Memory:
    heads = {"n_head_kv": keys.n_head, "score": keys.score}
    return Memory(policy, n_layer, n_ctx, keys.thin, thin=keys.thin, turn=keys.turn, n_ctx_train=n_ctx_train, **heads)


def feed(memory: Memory, keys: Keys, n: int) -> None:
    memory.make_room(n)
    keys.append(memory.n_seen, memory.pos_next, n)
    memory.advance(n)


POLICIES = [
    SinkWindow(n_pos=1 << 20),
    Ladder(span=2, n_recent=8, n_pos=1 << 20),
    Salience(attention=0, surprise=0, n_recent=8, n_pos=1 << 20),
]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    policy=st.sampled_from(POLICIES),
    n_ctx_train=st.integers(70, 400),
    sizes=st.lists(st.integers(1, 12), min_size=30, max_size=150),
)
def test_keys_keep_their_distance_and_never_leave_the_trained_context(policy, n_ctx_train, sizes):
    keys = Keys(4, 2 if isinstance(policy, Salience) else 1)
    memory = memory_of(policy, keys, 4, n_ctx_train=n_ctx_train)
    for n in sizes:
        feed(memory, keys, n)
        assert memory.n_cells <= memory.pos_next <= max(n_ctx_train, memory.n_cells)
        for row, held in zip(keys.rows, memory.held.tolist(), strict=True):
            tokens, pos = zip(*row, strict=True)
            assert list(tokens) == held
            assert pos[0] >= 0
            assert pos[-1] == memory.pos_next - 1
            assert all(a < b for a, b in itertools.pairwise(pos))
            if not keys.n_turns:
                assert pos == tokens
            # what is younger than half of the trained context was never closed up
            far = max(memory.n_cells, n_ctx_train // 2) - memory.n_ctx
            assert all(pos[-1] - p == tokens[-1] - t for t, p in row if tokens[-1] - t < far)
    state, turned = memory.state(), [row[:] for row in keys.rows]
    again = memory_of(policy, keys, 4, n_ctx_train=n_ctx_train)
    again.restore(*state)
    assert again.pos_next == memory.pos_next
    np.testing.assert_array_equal(again.state()[1]["pos"], [[pos for _, pos in row] for row in turned])


def test_half_of_the_trained_context_becomes_free_at_once():
    keys = Keys(2)
    memory = memory_of(SinkWindow(n_pos=1 << 20), keys, 2, n_ctx=64, n_ctx_train=256)
    for _ in range(256):
        feed(memory, keys, 1)
    assert (keys.n_turns, memory.pos_next) == (0, 256)
    feed(memory, keys, 1)
    assert (keys.n_turns, memory.pos_next) == (1, 129)
    sinks, rest = keys.rows[0][:4], keys.rows[0][4:]
    assert sinks == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert all(pos == token - 128 for token, pos in rest), "the rest keeps its distance"
    for _ in range(127):
        feed(memory, keys, 1)
    assert keys.n_turns == 1


def test_a_memory_as_large_as_the_trained_context_is_numbered_like_a_cache():
    plans: list[np.ndarray] = []
    memory = Memory(SinkWindow(n_pos=1 << 20), 2, 64, plans.append, thin=None, turn=None, n_ctx_train=64)
    for _ in range(200):
        memory.make_room(1)
        memory.advance(1)
        assert memory.pos_next == memory.n_cells
    assert len(plans) == memory.n_compactions > 0


def test_a_turn_that_fails_changes_no_position():
    keys = Keys(2)
    memory = memory_of(SinkWindow(n_pos=1 << 20), keys, 2)
    for _ in range(200):
        feed(memory, keys, 1)

    def fails(turn: np.ndarray, shift: int) -> None:
        raise OutOfMemory("no room")

    works, memory._turn = memory._turn, fails
    with pytest.raises(OutOfMemory):
        memory.make_room(1)
    assert memory.pos_next == 200
    assert [pos for _, pos in keys.rows[0]] == memory.state()[1]["pos"][0].tolist()
    memory._turn = works
    feed(memory, keys, 1)
    assert memory.pos_next < 200
    assert [pos for _, pos in keys.rows[0]] == memory.state()[1]["pos"][0].tolist()


def test_taken_back_positions_are_given_again():
    keys = Keys(2)
    memory = memory_of(SinkWindow(n_pos=1 << 20), keys, 2)
    for _ in range(100):
        feed(memory, keys, 1)
    memory.retract(5)
    keys.rows = [row[:-5] for row in keys.rows]
    assert memory.pos_next == 95
    feed(memory, keys, 2)
    assert keys.rows[0][-2:] == [[95, 95], [96, 96]]


def test_restored_positions_are_checked():
    numbering = Original(2, 16, 100)
    numbering.advance(0, 4)
    good = numbering.state(4)["pos"]
    for pos, pos_next in (
        (None, 4),
        (good[:1], 4),
        (good.astype(np.int64), 4),
        (good[:, ::-1].copy(), 4),
        (good - 1, 4),
        (good + 1, 4),
        (good * 0, 4),
        (good, 3),
    ):
        with pytest.raises(ValueError, match="position"):
            numbering.restore(4, pos_next, {} if pos is None else {"pos": pos})
    assert numbering.state(4)["pos"].tolist() == good.tolist()
    assert numbering.pos_next == 4


def test_coarse_keys_do_not_wear_out_where_they_are_not_turned():
    def check(n_freed: int) -> None:
        check_key_wear("q4_0", 64, n_freed)

    with pytest.raises(PolicyError, match="rounded anew"):
        Memory(SinkWindow(n_sink=60), 2, 64, lambda keep: None, check)
    Memory(SinkWindow(n_sink=60, n_pos=1 << 20), 2, 64, lambda keep: None, check)


@pytest.mark.parametrize("make", [SinkWindow, KeyDiff, lambda **given: Ladder(span=2, **given)])
def test_every_kind_of_policy_may_keep_positions(make):
    assert not n_pos_of(make(), 1024, 1 << 24)
    assert n_pos_of(make(n_pos=1 << 20), 1024, 1 << 24) == 1 << 20
    assert n_pos_of(make(n_pos=1 << 20), 1024, 8192) == 8192
    assert not n_pos_of(make(n_pos=1 << 20), 8192, 8192)
    assert not n_pos_of(make(n_pos=1024), 1024, 8192)
    with pytest.raises(PolicyError, match="n_pos must be"):
        make(n_pos=-1)
