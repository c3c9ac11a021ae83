"""What every policy must obey, over thousands of settings. A new policy joins by one row in SETTINGS."""

from __future__ import annotations

import doctest
import importlib
import json
import pickle
import re
from bisect import bisect_left
from dataclasses import FrozenInstanceError, fields
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import ladder_oracle

from lacache_gguf.errors import MemoryFull, PolicyError
from lacache_gguf.policies import (
    H2O,
    POLICIES,
    TOVA,
    Cascade,
    Full,
    KeyDiff,
    Ladder,
    Policy,
    Random,
    Salience,
    ScoredLadder,
    SinkWindow,
    SnapKV,
    View,
    default_ladder,
    default_policies,
    default_policy,
    is_per_head,
    needs_of,
)
from lacache_gguf.policies.scored import Scored

GOLDEN = Path(__file__).parents[1] / "golden" / "plans"
MANY = settings(max_examples=300, deadline=None, derandomize=True)


@st.composite
def ladders(draw: st.DrawFn) -> tuple[Policy, int]:
    """A ladder that is possible for n_layer layers, and n_layer."""
    n_layer = draw(st.integers(2, 40))
    span, overlap = draw(st.sampled_from(possible_pairs(n_layer)))
    policy = Ladder(
        span=span,
        overlap=overlap,
        n_sink=draw(st.integers(0, 9)),
        n_recent=draw(st.none() | st.integers(0, 50)),
        layers=draw(st.sampled_from(["interleaved", "contiguous", "digit"])),
    )
    return policy, n_layer


@cache
def possible_pairs(n_layer: int) -> list[tuple[int, int]]:
    """Every (span, overlap) that frees something."""
    pairs = [(span, overlap) for span in range(1, n_layer + 1) for overlap in range(span)]
    sizes = [ladder_oracle.rung_size(n_layer, span, overlap) for span, overlap in pairs]
    return [pair for pair, (n_src, n_dst) in zip(pairs, sizes, strict=True) if n_dst < n_src]


def scored(kind: type, **fields: st.SearchStrategy) -> st.SearchStrategy[tuple[Policy, int]]:
    """A policy that drops low scores, and n_layer."""
    common = {"n_sink": st.integers(0, 9), "heads": st.sampled_from(["layer", "each"])}
    if issubclass(kind, Scored):
        common["n_recent"] = st.none() | st.integers(0, 50)
    return st.tuples(st.builds(kind, **common, **fields), st.integers(1, 12))


@st.composite
def scored_ladders(draw: st.DrawFn) -> tuple[Policy, int]:
    n_src = draw(st.integers(2, 7))
    score = st.sampled_from(["keydiff", "attention"])
    return draw(scored(ScoredLadder, n_src=st.just(n_src), n_dst=st.integers(1, n_src - 1), score=score))


SETTINGS: dict[str, st.SearchStrategy[tuple[Policy, int]]] = {
    "full": st.tuples(st.just(Full()), st.integers(1, 40)),
    "sink_window": st.tuples(st.builds(SinkWindow, n_sink=st.integers(0, 9)), st.integers(1, 40)),
    "ladder": ladders(),
    "scored_ladder": scored_ladders(),
    "salience": scored(Salience),
    "keydiff": scored(KeyDiff),
    "random": scored(Random, seed=st.integers(0, 9)),
    "h2o": scored(H2O),
    "tova": scored(TOVA),
    "snapkv": scored(SnapKV, n_pool=st.sampled_from([1, 3, 7])),
    "cascade": scored(Cascade, n_cascade=st.integers(1, 6)),
}
EVICTING = sorted(set(POLICIES) - {"full"})


def smallest_n_ctx(policy: Policy, n_layer: int, n_pinned: int) -> int:
    """The smallest budget that `check` accepts."""

    def is_accepted(n_ctx: int) -> bool:
        try:
            policy.check(n_layer, n_ctx, n_pinned)
        except PolicyError:
            return False
        return True

    return bisect_left(range(1000), True, key=is_accepted)


def shown(policy: Policy, n_layer: int, n_cells: int, n_free: int, *numbers: int, n_head_kv: int = 2) -> View:
    """A view of so many cells, with scores if the policy wants them: few different ones, so that there are ties."""
    rng = np.random.default_rng([n_layer, n_cells, n_free])
    scores = rng.integers(-4, 5, (n_layer, n_head_kv, n_cells)).astype(np.float32)
    return View(
        n_layer, n_cells, n_free, *numbers, n_head_kv=n_head_kv, scores={need.kind: scores for need in needs_of(policy)}
    )


