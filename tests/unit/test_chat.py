"""chat: one answer from the question to its end, what a user may change, and what the engine is given then."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from lacache_app import chat
from lacache_app.chat import Turn, View, to_prompt
from lacache_app.host import EngineHost
from lacache_app.store import ConversationGone, Message, Store
from unit.conversations import begin, said

from lacache_gguf.errors import MemoryFull, UsageError
from lacache_gguf.events import Step


def answer(host: EngineHost, store: Store, conversation: str, **sampling) -> list[View]:
    return list(Turn(store, conversation, sampling).start(host).views(0.01))


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
