"""The scored policies against their slow twins, and the pictures in their docstrings against themselves."""

from __future__ import annotations

import doctest
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import scored_oracle as oracle

from lacache_gguf import policies
from lacache_gguf.errors import PolicyError
from lacache_gguf.policies import (
    H2O,
    POLICIES,
    TOVA,
    Cascade,
    KeyDiff,
    Need,
    Policy,
    Random,
    Salience,
    ScoredLadder,
    SnapKV,
    View,
    needs_of,
)
from lacache_gguf.policies.salience import ranks
from lacache_gguf.policies.scored import Heads, lowest

DOC = Path(__file__).parents[2] / "docs" / "policies.md"
MANY = settings(max_examples=200, deadline=None, derandomize=True)
SIZES = {
    "n_layer": st.integers(1, 5),
    "n_head_kv": st.sampled_from([1, 2, 4]),  # powers of two: the mean of whole scores is exact
    "n_sink": st.integers(0, 6),
    "n_recent": st.none() | st.integers(0, 30),
    "heads": st.sampled_from(["layer", "each"]),
    "n_pinned": st.integers(0, 12),
    "n_more": st.integers(0, 80),
    "cursor": st.integers(0, 100),
    "sweep": st.integers(0, 7),
    "n_kinds": st.sampled_from([1, 3, 1000]),  # few different scores: many ties
    "seed": st.integers(0, 2**32 - 1),
}


def case_of(policy: Policy, case: dict[str, Any], data: st.DataObject, n_least: int) -> tuple[View, dict[str, int]]:
    """(a view of which the policy can free n_free cells, what the oracle wants to know about every row)."""
    n_first = max(case["n_sink"], case["n_pinned"])
    n_cells = n_first + n_least + case["n_more"]
    if case["n_recent"] is None:
        n_cells *= 2
    else:
        n_cells += max(1, case["n_recent"])
    shape = (case["n_layer"], case["n_head_kv"], n_cells)
    scores = np.random.default_rng(case["seed"]).integers(0, case["n_kinds"], shape).astype(np.float32)
    n_free = data.draw(st.integers(1, policy.n_free_max(shape[0], n_cells, case["n_pinned"])))
    numbers = {name: case[name] for name in ("n_pinned", "cursor", "sweep", "n_head_kv")}
    n_tail = oracle.n_tail_of(case["n_recent"], n_cells)
    return View(shape[0], n_cells, n_free, **numbers, scores={need.kind: scores for need in needs_of(policy)}), {
        "n_free": n_free,
        "n_first": n_first,
        "n_tail": n_tail,
    }


def the_scores(view: View) -> list:
    """Of a policy that wants one kind."""
    (scores,) = view.scores.values()
    return scores.tolist()


def in_shape(rows: list[list[list[int]]], heads: Heads) -> list:
    return rows if heads == "each" else [row for (row,) in rows]


@MANY
@given(st.fixed_dictionaries(SIZES), st.data())
def test_keydiff_drops_what_the_oracle_drops(case: dict[str, Any], data: st.DataObject) -> None:
    policy = KeyDiff(case["n_sink"], case["n_recent"], case["heads"])
    view, known = case_of(policy, case, data, 1)
    rows = oracle.rows_of(the_scores(view), policy.heads)
    expected = [[oracle.drop_lowest(row, **known) for row in layer] for layer in rows]
    assert policy.plan(view).keep.tolist() == in_shape(expected, policy.heads)


@pytest.mark.parametrize("kind", [H2O, TOVA])
def test_h2o_and_tova_drop_what_the_oracle_drops(kind: type) -> None:
    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(st.fixed_dictionaries(SIZES), st.data())
    def holds(case: dict[str, Any], data: st.DataObject) -> None:
        policy = kind(case["n_sink"], case["n_recent"], case["heads"])
        view, known = case_of(policy, case, data, 1)
        rows = oracle.rows_of(the_scores(view), policy.heads)
        expected = [[oracle.drop_lowest(row, **known) for row in layer] for layer in rows]
        assert policy.plan(view).keep.tolist() == in_shape(expected, policy.heads)

    holds()