@st.composite
def situations(draw: st.DrawFn, name: str) -> tuple[Policy, View]:
    """A policy of this name and a view of which it can free n_free cells."""
    policy, n_layer = draw(SETTINGS[name])
    n_pinned = draw(st.integers(0, 20))
    n_cells = smallest_n_ctx(policy, n_layer, n_pinned) + draw(st.integers(0, 200))
    n_free = draw(st.integers(1, policy.n_free_max(n_layer, n_cells, n_pinned)))
    numbers = n_pinned, draw(st.integers(0, 250)), draw(st.integers(0, 9))
    return policy, shown(policy, n_layer, n_cells, n_free, *numbers, n_head_kv=draw(st.integers(1, 4)))


def slack(policy: Policy, n_layer: int) -> int:
    """How many cells more than asked a plan may free: less than one rung."""
    if isinstance(policy, ScoredLadder):
        return policy.n_src - policy.n_dst - 1
    return policy.rung(n_layer).n_freed - 1 if isinstance(policy, Ladder) else 0


def n_recent(policy: Policy, view: View) -> int:
    """Newest cells that the policy promises to keep."""
    if isinstance(policy, Scored):
        return policy.recent(view.n_cells)
    return policy.recent(view.n_layer) if isinstance(policy, Ladder) else 1


def test_every_registered_policy_is_tested() -> None:
    assert set(SETTINGS) == set(POLICIES)
    for name, policy in POLICIES.items():
        assert policy.name == name


@pytest.mark.parametrize("name", EVICTING)
def test_plan_obeys_the_contract(name: str) -> None:
    @MANY
    @given(situations(name))
    def holds(situation: tuple[Policy, View]) -> None:
        policy, view = situation
        plan = policy.plan(view)
        keep = plan.keep
        n_rows = (view.n_layer, view.n_head_kv) if is_per_head(policy) else (view.n_layer,)
        assert (keep.dtype, keep.flags.c_contiguous, keep.shape) == (np.int32, True, (*n_rows, plan.n_kept))
        assert (np.diff(keep) > 0).all()
        assert 0 <= keep.min() <= keep.max() < view.n_cells
        n_first = max(view.n_pinned, policy.n_sink)
        assert (keep[..., :n_first] == np.arange(n_first)).all()
        tail = n_recent(policy, view)
        assert tail >= 1
        assert (keep[..., -tail:] == np.arange(view.n_cells - tail, view.n_cells)).all()
        n_freed = view.n_cells - plan.n_kept
        assert view.n_free <= n_freed <= view.n_free + slack(policy, view.n_layer)
        again = policy.plan(view)
        assert not np.shares_memory(again.keep, keep)
        assert np.array_equal(again.keep, keep)
        assert (again.cursor, again.sweep) == (plan.cursor, plan.sweep)
        assert 0 <= plan.cursor <= plan.n_kept
        assert plan.sweep >= 0

    holds()


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_n_free_max_is_the_truth(name: str) -> None:
    @MANY
    @given(SETTINGS[name], st.integers(0, 20), st.integers(0, 200), st.integers(0, 250), st.integers(0, 9))
    def holds(case: tuple[Policy, int], n_pinned: int, n_more: int, cursor: int, sweep: int) -> None:
        policy, n_layer = case
        n_cells = n_pinned + n_more
        n_max = policy.n_free_max(n_layer, n_cells, n_pinned)
        assert 0 <= n_max <= n_cells
        if n_max:
            plan = policy.plan(shown(policy, n_layer, n_cells, n_max, n_pinned, cursor, sweep))
            assert n_cells - plan.n_kept == n_max
        with pytest.raises(MemoryFull) as error:
            policy.plan(shown(policy, n_layer, n_cells, n_max + 1, n_pinned, cursor, sweep))
        assert {str(n_cells), str(n_max + 1)} <= set(re.findall(r"\d+", str(error.value)))

    holds()


