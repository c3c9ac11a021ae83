"""chat_page: what events paint, in which order, and that a late one brings nothing old back. No browser, no model."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import gradio as gr
import pytest
from lacache_app.host import EngineHost, EngineSettings
from lacache_app.memory_map import MemoryMap
from lacache_app.store import Store
from lacache_app.ui import Shared, chat_tab
from lacache_app.ui.chat_conversations import N_SHOWN
from lacache_app.ui.chat_page import ChatPage
from lacache_app.ui.context import Context

REQUEST = SimpleNamespace(session_hash="visitor", query_params={})
OTHER = SimpleNamespace(session_hash="another window", query_params={})


@pytest.fixture
def page(fake_engine, tmp_path):
    host, store = EngineHost(EngineSettings(n_ctx=1024)), Store(tmp_path / "chats.sqlite3")
    ctx = Context(host, store, tmp_path, MemoryMap(), SimpleNamespace())

    async def build() -> ChatPage:  # in a loop: Gradio would make several for its locks, and close none
        with gr.Blocks(analytics_enabled=False) as demo:
            wanted = gr.State("")
            with gr.Tabs() as tabs, gr.Tab(chat_tab.TITLE):
                own = chat_tab.build(ctx)
            shared = Shared(tabs, wanted, demo)
            chat_tab.wire(ctx, own, shared)
        return ChatPage(ctx, own)

    yield asyncio.run(build())
    assert ctx.host.shutdown()
    ctx.store.close()


@pytest.fixture
def gate(fake_engine, monkeypatch):
    """While it is cleared, answers wait behind their fifth token."""
    go, reached = threading.Event(), threading.Event()
    original = fake_engine.answer

    def answer(engine, messages, **settings):
        for i, event in enumerate(original(engine, messages, **settings)):
            yield event
            if i == 5:
                reached.set()
                assert go.wait(30)

    monkeypatch.setattr(fake_engine, "answer", answer)
    return SimpleNamespace(go=go, reached=reached)


def choice(page: ChatPage, **changed) -> list:
    """Values of Sampling.inputs(), as the page sends them."""
    values = {"system": "", "preset": "Balanced", "temperature": 0.7, "top_k": 40, "top_p": 0.95, "min_p": 0.05}
    values |= {"repeat_penalty": 1.1, "max_tokens": 0, "seed": 3, **changed}
    assert len(values) == len(page.own.sampling.inputs())
    return list(values.values())


def send(page: ChatPage, text: str, conversation: str = "", request=REQUEST, **changed) -> tuple:
    """(what the event paints at once, the rest of painting)."""
    painting = page.answering(page.send)(text, conversation, "", request, *choice(page, **changed))
    return next(painting), painting


def under_way(page: ChatPage, gate) -> tuple:
    """An answer that was painted once and waits at the gate: (asked, conversation, the rest of painting)."""
    first, painting = send(page, "one")
    next(painting)
    assert gate.reached.wait(30)
    return first[page.own.asked], first[page.own.opened], painting


def said(changes: dict, page: ChatPage) -> list[tuple[str, str]]:
    return [(bubble.role, bubble.content[0].text) for bubble in changes[page.own.log]]


def is_busy(changes: dict, page: ChatPage) -> bool:
    """Whether the page shows Stop instead of Send."""
    return 'class="lc-news busy"' in changes[page.own.status]


def is_skip(value) -> bool:
    return isinstance(value, dict) and value == gr.skip()


def test_a_message_and_its_answer(page):
    changes, painting = send(page, "  hello ", system="Be brief.")
    talk = changes[page.own.opened]
    assert said(changes, page) == [("user", "hello")]
    assert changes[page.own.input] == ""
    assert is_busy(changes, page)
    chunks = list(painting)
    texts = [said(chunk, page)[-1][1] for chunk in chunks[:-1]]
    assert texts[-1].endswith("café included.")
    *_, settled, last = chunks
    assert all(is_busy(chunk, page) for chunk in chunks[:-2])
    assert not is_busy(settled, page)
    assert all(is_skip(value) for value in last.values()), "Gradio repeats the last chunk at the end: it must be empty"
    assert page.store.get(talk).system == "Be brief."
    assert page.store.get(talk).settings["chosen"]["seed"] == 3


def test_nothing_is_sent_twice_or_empty(page, gate):
    assert page.own.asked not in send(page, " \n")[0]
    first, painting = send(page, "one")
    assert gate.reached.wait(30)
    for talk in (first[page.own.opened], ""):
        busy, nothing = send(page, "two", talk)  # the page may not have got what the first event painted
        assert all(is_skip(value) for value in busy.values()), "the text stays in the box"
        assert not list(nothing)
    gate.go.set()
    list(painting)
    assert [m.content for m in page.store.messages(first[page.own.opened])][0::2] == ["one"]
    assert len(page.store.conversations("")) == 1


def test_enter_pressed_twice_sends_one_message(page, gate):
    both = [threading.Thread(target=lambda: sent.append(send(page, "one"))) for _ in range(2)]
    sent = []
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(30)
    assert sorted(page.own.asked in changes for changes, _ in sent) == [False, True]
    gate.go.set()
    for _, painting in sent:
        list(painting)
    assert len(page.store.conversations("")) == 1


def test_an_answer_ends_with_its_page(page, gate):
    """Gradio closes the event of a page that is gone; it may have got no further than the question."""
    first, painting = send(page, "one")
    assert gate.reached.wait(30)
    painting.close()
    gate.go.set()
    asked = first[page.own.asked]
    assert asked.turn.wait(30)
    assert asked.shown.is_set()
    assert page.store.messages(first[page.own.opened])[1].state == "partial"


def test_an_answer_that_ends_late_leaves_the_page_to_the_newer_one(page, gate):
    """It was stopped, and before its last chunk was painted the next message was sent."""
    asked, talk, painting = under_way(page, gate)
    page.stop(asked, talk, "")
    gate.go.set()
    assert asked.turn.wait(30)
    gate.go.clear()
    gate.reached.clear()
    _, newer = send(page, "two", talk)
    assert gate.reached.wait(30), "the newer answer is under way"
    late = list(painting)
    assert all(is_skip(chunk[page.own.status]) or is_busy(chunk, page) for chunk in late), "Stop stays where it is"
    painting = newer
    assert is_busy(next(painting), page)
    gate.go.set()
    *_, settled, _ = painting
    assert [role for role, _ in said(settled, page)] == ["user", "assistant"] * 2


def test_stop_leaves_the_end_to_the_event_that_paints_the_answer(page, gate):
    """Its own changes may reach the page last: Stop once stayed there for good."""
    asked, talk, painting = under_way(page, gate)
    assert all(is_skip(value) for value in page.stop(asked, talk, "").values())
    gate.go.set()
    *_, settled, _ = painting
    assert "Stopped" in settled[page.own.status]
    assert not is_busy(page.stop(asked, talk, ""), page), "pressed again, it shows what is there"


def test_an_answer_stopped_behind_others_ends_at_once(page, gate):
    _, first = send(page, "one")
    assert gate.reached.wait(30)
    second, painting = send(page, "two", request=OTHER)
    assert "1" in next(painting)[page.own.status], "its place"
    assert all(is_skip(value) for value in page.stop(second[page.own.asked], second[page.own.opened], "").values())
    *_, settled, _ = painting
    assert "Stopped" in settled[page.own.status]
    assert said(settled, page) == [("user", "two")]
    gate.go.set()
    list(first)


def test_changing_the_page_waits_until_the_answer_is_painted(page, gate):
    asked, talk, painting = under_way(page, gate)
    opened = []
    switch = threading.Thread(target=lambda: opened.append(page.new("", asked)))
    switch.start()
    gate.go.set()
    chunks = list(painting)  # the page's own event goes on until it has nothing more to say
    switch.join(30)
    assert said(opened[0], page) == []
    assert asked.shown.is_set()
    assert chunks, "what was written was painted before"
    assert page.store.messages(talk)[1].state == "partial"


def test_a_message_edited_elsewhere_is_not_overwritten(page):
    changes, painting = send(page, "one")
    talk = changes[page.own.opened]
    list(painting)
    bubbles = [bubble.model_dump() for bubble in page.repaint(talk, "")[page.own.log]]
    number = page.store.messages(talk)[1].id
    page.store.set_content(number, "changed elsewhere")
    event = SimpleNamespace(index=1, value="mine", previous_value=bubbles[1]["content"][0]["text"])
    with pytest.warns(UserWarning, match="changed in another window"):
        painted = page.edit(bubbles, talk, "", None, event, REQUEST, *choice(page))
    assert said(painted, page)[1] == ("assistant", "changed elsewhere")
    with pytest.warns(UserWarning, match="not in the store"):
        page.remove(bubbles, talk, "", None, SimpleNamespace(index=7))
    page.remove(bubbles, talk, "", None, SimpleNamespace(index=0))
    assert [message.content for message in page.store.messages(talk)] == ["changed elsewhere"]


def test_a_conversation_has_one_answer_under_way_in_all_windows(page, gate):
    _asked, talk, painting = under_way(page, gate)
    bubbles = [bubble.model_dump() for bubble in page.repaint(talk, "")[page.own.log]]
    event = SimpleNamespace(index=0, value="mine", previous_value="one")
    for act in (
        lambda: send(page, "two", talk, request=OTHER)[0],
        lambda: page.edit(bubbles, talk, "", None, event, OTHER, *choice(page)),
        lambda: page.redo(talk, "", None, OTHER, *choice(page)),
        lambda: page.remove(bubbles, talk, "", None, SimpleNamespace(index=0)),
    ):
        with pytest.warns(UserWarning, match="answered in another window"):
            assert page.own.asked not in act()
    with pytest.raises(gr.Error, match="answered in another window"):
        next(page.chat("three", talk))
    gate.go.set()
    list(painting)
    assert [message.role for message in page.store.messages(talk)] == ["user", "assistant"]
    again, painting = send(page, "two", talk)
    assert page.own.asked in again
    list(painting)


def test_a_message_too_long_for_the_page_is_kept_whole(page):
    long = "word " * N_SHOWN
    changes, painting = send(page, long)
    talk = changes[page.own.opened]
    list(painting)
    bubbles = [bubble.model_dump() for bubble in page.repaint(talk, "")[page.own.log]]
    shown = bubbles[0]["content"][0]["text"]
    assert len(shown) < N_SHOWN + 200
    assert f"{len(long.strip()):,} characters in all" in shown
    event = SimpleNamespace(index=0, value="short", previous_value=shown)
    with pytest.warns(UserWarning, match="too long to be edited"):
        page.edit(bubbles, talk, "", None, event, REQUEST, *choice(page))
    assert page.store.messages(talk)[0].content == long.strip()


def test_the_page_opens_what_its_address_says(page):
    talk = page.store.create(title="Kept", system="S").id
    page.store.append(talk, "user", "hi")
    painted = page.load("", SimpleNamespace(session_hash="x", query_params={"chat": talk}))
    assert said(painted, page) == [("user", "hi")]
    assert painted[page.own.sampling.system] == "S"
    gone = page.load("", SimpleNamespace(session_hash="x", query_params={"chat": "no-such"}))
    assert said(gone, page) == []
    assert gone[page.own.opened] == ""


def test_another_tab_may_open_a_conversation(page):
    talk = page.store.create().id
    page.store.append(talk, "user", "the whole book", display="book.pdf - 41 pages")
    painted = page.follow(talk, "", None)
    assert said(painted, page) == [("user", "book.pdf - 41 pages")]


def test_the_api(page):
    *_, (text, talk) = page.chat("hello")
    assert text.endswith("café included.")
    *_, (_, same) = page.chat("again", talk)
    assert same == talk
    assert len(page.store.messages(talk)) == 4
    with pytest.raises(gr.Error, match="no conversation 'nonsense'"):
        list(page.chat("hello", "nonsense"))
    with pytest.raises(gr.Error, match="empty"):
        list(page.chat("  "))
