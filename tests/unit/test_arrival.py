"""Scores that are taken once, against a dictionary: token -> what was said when it was new."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lacache_gguf.errors import LacacheError
from lacache_gguf.memory import Memory
from lacache_gguf.policies import KeyDiff, Plan, View

N_LAYER, N_HEAD, N_CTX = 3, 2, 64


class Native:
    """Tokens of every (layer, head), and a score that depends on all cells that were asked about."""

    def __init__(self) -> None:
        self.rows = [list(range(0)) for _ in range(N_LAYER * N_HEAD)]
        self.asked: list[int] = []

    def thin(self, keep: np.ndarray) -> None:
        rows = keep.reshape(len(self.rows), -1).tolist()
        self.rows = [[row[i] for i in kept] for row, kept in zip(self.rows, rows, strict=True)]

    def append(self, tokens: range) -> None:
        for row in self.rows:
            row.extend(tokens)

    def score(self, need, first: int) -> np.ndarray:
        self.asked.append(first)
        rows = [[score(i, token, row[first:]) for token in row[first:]] for i, row in enumerate(self.rows)]
        return np.array(rows, dtype=np.float32).reshape(N_LAYER, N_HEAD, -1)


def score(row: int, token: int, among: list[int]) -> float:
    return float((token * 31 + row * 17 + sum(among)) % 97)


class Spy(KeyDiff):
    """KeyDiff that remembers what it was shown."""

    def plan(self, view: View) -> Plan:
        shown.append(view.scores["keydiff"].copy())
        return super().plan(view)


shown: list[np.ndarray] = []


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    n_recent=st.sampled_from([0, 8, None]),
    sizes=st.lists(st.integers(-3, 9).filter(bool), min_size=30, max_size=80),  # negative: taken back
)
def test_a_cell_keeps_what_was_said_when_it_was_new(n_recent, sizes):
    native = Native()
    policy = Spy(n_recent=n_recent, heads="each", n_pos=1 << 20)
    memory = Memory(policy, N_LAYER, N_CTX, native.thin, n_head_kv=N_HEAD, score=native.score)
    shown.clear()
    said: list[dict[int, float]] = [{} for _ in native.rows]
    for n in sizes:
        if n < 0:
            n = min(-n, memory.n_retractable)
            for i, row in enumerate(native.rows):
                gone = row[len(row) - n :]
                native.rows[i] = row[: len(row) - n]
                said[i] = {token: value for token, value in said[i].items() if token not in gone}
            memory.retract(n)
            continue
        before = [list(row) for row in native.rows]
        n_intact = memory.n_retractable
        if memory.make_room(n):
            for i, row in enumerate(before):
                newest = row[len(row) - n_intact :]
                for token in newest:
                    said[i].setdefault(token, score(i, token, newest))
            expected = [[said[i][token] for token in row] for i, row in enumerate(before)]
            np.testing.assert_array_equal(shown[-1].reshape(len(before), -1), expected)
        native.append(range(memory.n_seen, memory.n_seen + n))
        memory.advance(n)
    assert len(native.asked) == memory.n_compactions


def full_memory() -> tuple[Memory, Native]:
    native = Native()
    policy = KeyDiff(n_recent=8, heads="each", n_pos=1 << 20)
    memory = Memory(policy, N_LAYER, N_CTX, native.thin, n_head_kv=N_HEAD, score=native.score)
    for _ in range(40):
        memory.make_room(4)
        native.append(range(memory.n_seen, memory.n_seen + 4))
        memory.advance(4)
    return memory, native


def test_a_restored_memory_knows_the_same():
    memory, native = full_memory()
    again = Memory(memory.policy, N_LAYER, N_CTX, lambda keep: None, n_head_kv=N_HEAD, score=native.score)
    counters, arrays = memory.state()
    again.restore(counters, arrays)
    for (name, one), other in zip(memory.state()[1].items(), again.state()[1].values(), strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)
    assert 0 < arrays["arrival"].shape[2] < memory.n_cells, "the newest cells were not asked about yet"
    for wrong in (None, arrays["arrival"][:1], arrays["arrival"] * np.float32("nan"), np.zeros((3, 2, 65), np.float32)):
        broken = {name: array for name, array in arrays.items() if name != "arrival"}
        with pytest.raises(ValueError, match="keydiff scores"):
            again.restore(counters, broken if wrong is None else {**broken, "arrival": wrong})


def test_scores_that_are_no_numbers_are_refused():
    memory, native = full_memory()
    native.score = None
    memory._scores[0]._ask = lambda need, first: np.full((N_LAYER, N_HEAD, memory.n_cells - first), np.nan, "f4")
    with pytest.raises(LacacheError, match="no finite numbers"):
        memory.make_room(64 - memory.n_cells + 1)