@pytest.mark.parametrize("name", EVICTING)
def test_a_budget_that_check_accepts_lasts_for_ever(name: str) -> None:
    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(SETTINGS[name], st.integers(0, 20), st.integers(0, 60), st.lists(st.integers(1, 200), min_size=1))
    def holds(case: tuple[Policy, int], n_pinned: int, n_more: int, asks: list[int]) -> None:
        policy, n_layer = case
        n_ctx = smallest_n_ctx(policy, n_layer, n_pinned) + n_more
        n_max = policy.n_free_max(n_layer, n_ctx, n_pinned)
        assert n_max >= 1
        cursor = sweep = 0
        for i in range(60):
            n_free = min(asks[i % len(asks)], n_max)  # i.e. a block of this many tokens wants to come in
            plan = policy.plan(shown(policy, n_layer, n_ctx, n_free, n_pinned, cursor, sweep))  # full again
            cursor, sweep = plan.cursor, plan.sweep
            assert plan.n_kept + n_free <= n_ctx

    holds()


@pytest.mark.parametrize("name", EVICTING)
def test_check_accepts_exactly_the_budgets_that_can_be_thinned(name: str) -> None:
    @MANY
    @given(SETTINGS[name], st.integers(0, 20), st.integers(1, 120))
    def holds(case: tuple[Policy, int], n_pinned: int, n_ctx: int) -> None:
        policy, n_layer = case
        if policy.n_free_max(n_layer, n_ctx, n_pinned) >= 1:
            policy.check(n_layer, n_ctx, n_pinned)
        else:
            with pytest.raises(PolicyError) as error:
                policy.check(n_layer, n_ctx, n_pinned)
            numbers = {int(number) for number in re.findall(r"\d+", str(error.value))}
            assert {n_ctx, smallest_n_ctx(policy, n_layer, n_pinned)} <= numbers  # the value seen and the one to use

    holds()


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_policies_are_frozen_values(name: str) -> None:
    @settings(max_examples=50, deadline=None, derandomize=True)
    @given(SETTINGS[name])
    def holds(case: tuple[Policy, int]) -> None:
        policy, _ = case
        twin = pickle.loads(pickle.dumps(policy))
        assert (twin, hash(twin)) == (policy, hash(policy))
        for field in fields(policy):
            with pytest.raises(FrozenInstanceError):
                setattr(policy, field.name, 1)

    holds()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_plan_equals_the_golden_one(path: Path) -> None:
    golden = json.loads(path.read_text(encoding="utf-8"))
    policy, view = POLICIES[golden["policy"]](**golden["settings"]), golden["view"]
    if "scores" in view:
        scores = np.array(view["scores"], dtype=np.float32)
        view["scores"] = {need.kind: scores for need in needs_of(policy)}
    plan = policy.plan(View(**view))
    assert {"keep": plan.keep.tolist(), "cursor": plan.cursor, "sweep": plan.sweep} == golden["plan"]


def test_there_are_goldens() -> None:
    assert {json.loads(path.read_text("utf-8"))["policy"] for path in GOLDEN.glob("*.json")} == set(EVICTING)


def test_default_policies_are_valid_for_every_model_and_budget() -> None:
    for n_layer in range(1, 200):
        for n_ctx in (64, 65, 96, 127, 256, 1024, 131_072):
            for policy in default_policies(n_layer, n_ctx):
                policy.check(n_layer, n_ctx)
                assert policy.n_free_max(n_layer, n_ctx) >= 1
    assert default_policy(30, 1024) == default_policies(30, 1024)[0] == Salience()
    assert default_policies(30, 1024)[-1] == default_ladder(30, 1024)
    assert default_ladder(30, 1024) == Ladder(span=15, overlap=0, n_sink=4, n_recent=512, layers="interleaved")
    assert default_ladder(1, 1024) == SinkWindow()  # a ladder of one layer would free nothing
    with pytest.raises(PolicyError, match="5 cells"):
        default_policy(30, 5)


def test_every_default_asks_for_less_than_the_one_before() -> None:
    asked = [(is_per_head(policy), {need.kind for need in needs_of(policy)}) for policy in default_policies(30, 1024)]
    assert asked == [
        (True, {"keydiff", "attention", "surprise", "age"}),
        (False, {"keydiff", "attention", "surprise", "age"}),
        (False, {"keydiff", "surprise", "age"}),
        (False, set()),
    ]


def test_position_only_policies_need_nothing() -> None:
    for policy in (Full(), SinkWindow(), Ladder(span=2)):
        assert needs_of(policy) == ()
        assert not is_per_head(policy)


@pytest.mark.parametrize(("module", "n_examples"), [("policies", 4), ("policies.plan", 4)])
def test_examples_in_docstrings_run(module: str, n_examples: int) -> None:
    assert doctest.testmod(importlib.import_module(f"lacache_gguf.{module}")) == (0, n_examples)
