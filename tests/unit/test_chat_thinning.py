"""thinning: what is told about thinned text is what the memory really holds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from lacache_app import chat
from lacache_app.chat import Turn
from lacache_app.host import EngineHost, EngineSettings
from lacache_app.store import Message, Store
from lacache_app.thinning import Part, Thinned, layers_left, thinned
from lacache_app.ui import chat_html


def feed(engine, *messages: dict[str, str]) -> list[Message]:
    """Let the engine answer after these; the same as store messages, numbered from 1."""
    for _ in engine.answer(list(messages)):
        pass
    return [Message(i + 1, m["role"], m["content"]) for i, m in enumerate(messages)]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_no_note_when_nothing_was_thinned(fake_engine):
    engine = fake_engine(n_ctx=1024)
    assert thinned(engine, []) is None
    assert thinned(engine, feed(engine, user("short"))) is None


def test_layers_left_counts_cells():
    held = np.array([[0, 1, 4], [0, 2, 4], [0, 2, 4], [0, 2, 4]], dtype=np.int32)
    assert layers_left(held, 6).tolist() == [1, 0.25, 0.75, 0, 1, 0]


def test_every_message_is_told_as_the_memory_holds_it(fake_engine):
    """The slow twin: count, token by token, in how many heads of all layers each byte of each message still is."""
    engine = fake_engine(n_ctx=256, n_ubatch=32)
    said = [user("a" * 300), assistant("b" * 200 + " é"), user("  c" * 60), assistant("d" * 20), user("last")]
    messages = feed(engine, *said)
    note = thinned(engine, messages)
    held = [set(row.tolist()) for row in engine.held]
    text = bytes(t if t < 256 else 0 for t in engine.seen)
    n_thinned = n_gone = 0
    at = 0
    for message in messages:
        wanted = message.content.strip().encode()
        at = text.index(wanted, at)
        left = [sum(i in row for row in held) / len(held) for i in range(at, at + len(wanted))]
        at += len(wanted)
        n_thinned += sum(share < 1 for share in left)
        n_gone += sum(share == 0 for share in left)
        parts = [part for part in note.parts if part.message == message.id]
        assert [(part.n_tokens, part.index, part.n_parts) for part in parts] == [(len(wanted), 0, 1)]
        assert parts[0].share == pytest.approx(sum(left) / len(left), abs=1e-4)
    assert (note.n_thinned, note.n_gone) == (n_thinned, n_gone)
    assert note.n_tokens == sum(len(m.content.strip().encode()) for m in messages)
    assert note.parts[-1].share == 1, "the newest is complete"
    assert note.parts[0].share < 0.6
    assert 0 < note.share < 1


def test_a_long_message_is_told_in_parts(fake_engine):
    engine = fake_engine(n_ctx=512, n_ubatch=64)
    note = thinned(engine, feed(engine, user("w" * 40_000)))
    assert [(part.message, part.index, part.n_parts) for part in note.parts] == [(1, i, 10) for i in range(10)]
    assert sum(part.n_tokens for part in note.parts) == 40_000
    shares = [part.share for part in note.parts]
    assert shares[-1] > shares[0], "the end is better remembered than the beginning"


def test_messages_that_were_not_fed_are_left_out(fake_engine):
    engine = fake_engine(n_ctx=256, n_ubatch=32)
    messages = feed(engine, user("x" * 600))
    note = thinned(engine, [*messages, Message(9, "user", "never fed"), Message(10, "assistant", "")])
    assert {part.message for part in note.parts} == {1}


def test_the_note_outlives_the_program(fake_engine, tmp_path):
    host = EngineHost(EngineSettings(n_ctx=256, n_ubatch=32))
    store = Store(tmp_path / "chats.sqlite3")
    talk = store.create().id
    chat.ask(store, talk, "short")
    list(Turn(store, talk, {}).start(host).views(0.01))
    assert chat.note_of(store, talk) is None
    chat.ask(store, talk, "long " * 300)
    list(Turn(store, talk, {}).start(host).views(0.01))
    note = chat.note_of(store, talk)
    assert note == thinned(host._engine, store.messages(talk))
    assert note.n_thinned > 0
    chat.remove(store, talk, store.messages(talk)[0].id)
    assert chat.note_of(store, talk) is None, "what is left of a changed conversation is not known"
    host.shutdown()
    store.close()


def test_stored_nonsense_is_no_note():
    note = Thinned(100, 40, 3, 0.75, (Part(1, 0, 1, 50, 0.5), Part(2, 0, 1, 50, 1.0)))
    assert Thinned.from_dict(json.loads(json.dumps(note.as_dict()))) == note
    for nonsense in (None, 3, {}, {"parts": 1}, {"parts": [[1]]}, {**note.as_dict(), "more": 1}):
        assert Thinned.from_dict(nonsense) is None


def test_the_note_as_html():
    note = Thinned(1100, 1040, 3, 0.5, (Part(1, 0, 2, 500, 0.25), Part(1, 1, 2, 500, 0.999), Part(7, 0, 1, 100, 0)))
    html = chat_html.memory_note(note, [Message(1, "user", "<b>bold</b> " * 20)])
    assert "1,040 of 1,100 tokens" in html
    assert "50 % is left" in html
    assert html.count("<tr>") == 2, "a heading and one line: what is complete or deleted is not listed"
    assert "part 1 of 2" in html
    assert "25 %" in html
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert chat_html.memory_note(None, []) == ""
    many = Thinned(9, 9, 0, 0.5, tuple(Part(1, i, 100, 5, 0.5) for i in range(100)))
    assert "and 60 more parts" in chat_html.memory_note(many, [Message(1, "user", "x")])
