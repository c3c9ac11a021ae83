"""The ladder against the published method: stored runs, a slow oracle, known facts, and the documents that show it."""

from __future__ import annotations

import doctest
from pathlib import Path

import numpy as np
import pytest
from golden.plans import make_golden
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import ladder_oracle, replay

from lacache_gguf.errors import PolicyError
from lacache_gguf.policies import Ladder, Plan, Policy, SinkWindow, View, ladder

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT.parent / "shared" / "data" / "reference_wikitext2_c256.npz"
DOC = ROOT / "docs" / "policies.md"


@pytest.mark.skipif(not REFERENCE.exists(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    ("key", "policy"),
    [("ladder_15_0", Ladder(15, 0)), ("ladder_8_4", Ladder(8, 4)), ("sink_window", SinkWindow(4))],
)
def test_same_tokens_as_the_published_method_after_3000(key: str, policy: Policy) -> None:
    with np.load(REFERENCE) as reference:
        kept = reference[f"kept_{key}"]
    *_, held = replay.replay(policy, n_layer=30, n_ctx=256, n_tokens=3000)
    np.testing.assert_array_equal(held, kept)


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict, int]:
    """(settings of a ladder, n_layer) that free something."""
    n_layer = draw(st.integers(2, 34))
    span = draw(st.integers(1, n_layer))
    overlap = draw(st.integers(0, span - 1))
    n_src, n_dst = ladder_oracle.rung_size(n_layer, span, overlap)
    assume(n_dst < n_src)
    layers = draw(st.sampled_from(["interleaved", "contiguous", "digit"]))
    n_sink, n_recent = draw(st.integers(0, 6)), draw(st.none() | st.integers(0, 40))
    return {"span": span, "overlap": overlap, "n_sink": n_sink, "n_recent": n_recent, "layers": layers}, n_layer