@MANY
@given(st.fixed_dictionaries(SIZES), st.sampled_from([1, 3, 7]), st.data())
def test_snapkv_drops_what_the_oracle_drops(case: dict[str, Any], n_pool: int, data: st.DataObject) -> None:
    policy = SnapKV(case["n_sink"], case["n_recent"], case["heads"], n_pool=n_pool)
    view, known = case_of(policy, case, data, 1)
    rows = oracle.rows_of(the_scores(view), policy.heads)
    expected = [
        [oracle.drop_lowest(oracle.pooled(row, known["n_tail"], n_pool), **known) for row in layer] for layer in rows
    ]
    assert policy.plan(view).keep.tolist() == in_shape(expected, policy.heads)


@MANY
@given(st.fixed_dictionaries(SIZES), st.data())
def test_random_drops_the_lowest_lots(case: dict[str, Any], data: st.DataObject) -> None:
    policy = Random(case["n_sink"], case["n_recent"], case["heads"], seed=case["seed"])
    view, known = case_of(policy, case, data, 1)
    n_rows = view.n_head_kv if policy.heads == "each" else 1
    lots = np.random.default_rng([policy.seed, view.sweep]).random((view.n_layer, n_rows, view.n_cells), np.float32)
    expected = [[oracle.drop_lowest(row, **known) for row in layer] for layer in lots.tolist()]
    plan = policy.plan(view)
    assert (plan.keep.tolist(), plan.sweep) == (in_shape(expected, policy.heads), view.sweep + 1)


@MANY
@given(st.fixed_dictionaries(SIZES), st.integers(2, 7), st.data())
def test_scored_ladder_keeps_what_the_oracle_keeps(case: dict[str, Any], n_src: int, data: st.DataObject) -> None:
    rung = {"n_src": n_src, "n_dst": data.draw(st.integers(1, n_src - 1))}
    policy = ScoredLadder(case["n_sink"], case["n_recent"], case["heads"], **rung)
    view, known = case_of(policy, case, data, n_src)
    resume = {"cursor": view.cursor, "sweep": view.sweep}
    rows = oracle.rows_of(the_scores(view), policy.heads)
    answers = [[oracle.thin_rungs(row, **known, **rung, **resume) for row in layer] for layer in rows]
    plan = policy.plan(view)
    assert plan.keep.tolist() == in_shape([[kept for kept, *_ in layer] for layer in answers], policy.heads)
    assert {(plan.cursor, plan.sweep)} == {(cursor, sweep) for layer in answers for _, cursor, sweep in layer}


WEIGHTS = st.sampled_from([0.0, 0.5, 1.0, 3.0])  # multiples of a half: sums of few ranks are exact


@MANY
@given(st.fixed_dictionaries(SIZES), st.tuples(WEIGHTS, WEIGHTS, WEIGHTS, WEIGHTS), st.data())
def test_salience_drops_what_the_oracle_drops(
    case: dict[str, Any], weights: tuple[float, ...], data: st.DataObject
) -> None:
    kinds = ("keydiff", "attention", "surprise")
    weights = weights if any(weights) else (1.0, 0.0, 0.0, 0.0)
    named = dict(zip((*kinds, "fade"), weights, strict=True))
    policy = Salience(case["n_sink"], case["n_recent"] or 5, case["heads"], **named)
    case = {**case, "n_recent": policy.n_recent}
    view, known = case_of(policy, case, data, 1)
    rng = np.random.default_rng(case["seed"])
    shape = (view.n_layer, view.n_head_kv, view.n_cells)
    scores = {kind: rng.integers(0, case["n_kinds"], shape).astype(np.float32) for kind in kinds}
    ages = -rng.integers(0, 5000, shape).astype(np.float32)
    shown = {kind: scores[kind] for kind in kinds if getattr(policy, kind)}
    view = replace(view, scores=shown | ({"age": ages} if policy.fade else {}))
    by_kind = {kind: oracle.rows_of(scores[kind].tolist(), policy.heads) for kind in kinds}
    old = oracle.rows_of(ages.tolist(), policy.heads)
    n_rows = view.n_head_kv if policy.heads == "each" else 1
    expected = []
    for il in range(view.n_layer):
        rows = [[(weights[k], by_kind[kind][il][i]) for k, kind in enumerate(kinds)] for i in range(n_rows)]
        totals = [oracle.added_ranks(row, weights[3], old[il][i]) for i, row in enumerate(rows)]
        expected.append([oracle.drop_lowest(row, **known) for row in totals])
    assert policy.plan(view).keep.tolist() == in_shape(expected, policy.heads)


