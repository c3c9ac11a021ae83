"""Comparing memories: equal bytes, one engine at a time, refusals in words, differences."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lacache_app.calibrated import Calibration, save_calibration
from lacache_app.compare import LINE_UP, Event, Outcome, Question, Started, cells, compare, word_diff
from lacache_app.memory_spec import MemorySpec, parse_memory
from lacache_app.paths import data_dir

from lacache_gguf.catalog import DEFAULT_MODEL, resolve
from lacache_gguf.checkpoint import fingerprint
from lacache_gguf.errors import MemoryFull, UsageError
from lacache_gguf.events import Progress, Step
from lacache_gguf.kv_budget import KvGeometry, KvLayer
from lacache_gguf.policies import H2O, POLICIES, Full, Ladder, SinkWindow

MIB = 1 << 20
pytestmark = pytest.mark.model  # sizes come from the header of the embedded model


def run(fake_engine: Any, contenders: list[MemorySpec], budget: int = 6 * MIB, **question: Any) -> list[Event]:
    """All events of a comparison on stand-in engines."""
    asked = Question(**{"prompt": "Who?", "document": "Once upon a time. " * 200, **question})
    return list(compare(asked, contenders, budget, settings={"model": DEFAULT_MODEL}, open_engine=fake_engine))


def outcomes(events: list[Event]) -> list[Outcome]:
    return [event.event for event in events if isinstance(event.event, Outcome)]


def _metadata() -> Any:
    from lacache_gguf.gguf_header import read_header

    return read_header(resolve(DEFAULT_MODEL).path).metadata


# ---- the memories ----------------------------------------------------------------------------------------------------


def test_every_contender_gets_as_many_cells_as_the_bytes_buy(fake_engine: Any) -> None:
    contenders = [
        parse_memory("ladder:span=8,overlap=4"),
        parse_memory("sink_window:k=q8_0,v=q4_0"),
        parse_memory("default"),
    ]
    run(fake_engine, contenders, 12 * MIB)
    opened = [engine.settings for engine in fake_engine.opened]
    assert [s["policy"] for s in opened] == [Ladder(span=8, overlap=4, n_recent=256), SinkWindow(), None]
    geometry = KvGeometry.from_metadata(_metadata())
    for settings in opened:
        n, types = settings["n_ctx"], (settings["type_k"], settings["type_v"])
        assert geometry.bytes(n, 512, *types) <= 12 * MIB < geometry.bytes(n + 256, 512, *types)
    assert opened[1]["n_ctx"] > 2 * opened[0]["n_ctx"] == 1024


def test_one_engine_at_a_time_and_none_is_left(fake_engine: Any) -> None:
    open_at_once = []

    class Counting(fake_engine):
        def __init__(self, *args: Any, **settings: Any) -> None:
            open_at_once.append(sum(not engine.is_closed for engine in fake_engine.opened))
            super().__init__(*args, **settings)

    run(Counting, [parse_memory("ladder"), parse_memory("sink_window"), parse_memory("ladder:span=3")])
    assert open_at_once == [0, 0, 0]
    assert all(engine.is_closed for engine in fake_engine.opened)


def test_events_come_in_order_and_the_outcome_has_the_engines_counters(fake_engine: Any) -> None:
    events = run(fake_engine, [parse_memory("ladder"), parse_memory("sink_window")], max_tokens=12)
    kinds = [type(event.event) for event in events if event.index == 1]
    assert kinds[0] is Started
    assert kinds[1] is Progress
    assert kinds[-2:] == [Step, Outcome]
    assert [event.index for event in events] == sorted(event.index for event in events)
    for outcome, engine in zip(outcomes(events), fake_engine.opened, strict=True):
        stats = engine.stats
        assert (outcome.n_ctx, outcome.n_seen, outcome.n_evicted) == (stats.n_ctx, stats.n_seen, stats.n_evicted)
        assert (outcome.n_compactions, outcome.kv_bytes) == (stats.n_compactions, stats.kv_bytes)
        assert outcome.n_compactions > 0
        assert (outcome.text, outcome.finish_reason, outcome.n_written) == ("A summary of"[:12], "length", 12)


def test_all_are_asked_the_same_with_the_question_pinned(fake_engine: Any) -> None:
    run(
        fake_engine,
        [parse_memory("ladder"), parse_memory("sink_window")],
        prompt="Who did it?",
        document="It was dark.",
    )
    first, second = fake_engine.opened
    assert first.messages == second.messages
    assert first.messages[0]["content"] == "Who did it?\n\nIt was dark.\n\nWho did it?"
    assert first.n_pinned == second.n_pinned > len("Who did it?")
    assert first.sampling == second.sampling
    assert first.sampling["temperature"] == 0
    fake_engine.opened.clear()
    run(fake_engine, [parse_memory("ladder"), parse_memory("sink_window")], prompt="Who did it?", document=" ")
    assert fake_engine.opened[0].messages[0]["content"] == "Who did it?"


def test_cells_are_known_before_anything_is_loaded() -> None:
    path = resolve(DEFAULT_MODEL).path
    for text, n_cells in (("ladder", 512), ("ladder:k=q8_0,v=q8_0", 1024)):
        geometry, n_ctx = cells(path, parse_memory(text), 12 * MIB)
        assert (len(geometry.layers_planned), n_ctx) == (30, n_cells)
    with pytest.raises(UsageError, match="too small"):
        cells(path, parse_memory("ladder"), MIB)


# ---- what cannot be done ---------------------------------------------------------------------------------------------


def test_a_full_cache_that_is_too_small_is_refused_with_the_sizes(fake_engine: Any) -> None:
    events = run(fake_engine, [parse_memory("full"), parse_memory("ladder")])
    full, ladder = outcomes(events)
    assert "do not fit into the 256 cells that 6.0 MiB hold" in full.refused
    assert "MiB" in full.refused.split(";")[1]
    assert full.text == ""
    assert ladder.refused == ""
    assert ladder.text


def test_a_full_cache_that_fits_answers(fake_engine: Any) -> None:
    full, _ = outcomes(run(fake_engine, [parse_memory("full"), parse_memory("ladder")], document="Short."))
    assert full.refused == ""
    assert full.n_evicted == 0
    assert fake_engine.opened[0].policy == Full()


def test_a_text_longer_than_the_training_is_refused_whatever_the_budget(fake_engine: Any) -> None:
    full, _ = outcomes(run(fake_engine, [parse_memory("full"), parse_memory("ladder")], document="x" * 9000))
    assert "no budget helps" in full.refused


def test_a_memory_that_fills_up_in_the_middle_keeps_its_answer(
    fake_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(self: Any, *_args: Any, **_settings: Any) -> Any:
        yield Step(1, "Half an ")
        yield Step(2, "answer")
        raise MemoryFull("full")

    monkeypatch.setattr(fake_engine, "answer", answer)
    first, _ = outcomes(run(fake_engine, [parse_memory("full"), parse_memory("ladder")], document=""))
    assert (first.text, first.finish_reason, first.refused) == ("Half an answer", "memory full", "")


def test_impossible_settings_are_refused_and_the_next_one_has_its_turn(fake_engine: Any) -> None:
    wrong, right = outcomes(run(fake_engine, [parse_memory("ladder:span=77"), parse_memory("ladder")]))
    assert "span 77 exceeds the 30 layers" in wrong.refused
    assert right.text
    too_small = outcomes(run(fake_engine, [parse_memory("ladder"), parse_memory("sink_window")], 2 * MIB))
    assert all("too small" in outcome.refused for outcome in too_small)


def test_more_memory_than_the_machine_has_is_refused(fake_engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5 * MIB))
    refused = outcomes(run(fake_engine, [parse_memory("ladder"), parse_memory("sink_window")]))
    assert all("only 5.0 MiB are free" in outcome.refused for outcome in refused)
    assert fake_engine.opened == []


@pytest.mark.parametrize("n", [0, 1, 5])
def test_two_to_four(fake_engine: Any, n: int) -> None:
    with pytest.raises(UsageError, match=f"{n} memories"):
        run(fake_engine, [parse_memory("ladder")] * n)


@pytest.mark.parametrize("question", [{"prompt": "  "}, {"prompt": "x", "max_tokens": 0}])
def test_a_question_must_ask_something(question: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Question(**question)


def test_stopping_frees_the_engine(fake_engine: Any) -> None:
    events = compare(
        Question("Who?", "A long text. " * 300), [parse_memory("ladder"), parse_memory("sink_window")], 6 * MIB,
        settings={"model": DEFAULT_MODEL}, open_engine=fake_engine,
    )  # fmt: skip
    for event in events:
        if isinstance(event.event, Progress):
            break
    events.close()
    assert [engine.is_closed for engine in fake_engine.opened] == [True]


# ---- words -----------------------------------------------------------------------------------------------------------


def test_every_policy_can_be_compared() -> None:
    geometry = KvGeometry((KvLayer(3, 64, 64),) * 30, n_layer=30, n_ctx_train=8192)
    for name, kind in POLICIES.items():
        text = name if name == "full" else f"{name}:sink=8"
        assert type(parse_memory(text).make_policy(geometry, 1024)) is kind


def test_the_usual_line_up(fake_engine: Any) -> None:
    """Everything, the newest only, the published ladder, and what the engine or a calibration chooses."""
    run(fake_engine, [parse_memory(text) for text in LINE_UP], 12 * MIB, document="Short.")
    policies = [engine.settings["policy"] for engine in fake_engine.opened]
    assert policies == [Full(), SinkWindow(), Ladder(span=15), None]


def test_the_default_is_what_was_calibrated(fake_engine: Any) -> None:
    found = Calibration("h2o:recent=25%", 512, 0.02, 0.01, 0.03, "t", 1, "2026-01-31", "0.1.0")
    save_calibration(data_dir(), fingerprint(resolve(DEFAULT_MODEL).path), found)
    first, second = outcomes(run(fake_engine, [parse_memory("default"), parse_memory("full")], 12 * MIB, document=""))
    assert fake_engine.opened[0].settings["policy"] == H2O(n_recent=128)
    assert (first.policy, first.label, first.as_dict()["memory"]) == ("h2o", "Best choice (H2O)", "Best choice (H2O)")
    assert second.label == "Full"


def test_a_size_of_its_own_is_refused(fake_engine: Any) -> None:
    with pytest.raises(UsageError, match="all have the same size here; leave 512 out"):
        run(fake_engine, [parse_memory("ladder"), parse_memory("ladder:cells=512")])


@given(st.text("ab \n", max_size=40), st.text("ab \n", max_size=40))
def test_differences_lead_from_one_text_to_the_other(old: str, new: str) -> None:
    parts = word_diff(old, new)
    assert "".join(text for kind, text in parts if kind in ("same", "ins")) == new
    assert " ".join(text for kind, text in parts if kind in ("same", "del")).split() == old.split()
    assert all(text for _, text in parts)


def test_words_that_stay_are_found() -> None:
    assert word_diff("The cat sat down.", "The dog sat down.") == [
        ("same", "The "), ("del", "cat "), ("ins", "dog "), ("same", "sat down."),
    ]  # fmt: skip
    assert word_diff("a b", "a b") == [("same", "a b")]