@settings(max_examples=400, deadline=None, derandomize=True)
@given(cases(), st.integers(0, 12), st.integers(0, 90), st.integers(0, 140), st.integers(0, 7), st.data())
def test_equals_the_oracle(
    case: tuple[dict, int], n_pinned: int, n_more: int, cursor: int, sweep: int, data: st.DataObject
) -> None:
    kwargs, n_layer = case
    policy = Ladder(**kwargs)
    n_cells = max(policy.n_sink, n_pinned) + policy.recent(n_layer) + policy.rung(n_layer).n_src + n_more
    n_free = data.draw(st.integers(1, policy.n_free_max(n_layer, n_cells, n_pinned)))
    view = {"n_layer": n_layer, "n_cells": n_cells, "n_free": n_free, "n_pinned": n_pinned}
    expected = ladder_oracle.evict(**kwargs, **view, cursor=cursor, sweep=sweep)
    plan = policy.plan(View(**view, cursor=cursor, sweep=sweep))
    assert (plan.keep.tolist(), plan.cursor, plan.sweep) == expected
    view["n_free"] = policy.n_free_max(n_layer, n_cells, n_pinned) + 1
    with pytest.raises(ladder_oracle.Full):
        ladder_oracle.evict(**kwargs, **view, cursor=cursor, sweep=sweep)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(cases(), st.integers(0, 9), st.integers(1, 60), st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_equals_the_oracle_over_a_stream(case: tuple[dict, int], n_pinned: int, n_more: int, asks: list[int]) -> None:
    kwargs, n_layer = case
    policy = Ladder(**kwargs)
    n_ctx = max(policy.n_sink, n_pinned) + policy.recent(n_layer) + policy.rung(n_layer).n_src + n_more
    n_max = policy.n_free_max(n_layer, n_ctx, n_pinned)
    fast = np.tile(np.arange(n_ctx), (n_layer, 1))
    slow = fast.tolist()
    plan = Plan(np.zeros((1, 1), dtype=np.int32))
    cursor = sweep = 0
    for i in range(25):
        n_free = min(asks[i % len(asks)], n_max)
        view = {"n_layer": n_layer, "n_cells": n_ctx, "n_free": n_free, "n_pinned": n_pinned}
        plan = policy.plan(View(**view, cursor=plan.cursor, sweep=plan.sweep))
        keep, cursor, sweep = ladder_oracle.evict(**kwargs, **view, cursor=cursor, sweep=sweep)
        tokens = range((i + 1) * n_ctx, (i + 2) * n_ctx - plan.n_kept)  # refill; numbers only need to be new
        fast = np.hstack([np.take_along_axis(fast, plan.keep, 1), np.tile(tokens, (n_layer, 1))])
        slow = [[held[cell] for cell in kept] + list(tokens) for held, kept in zip(slow, keep, strict=True)]
        assert fast.tolist() == slow


@pytest.mark.parametrize(
    ("n_layer", "span", "overlap", "rung"),
    [
        (32, 16, 0, (2, 1)),  # the published settings and their numbers
        (32, 8, 4, (7, 2)),
        (32, 9, 3, (5, 2)),
        (32, 16, 8, (3, 2)),
        (32, 8, 0, (4, 1)),
        (28, 14, 0, (2, 1)),
        (24, 9, 7, (9, 5)),
        (30, 15, 0, (2, 1)),
        (30, 8, 4, (7, 2)),
    ],
)
def test_rung_of_published_settings(n_layer: int, span: int, overlap: int, rung: tuple[int, int]) -> None:
    assert Ladder(span, overlap).rung(n_layer) == rung
    assert ladder_oracle.rung_size(n_layer, span, overlap) == rung


def test_settings_that_free_nothing_are_refused_with_the_numbers() -> None:
    """The published code divides by zero there: 314 of the 465 pairs of a 30-layer model, all with span >= 16."""
    pairs = [(span, overlap) for span in range(1, 31) for overlap in range(span)]
    sizes = {pair: ladder_oracle.rung_size(30, *pair) for pair in pairs}
    impossible = [pair for pair, (n_src, n_dst) in sizes.items() if n_src == n_dst]
    assert (len(pairs), len(impossible), min(impossible)[0]) == (465, 314, 16)
    for span, overlap in impossible:
        with pytest.raises(PolicyError, match=f"span {span}, overlap {overlap} frees nothing on 30 layers"):
            Ladder(span, overlap).check(30, 4096)
    for span, overlap in set(pairs) - set(impossible):
        assert Ladder(span, overlap).rung(30) == sizes[span, overlap]


def test_the_remedy_in_the_refusal_works() -> None:
    for n_layer in range(2, 130):
        with pytest.raises(PolicyError) as error:
            Ladder(span=n_layer).check(n_layer, 4096)
        words = str(error.value).replace(",", "").rsplit("(", 1)[1].split()
        assert Ladder(span=int(words[1]), overlap=int(words[3])).rung(n_layer) == (2, 1)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"span": 0}, "span must be at least 1, got 0"),
        ({"span": -3}, "got -3"),
        ({"span": 8.0}, "span must be a whole number, got 8.0"),
        ({"span": True}, "got True"),
        ({"span": 8, "overlap": -1}, "overlap must be at least 0, got -1"),
        ({"span": 8, "overlap": 8}, r"overlap 8 must be below span 8; choose 0 \.\. 7"),
        ({"span": 8, "overlap": 9}, "overlap 9"),
        ({"span": 8, "n_sink": -1}, "n_sink must be at least 0, got -1"),
        ({"span": 8, "n_recent": -1}, "n_recent must be at least 0, got -1"),
        ({"span": 8, "n_recent": "all"}, "n_recent must be a whole number, got 'all'"),
        ({"span": 8, "layers": "random"}, "'random' is unknown; choose one of interleaved, contiguous, digit"),
    ],
)
def test_impossible_settings_are_refused_at_once(kwargs: dict, text: str) -> None:
    with pytest.raises(PolicyError, match=text):
        Ladder(**kwargs)