@given(st.lists(st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0]), min_size=1, max_size=40))
def test_ranks_are_the_order_of_floats(row: list[float]) -> None:
    expected = [sum(other < x or (other == x and j < i) for j, other in enumerate(row)) for i, x in enumerate(row)]
    scores = np.array([row, row[::-1]], dtype=np.float32)
    assert ranks(scores)[0].tolist() == expected
    assert ranks(scores).shape == scores.shape


def test_salience_asks_only_for_what_has_a_weight() -> None:
    assert [need.kind for need in Salience().needs] == ["keydiff", "attention", "surprise", "age"]
    assert [need.kind for need in Salience(attention=0, fade=0).needs] == ["keydiff", "surprise"]
    assert Salience(n_recent=None).recent(1024) == 256
    for wrong in ({"surprise": -1}, {"keydiff": float("nan")}, {"fade": float("inf")}, {"attention": "much"}):
        with pytest.raises(PolicyError, match=f"weight {next(iter(wrong))}"):
            Salience(**wrong)
    with pytest.raises(PolicyError, match="all weights are 0"):
        Salience(keydiff=0, attention=0, surprise=0, fade=0)


def test_random_draws_other_lots_every_time_and_with_every_seed() -> None:
    view = View(n_layer=4, n_cells=64, n_free=16)
    keep = Random().plan(view).keep
    assert len({row.tobytes() for row in keep}) == 4
    for policy, sweep in ((Random(), 1), (Random(seed=1), 0)):
        assert not np.array_equal(policy.plan(View(4, 64, 16, sweep=sweep)).keep, keep)


@MANY
@given(st.lists(st.integers(0, 4), max_size=20), st.integers(0, 20))
def test_lowest_marks_so_many_and_no_higher_one(scores: list[int], n_drop: int) -> None:
    goes = lowest(np.array(scores, dtype=np.float32), min(n_drop, len(scores)))
    order = sorted(range(len(scores)), key=lambda i: (scores[i], i))
    assert np.flatnonzero(goes).tolist() == sorted(order[:n_drop])


def test_scores_that_are_missing_are_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="keydiff scores are needed"):
        KeyDiff(n_sink=0).plan(View(n_layer=2, n_cells=8, n_free=1))


