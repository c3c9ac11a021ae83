"""Comparing memories: equal bytes, one engine at a time, refusals in words, differences, the command, the page."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lacache_app import cli
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


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def document(tmp_path: Any) -> str:
    path = tmp_path / "story.txt"
    path.write_text("A long story. " * 200, encoding="utf-8")
    return str(path)


def test_the_command_prints_a_table_and_answers(fake_engine: Any, document: str, capsys: Any) -> None:
    code = cli.main(["compare", "Who?", "-d", document, "--kv-budget", "6MiB"])
    out, err = capsys.readouterr()
    assert code == 0
    assert out.count("Window") == 2  # the table and the heading of its answer
    assert "Best choice (" in out
    assert "256" in out
    assert "refused: " in out
    assert "3 of 4: Ladder, as published" in err
    assert len(fake_engine.opened) == 4


def test_the_command_as_json(fake_engine: Any, document: str, capsys: Any) -> None:
    code = cli.main(["compare", "Who?", "-d", document, "--json", "-n", "5", "--memory", "ladder", "--memory", "full"])
    result = json.loads(capsys.readouterr().out)
    assert code == 0
    assert result["kv_budget_bytes"] == 16 * MIB
    ladder, full = result["memories"]
    assert (ladder["memory"], ladder["finish_reason"], ladder["n_written"]) == ("Ladder", "length", 5)
    assert full["refused"]
    assert fake_engine.opened[0].sampling["repeat_penalty"] == 1.1


def test_when_nobody_could_answer_the_exit_code_says_so(fake_engine: Any, document: str, capsys: Any) -> None:
    del fake_engine
    assert cli.main(["compare", "Who?", "-d", document, "--memory", "full", "--memory", "full"]) == 7
    assert "refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--memory", "ladder"], "1 memories"),
        (["--memory", "lader", "--memory", "full"], "'lader' is unknown"),
        (["--span", "8"], "--memory ladder:span=8"),
        (["--heads", "each"], "say it for one memory"),
        (["--memory", "ladder:cells=512", "--memory", "full"], "all have the same size"),
        (["-d", "missing.txt"], "missing.txt"),
        (["--kv-budget", "lots"], "lots"),
    ],
)
def test_wrong_flags_are_answered_in_words(fake_engine: Any, capsys: Any, flags: list[str], words: str) -> None:
    assert cli.main(["compare", "Who?", *flags]) in (1, 2)
    assert words in capsys.readouterr().err
    assert fake_engine.opened == []


def test_kv_types_hold_for_all_and_cells_are_a_budget_too(fake_engine: Any, capsys: Any) -> None:
    memories = ["--memory", "ladder", "--memory", "ladder:k=q5_1"]
    assert cli.main(["compare", "Who?", "-c", "512", "-ctk", "q8_0", *memories]) == 0
    assert [(e.settings["n_ctx"], e.settings["type_k"]) for e in fake_engine.opened] == [(512, "q8_0"), (512, "q5_1")]
    capsys.readouterr()


# ---- the page --------------------------------------------------------------------------------------------------------


def finished(contender: MemorySpec, text: str) -> Event:
    return Event(0, Outcome(contender, text=text, n_ctx=256, n_seen=10, n_written=2))


def test_texts_are_shown_as_texts_never_as_html() -> None:
    pytest.importorskip("gradio")
    from lacache_app.ui.compare_html import Slot, cards, fold

    bad = '<img src=x onerror="alert(1)"> & <script>'
    slots = fold(
        [Slot(parse_memory("ladder")), Slot(parse_memory("sink_window"))], [finished(parse_memory("ladder"), bad)]
    )
    slots = fold(
        slots, [Event(1, Outcome(parse_memory("sink_window"), text="<b>other</b>")), Event(1, Step(0, ""))][:1]
    )
    page = cards(slots, note="<i>note</i>")
    for tag in ("<img", "<script", "<b>", "<i>"):
        assert tag not in page
    assert "&lt;img" in page
    assert "<del>" in page
    assert "<ins>" in page
    assert "[gone: " in page  # said, not only coloured


def test_cards_say_how_far_each_is() -> None:
    pytest.importorskip("gradio")
    from lacache_app.ui.compare_html import Slot, cards, fold, stopped

    slots = [Slot(parse_memory("ladder")), Slot(parse_memory("full")), Slot(parse_memory("sink_window"))]
    slots = fold(slots, [Event(0, Started()), Event(0, Progress(128, 1000, 128, 256, 0, 0.5))])
    assert "reading 128 of 1,000 tokens, 256/s" in cards(slots)
    assert '<progress max="1000" value="128"' in cards(slots)
    slots = fold(slots, [Event(0, Step(1, "Hel")), Event(0, Step(2, "lo"))])
    assert ">Hello</div>" in cards(slots)
    slots = fold(
        slots, [finished(parse_memory("ladder"), "Hello"), Event(1, Outcome(parse_memory("full"), refused="too small"))]
    )
    assert "Too small." in cards(slots)
    slots = fold(slots, [Event(2, Outcome(parse_memory("sink_window"), text="Hello"))])
    assert "Word for word the answer of Ladder." in cards(slots)
    assert [slot.state for slot in stopped([Slot(parse_memory("ladder")), *slots])] == [
        "stopped",
        "done",
        "refused",
        "done",
    ]


def test_what_was_filled_in_is_checked() -> None:
    pytest.importorskip("gradio")
    from lacache_app.ui import compare_choice

    row = compare_choice.contender_of
    assert row("ladder", "q8_0/q4_0", 8, None) == parse_memory("ladder:span=8", "q8_0", "q4_0")
    assert row("ladder:recent=none", "f16/f16", 8, None) == parse_memory("ladder:recent=none,span=8")
    assert row("full", "f16/f16", 8, 2) == parse_memory("full")  # the ladder's settings are the ladder's
    values = ("default", "f16/f16", None, None, "", "f16/f16", None, None, "full", "f16/f16", None, None)
    assert compare_choice.contenders_of(values) == [parse_memory("default"), parse_memory("full")]
    kinds = [kind for _title, kind in compare_choice.kinds()]
    assert set(kinds) == {"default", *POLICIES, *LINE_UP, ""}
    assert len({title for title, _kind in compare_choice.kinds()}) == len(kinds)
    for bad in (("x", "f16/f16", None, None), ("ladder", "f16", None, None), ("ladder", "f16/f16", 1.5, None),
                ("ladder", "f16/f16", "8", None), (["ladder"], "f16/f16", None, None)):  # fmt: skip
        with pytest.raises(UsageError):
            row(*bad)
    for value in (float("nan"), float("inf"), -1, 0, 4097, True, "8", None):
        with pytest.raises(UsageError, match="give a whole number"):
            compare_choice.whole(value, "the memory", 1, 4096)


def test_cells_are_known_before_anything_is_loaded() -> None:
    path = resolve(DEFAULT_MODEL).path
    for text, n_cells in (("ladder", 512), ("ladder:k=q8_0,v=q8_0", 1024)):
        geometry, n_ctx = cells(path, parse_memory(text), 12 * MIB)
        assert (len(geometry.layers_planned), n_ctx) == (30, n_cells)
    with pytest.raises(UsageError, match="too small"):
        cells(path, parse_memory("ladder"), MIB)


def _metadata() -> Any:
    from lacache_gguf.gguf_header import read_header

    return read_header(resolve(DEFAULT_MODEL).path).metadata