@pytest.mark.parametrize(
    ("policy", "n_layer", "n_ctx", "n_pinned", "text"),
    [
        (Ladder(31), 30, 1024, 0, "span 31 exceeds the 30 layers"),
        (Ladder(1), 1, 1024, 0, r"1 layer\(s\) .* use sink_window"),
        (Ladder(15), 30, 35, 0, r"4 sink or pinned cells \+ 30 recent .* rung of 2 .* 35 cells; .* to 36 or more"),
        (Ladder(8, 4), 30, 256, 220, r"220 sink or pinned .* rung of 7 .* 256 cells; .* to 257 or more"),
        (Ladder(15, n_recent=1024), 30, 1024, 0, "1024 recent cells"),
    ],
)
def test_check_refuses_what_does_not_fit(policy: Ladder, n_layer: int, n_ctx: int, n_pinned: int, text: str) -> None:
    with pytest.raises(PolicyError, match=text):
        policy.check(n_layer, n_ctx, n_pinned)


def test_first_sweep_drops_no_token_from_all_layers() -> None:
    """One sweep with as many layers as offsets, or more, keeps every token somewhere (interleaved, contiguous)."""
    for n_layer, span, overlap in ((4, 1, 0), (8, 4, 2), (24, 9, 7), (30, 8, 4), (32, 16, 0), (36, 18, 0)):
        for layers in ("interleaved", "contiguous"):
            policy = Ladder(span, overlap, layers=layers)
            n_cells = 4 + n_layer + 10 * policy.rung(n_layer).n_src
            plan = policy.plan(View(n_layer, n_cells, 10 * policy.rung(n_layer).n_freed))
            assert plan.sweep == 0
            assert np.unique(plan.keep).tolist() == list(range(n_cells))


def test_layers_take_turns_as_the_option_says() -> None:
    def second_cells(layers: str) -> list[int]:
        policy = Ladder(span=2, n_sink=1, n_recent=1, layers=layers)  # 8 layers: rungs of 4 keep 1
        return (policy.plan(View(n_layer=8, n_cells=6, n_free=1)).keep[:, 1] - 1).tolist()

    assert second_cells("interleaved") == [0, 1, 2, 3, 0, 1, 2, 3]
    assert second_cells("contiguous") == [0, 0, 1, 1, 2, 2, 3, 3]
    digit = Ladder(span=2, n_sink=1, n_recent=1, layers="digit")  # 8 layers need 2 digits in base 4
    turns = [(digit.plan(View(8, 6, 1, sweep=sweep)).keep[:, 1] - 1).tolist() for sweep in range(4)]
    assert turns == [[0, 1, 2, 3, 0, 1, 2, 3], [0, 0, 0, 0, 1, 1, 1, 1]] * 2


def picture(policy: Ladder, view: View) -> list[str]:
    """One line a layer: # kept, . freed."""
    keep = policy.plan(view).keep
    return ["".join("#" if cell in row else "." for cell in range(view.n_cells)) for row in keep.tolist()]


def test_pictures_in_the_documents_are_plans() -> None:
    left = picture(Ladder(span=1, n_sink=2, n_recent=2), View(n_layer=4, n_cells=16, n_free=9))
    right = picture(Ladder(span=2, n_sink=2, n_recent=2), View(n_layer=4, n_cells=16, n_free=6))
    assert ladder.__doc__ is not None
    for text in (ladder.__doc__, DOC.read_text(encoding="utf-8")):
        for il in range(4):
            line = next(line for line in text.splitlines() if line.lstrip().startswith(f"layer {il} "))
            assert (line.split()[2], line.split()[5]) == (left[il], right[il])


def test_coverage_table_in_the_documents_is_what_the_code_does() -> None:
    assert replay.documented_rows(DOC) == replay.coverage_rows()


def test_goldens_are_what_the_oracle_says() -> None:
    for stem, answer in make_golden.goldens().items():
        assert (make_golden.HERE / f"{stem}.json").read_text(encoding="utf-8") == make_golden.as_text(answer)


def test_examples_of_the_oracle_run() -> None:
    for module in (ladder_oracle, replay):
        assert doctest.testmod(module).attempted > doctest.testmod(module).failed == 0
