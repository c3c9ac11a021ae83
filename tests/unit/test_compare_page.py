"""The page that compares memories: answers shown as text, how far each is, and what was filled in."""

from __future__ import annotations

import pytest
from lacache_app.compare import LINE_UP, Event, Outcome, Started
from lacache_app.memory_spec import MemorySpec, parse_memory

from lacache_gguf.errors import UsageError
from lacache_gguf.events import Progress, Step
from lacache_gguf.policies import POLICIES

pytestmark = pytest.mark.model


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