@pytest.mark.parametrize(
    ("kind", "kwargs", "text"),
    [
        (KeyDiff, {"n_sink": -1}, "keydiff: n_sink must be at least 0, got -1"),
        (KeyDiff, {"n_recent": "all"}, "keydiff: n_recent must be a whole number, got 'all'"),
        (KeyDiff, {"heads": "all"}, "keydiff: heads 'all' is unknown; choose one of layer, each"),
        (Random, {"seed": -1}, "random: seed must be at least 0, got -1"),
        (ScoredLadder, {"n_src": 1}, "n_src must be at least 2, got 1"),
        (ScoredLadder, {"n_dst": 2}, "a rung of 2 that keeps 2 frees nothing"),
        (ScoredLadder, {"n_dst": 0}, "n_dst must be at least 1, got 0"),
        (ScoredLadder, {"score": "luck"}, "score 'luck' is unknown; choose one of keydiff, attention"),
        (ScoredLadder, {"decay": 1}, "decay must be at least 0 and below 1, got 1"),
        (ScoredLadder, {"n_query": 0}, "n_query must be at least 1, got 0"),
        (H2O, {"decay": 1.0}, "decay must be at least 0 and below 1, got 1.0"),
        (SnapKV, {"n_pool": 4}, "n_pool must be odd, got 4"),
        (SnapKV, {"n_pool": 0}, "n_pool must be at least 1, got 0"),
        (SnapKV, {"n_query": True}, "n_query must be a whole number, got True"),
        (Cascade, {"n_cascade": 0}, "n_cascade must be at least 1, got 0"),
        (Cascade, {"n_cascade": 17}, "n_cascade must be at most 16, got 17"),
        (Cascade, {"heads": None}, "heads None is unknown"),
    ],
)
def test_impossible_settings_are_refused_at_once(kind: type, kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(PolicyError, match=text):
        kind(**kwargs)


def test_published_settings() -> None:
    assert (TOVA().needs, TOVA().heads, TOVA().recent(1024)) == ((Need("attention", 1),), "layer", 1)
    assert (H2O().needs, H2O().heads, H2O().recent(1024)) == ((Need("attention", 128, 0.99999),), "each", 512)
    assert (SnapKV().needs, SnapKV().heads, SnapKV().recent(1024)) == ((Need("attention", 32),), "each", 32)
    assert (KeyDiff().needs, KeyDiff().heads) == ((Need("keydiff"),), "each")


def test_scored_ladder_needs_what_its_score_needs() -> None:
    assert ScoredLadder().needs == (Need("keydiff"),)
    assert ScoredLadder(score="attention", n_query=8, decay=0.5).needs == (Need("attention", 8, 0.5),)


PICTURES = {
    KeyDiff(n_sink=2, n_recent=4): ("keydiff", "head", 5),
    ScoredLadder(n_sink=2, n_recent=4): ("scored_ladder", "layer", 5),
    H2O(n_recent=8): ("h2o", "head", 4),
    TOVA(): ("tova", "layer", 6),
    SnapKV(n_recent=4, n_pool=3): ("snapkv", "head", 5),
    Salience(n_sink=2, n_recent=4, attention=0, surprise=0, fade=0): ("salience", "head", 5),
}


@pytest.mark.parametrize("policy", PICTURES, ids=lambda policy: policy.name)
def test_pictures_in_the_docstrings_are_plans(policy: Policy) -> None:
    module, row, n_free = PICTURES[policy]
    text = getattr(policies, module).__doc__
    lines = re.findall(rf"{row} \d   (\d{{16}})   ([#.]{{16}})", text)
    assert len(lines) >= 2
    scores = np.array([[float(digit) for digit in digits] for digits, _ in lines], dtype=np.float32)
    scores = scores[None] if row == "head" else scores[:, None]
    view = View(scores.shape[0], 16, n_free, n_head_kv=scores.shape[1], scores={policy.needs[0].kind: scores})
    keep = policy.plan(view).keep.reshape(len(lines), -1).tolist()
    assert ["".join("#" if cell in kept else "." for cell in range(16)) for kept in keep] == [line for _, line in lines]


def test_picture_of_random_is_a_plan() -> None:
    keep = Random(n_sink=2, n_recent=4).plan(View(n_layer=4, n_cells=16, n_free=5)).keep.tolist()
    lines = ["".join("#" if cell in kept else "." for cell in range(16)) for kept in keep]
    assert re.findall(r"layer \d   ([#.]{16})", policies.random.__doc__) == lines


def test_the_document_shows_the_same_pictures() -> None:
    text = DOC.read_text(encoding="utf-8")
    for module, pattern in (("scored_ladder", r"\d{16}   [#.]{16}"), ("cascade", r"all scores equal   [#.]{36}")):
        for line in re.findall(pattern, getattr(policies, module).__doc__):
            assert line in text


def test_the_document_names_the_defaults() -> None:
    rows = re.findall(
        r"(?m)^\| `(\w+)` \| \[.* \| (layer|each) \| (\d+) \| (\d+|half of the cells) \|$", DOC.read_text("utf-8")
    )
    assert [name for name, *_ in rows] == ["keydiff", "tova", "h2o", "snapkv"]
    for name, heads, n_sink, n_recent in rows:
        policy = POLICIES[name]()
        assert (policy.heads, policy.n_sink) == (heads, int(n_sink))
        assert policy.n_recent == (int(n_recent) if n_recent.isdigit() else None)


def test_examples_of_the_oracle_run() -> None:
    assert doctest.testmod(oracle).attempted > doctest.testmod(oracle).failed == 0
