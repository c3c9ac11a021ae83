"""chat: one answer from the question to its end, what a user may change, and what the engine is given then."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest
from lacache_app import chat
from lacache_app.chat import Turn, View, to_prompt
from lacache_app.host import EngineHost, EngineSettings
from lacache_app.store import ConversationGone, Message, Store

from lacache_gguf.errors import MemoryFull, UsageError
from lacache_gguf.events import Progress, Step

REPLY = "A summary of {} tokens, café included."


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "chats.sqlite3")
    yield store
    store.close()


@pytest.fixture
def host(fake_engine):
    host = EngineHost(EngineSettings(n_ctx=4096, n_ubatch=64))
    yield host
    assert host.shutdown()


def answer(host: EngineHost, store: Store, conversation: str, **sampling) -> list[View]:
    return list(Turn(store, conversation, sampling).start(host).views(0.01))


def said(store: Store, conversation: str) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in store.messages(conversation)]


def begin(store: Store, text: str = "hello", **settings) -> str:
    conversation = store.create(**settings).id
    chat.ask(store, conversation, text)
    return conversation


def seen(fake_engine) -> str:
    engine = fake_engine.opened[-1]
    return engine.detokenize(engine.seen)


# ---- answering -------------------------------------------------------------------------------------------------------


def test_a_turn_ends_with_the_answer_in_the_store(host, store, fake_engine):
    conversation = begin(store, system="Be brief.")
    views = answer(host, store, conversation, temperature=0.5, seed=7)
    engine = fake_engine.opened[-1]
    assert views[-1].state == "done"
    assert said(store, conversation) == [("user", "hello"), ("assistant", views[-1].text)]
    assert views[-1].text.endswith("café included.")
    assert store.messages(conversation)[1].state == "whole"
    assert engine.messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    assert engine.sampling == {"temperature": 0.5, "seed": 7}
    assert views[-1].n_tokens == engine.n_decoded
    states = [view.state for view in views]
    order = ["waiting", "loading", "reading", "answering", "done"]
    assert states == sorted(states, key=order.index), "states come in order"
    assert all(later.text.startswith(view.text) for view, later in pairwise(views))


def test_a_conversation_goes_on_without_reading_again(host, store, fake_engine):
    conversation = begin(store)
    answer(host, store, conversation)
    n_seen = len(fake_engine.opened[-1].seen)
    chat.ask(store, conversation, "and then?")
    views = answer(host, store, conversation)
    reads = [view.progress for view in views if view.progress]
    assert reads[-1].n_before == n_seen
    assert reads[-1].n_done - n_seen < 60, "only the new message was read"


def test_the_limit_of_tokens_is_told(host, store):
    conversation = begin(store)
    last = answer(host, store, conversation, max_tokens=5)[-1]
    assert (last.state, last.is_cut, last.n_tokens, last.text) == ("done", True, 5, "A sum")


def test_an_error_is_a_view_and_the_next_turn_works(host, store, fake_engine, monkeypatch):
    conversation = begin(store)

    def full(*_args, **_settings) -> Iterator[Step]:
        raise MemoryFull("the memory is full; raise --kv-budget")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(fake_engine, "answer", full)
        last = answer(host, store, conversation)[-1]
        assert (last.state, last.error) == ("failed", "the memory is full; raise --kv-budget")
        patch.setattr(fake_engine, "answer", lambda *_a, **_s: iter([1 / 0]))
        assert "internal error: ZeroDivisionError" in answer(host, store, conversation)[-1].error
    assert said(store, conversation) == [("user", "hello")]
    assert answer(host, store, conversation)[-1].state == "done"


def test_there_must_be_a_question(host, store):
    conversation = store.create().id
    assert "no question" in answer(host, store, conversation)[-1].error
    store.append(conversation, "user", "a")
    store.append(conversation, "assistant", "b")
    assert "no question" in answer(host, store, conversation)[-1].error


def test_a_conversation_deleted_meanwhile_ends_the_turn(host, store, fake_engine, monkeypatch):
    held = Held(fake_engine, monkeypatch, Step, 3)
    conversation = begin(store)
    turn = Turn(store, conversation, {}, clock=Ticks(1.0)).start(host)
    assert held.reached.wait(30)
    store.delete(conversation)
    held.go.set()
    last = list(turn.views(0.01))[-1]
    assert last.state == "failed"
    assert "deleted" in last.error
    assert fake_engine.opened[-1].n_decoded == 5, "not written on for nobody"
    assert not store.has(conversation)
    assert store.messages(conversation) == []


# ---- stopping and waiting --------------------------------------------------------------------------------------------


class Held:
    """Makes FakeEngine wait inside answer() at a chosen kind of event until it is let go."""

    def __init__(self, fake_engine, monkeypatch, kind: type, index: int = 0) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        original = fake_engine.answer

        def answer(engine, messages, **settings):
            n = 0
            for event in original(engine, messages, **settings):
                yield event
                if isinstance(event, kind):
                    if n == index:
                        self.reached.set()
                        assert self.go.wait(30)
                    n += 1

        monkeypatch.setattr(fake_engine, "answer", answer)


def test_stop_keeps_what_was_written(host, store, fake_engine, monkeypatch):
    held = Held(fake_engine, monkeypatch, Step, 5)
    conversation = begin(store)
    turn = Turn(store, conversation, {}).start(host)
    assert held.reached.wait(30)
    turn.stop()
    held.go.set()
    last = list(turn.views(0.01))[-1]
    message = store.messages(conversation)[1]
    assert (last.state, message.state) == ("stopped", "partial")
    assert message.content == "A summa", "it ends behind the token under way"
    assert turn.is_over


def test_stop_while_a_long_message_is_read(host, store, fake_engine, monkeypatch):
    held = Held(fake_engine, monkeypatch, Progress, 2)
    conversation = begin(store, "word " * 20_000)
    turn = Turn(store, conversation, {}).start(host)
    assert held.reached.wait(30)
    views = turn.views(0.01)
    view = next(view for view in views if view.progress)
    assert view.state == "reading"
    assert 0 < view.progress.n_done < view.progress.n_total
    assert view.progress.n_total > 20 * view.progress.n_ctx, "longer than the memory"
    turn.stop()
    held.go.set()
    assert [view.state for view in views][-1] == "stopped"
    assert [message.role for message in store.messages(conversation)] == ["user"]
    assert len(fake_engine.opened[-1].seen) < 1000


def test_closing_the_reader_stops_the_turn(host, store, fake_engine, monkeypatch):
    held = Held(fake_engine, monkeypatch, Step, 3)
    conversation = begin(store)
    turn = Turn(store, conversation, {}).start(host)
    views = turn.views(0.01)
    next(views)
    assert held.reached.wait(30)
    views.close()
    held.go.set()
    assert turn.wait(30)
    assert store.messages(conversation)[1].content == "A sum", "the page is gone, what was written is not"


def test_a_second_turn_waits_and_knows_its_place(host, store, fake_engine, monkeypatch):
    held = Held(fake_engine, monkeypatch, Step, 0)
    first, second, third = (begin(store, text) for text in ("one", "two", "three"))
    turns = [Turn(store, conversation, {}).start(host) for conversation in (first, second, third)]
    assert held.reached.wait(30)
    waiting = next(turns[2].views(0.01))
    assert (waiting.state, waiting.place) == ("waiting", 2)
    assert turns[1].place == 1
    turns[1].stop()
    assert turns[1].is_over, "one that waits is stopped at once"
    assert [view.state for view in turns[1].views(0.01)] == ["stopped"]
    held.go.set()
    assert [view.state for view in turns[0].views(0.01)][-1] == "done"
    assert turns[2].wait(30)
    assert said(store, second) == [("user", "two")]


# ---- writing while streaming -----------------------------------------------------------------------------------------


class Ticks:
    """A clock that advances by `step` seconds at every look."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_every_token_is_stored_before_anybody_sees_it(store, fake_engine):
    conversation = begin(store)
    turn, written = Turn(store, conversation, {}), ""
    for event in turn.work(fake_engine()):
        if isinstance(event, Step):
            written += event.text
            assert store.messages(conversation)[1].content == written
    assert turn.n_tokens > 1


