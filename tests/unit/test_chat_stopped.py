"""chat: an answer that waits, is stopped, loses its conversation or its process; what was seen is stored."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

from lacache_app.chat import Turn
from lacache_app.store import Store
from unit.conversations import begin, said

from lacache_gguf.events import Progress, Step

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


class Ticks:
    """A clock that advances by `step` seconds at every look."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


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


# ---- writing while streaming -----------------------------------------------------------------------------------------


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