_CHILD = """
import sys, time, types
import numpy as np
from lacache_app.chat import Turn
from lacache_app.store import Store
from lacache_gguf.events import Step

class Engine:
    stats = types.SimpleNamespace(n_compactions=0)
    seen = np.zeros(0, np.int32)
    def answer(self, messages, pinned, **sampling):
        i = 0
        while True:
            time.sleep(0.002)  # a fast model
            yield Step(i, f"{i} ")
            i += 1

for i, step in enumerate(Turn(Store(sys.argv[1]), sys.argv[2], {}).work(Engine())):
    print(i, flush=True)
"""


def test_kill_9_loses_no_token_that_was_seen(store):
    conversation = begin(store)
    arguments = [sys.executable, "-c", _CHILD, str(store.path), conversation]
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    lines = []
    for line in child.stdout:
        lines.append(line)
        if len(lines) == 400:
            child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    n_seen = sum(line.endswith("\n") for line in lines)
    again = Store(store.path)
    message = again.messages(conversation)[1]
    n_kept = message.content.count(" ")
    assert message.content == "".join(f"{i} " for i in range(n_kept)), "whole tokens, in order"
    assert (again.notice, message.state) == ("", "partial")
    assert n_kept >= n_seen > 0
    again.close()


# ---- changing what was said ------------------------------------------------------------------------------------------


@pytest.fixture
def talk(host, store):
    """A conversation of two questions and two answers."""
    conversation = begin(store, "first zebra", system="Be brief.")
    answer(host, store, conversation)
    chat.ask(store, conversation, "second gnu")
    answer(host, store, conversation)
    return conversation


def test_editing_a_question_drops_what_followed_and_reads_anew(host, store, fake_engine, talk):
    first = store.messages(talk)[0]
    assert chat.edit(store, talk, first.id, "edited okapi") is True
    assert said(store, talk) == [("user", "edited okapi")]
    assert answer(host, store, talk)[-1].state == "done"
    text = seen(fake_engine)
    assert "okapi" in text
    assert "zebra" not in text
    assert "gnu" not in text


def test_editing_an_answer_keeps_the_new_text(host, store, fake_engine, talk):
    old = store.messages(talk)[1]
    assert chat.edit(store, talk, old.id, "  I say tapir.") is False
    assert [text for _, text in said(store, talk)][:3] == ["first zebra", "  I say tapir.", "second gnu"]
    chat.ask(store, talk, "third")
    answer(host, store, talk)
    text = seen(fake_engine)
    assert "I say tapir." in text
    assert old.content not in text


def test_a_deleted_message_is_not_read_again(host, store, fake_engine, talk):
    chat.remove(store, talk, store.messages(talk)[0].id)
    chat.ask(store, talk, "third")
    answer(host, store, talk)
    assert "zebra" not in seen(fake_engine)
    assert "gnu" in seen(fake_engine)


def test_redo_takes_back_the_last_answer(host, store, fake_engine, talk):
    before = said(store, talk)
    chat.redo(store, talk)
    assert said(store, talk) == before[:3]
    answer(host, store, talk)
    after = said(store, talk)
    assert [role for role, _ in after] == ["user", "assistant"] * 2
    assert seen(fake_engine).count("second gnu") == 1
    assert before[3][1] not in seen(fake_engine).partition("second gnu")[0]
    chat.redo(store, talk)
    chat.redo(store, talk)
    assert said(store, talk) == before[:3], "without an answer it changes nothing"


def test_nonsense_is_refused_with_a_reason(store):
    conversation = store.create().id
    for call in (
        lambda: chat.ask(store, conversation, " \n"),
        lambda: chat.edit(store, conversation, chat.ask(store, conversation, "x").id, " "),
        lambda: chat.redo(store, store.create().id),
    ):
        with pytest.raises(UsageError, match=r"empty|no question"):
            call()
    with pytest.raises(ConversationGone):
        chat.edit(store, conversation, 12345, "text")


# ---- the prompt ------------------------------------------------------------------------------------------------------


def messages(*roles: str) -> list[Message]:
    return [Message(i, {"u": "user", "a": "assistant"}[role], f"{role}{i}") for i, role in enumerate(roles)]


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ("u", ["u0"]),
        ("uau", ["u0", "a1", "u2"]),
        ("uu", ["u0\n\nu1"]),
        ("uaau", ["u0", "a1\n\na2", "u3"]),
        ("au", ["", "a0", "u1"]),
    ],
)
def test_prompts_take_turns_and_begin_with_the_user(roles, expected):
    prompt = to_prompt("", messages(*roles))
    assert [message["content"] for message in prompt] == expected
    assert [message["role"] for message in prompt] == ["user", "assistant", "user"][: len(prompt)]
    assert to_prompt("S", messages(*roles)) == [{"role": "system", "content": "S"}, *prompt]


def test_an_instruction_before_a_document_stays_pinned(host, store, fake_engine):
    document = "Summarize." + "text " * 100
    conversation = store.create(settings={"pinned": "Summarize."}).id
    store.append(conversation, "user", document, display="book.pdf")
    answer(host, store, conversation)
    engine = fake_engine.opened[-1]
    assert engine.detokenize(engine.seen[: engine.n_pinned]).endswith("Summarize.")
    chat.edit(store, conversation, store.messages(conversation)[0].id, "something else")
    assert answer(host, store, conversation)[-1].state == "done", "a pinned text that is gone is not insisted on"
