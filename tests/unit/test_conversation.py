"""Whatever is said, stopped, edited, deleted or asked again: the memory holds the prompt and the answer, nothing else.

Model and cache are stand-ins (scripted_talk.py).
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.scripted_talk import END, ScriptSampler, Talk

from lacache_gguf import native
from lacache_gguf import session as session_module
from lacache_gguf.errors import UsageError
from lacache_gguf.events import Progress, Step
from lacache_gguf.sampling import Sampling
from lacache_gguf.transcript import Transcript


@pytest.fixture(autouse=True)
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "Sampler", ScriptSampler)


@pytest.fixture
def talk() -> Talk:
    return Talk()


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def said_by_model(text: str) -> dict:
    return {"role": "assistant", "content": text}


def n_read(events: list) -> int:
    """Tokens that were read for these events."""
    progress = [e for e in events if isinstance(e, Progress)]
    return progress[-1].n_done - progress[0].n_before if progress else 0


def test_the_next_turn_reads_what_is_new(talk):
    messages = [user("Hi")]
    shown, _ = talk.answer(messages, b"Hello")
    assert shown == "Hello"
    messages += [said_by_model("Hello"), user("More")]
    _, events = talk.answer(messages, b"ok")
    assert n_read(events) == len(talk.model.tokenize("<e>\n<s>user\nMore<e>\n<s>assistant\n", special=True))
    assert events[0].n_before == len(talk.model.tokenize("<s>user\nHi<e>\n<s>assistant\nHello", special=True)) + 1
    assert talk.said() == talk.model.render(messages) + "ok"


def test_tokens_that_a_tokenizer_would_not_choose_stay(talk):
    script = list(b"ab and ab")  # the tokenizer would take the pair "ab"
    talk.answer([user("Hi")], script)
    _, events = talk.answer([user("Hi"), said_by_model("ab and ab"), user("x")])
    assert n_read(events) < 40
    assert ord("b") in talk.session.seen[-60:]


def test_another_answer_to_the_same_question_reads_one_token(talk):
    messages = [user("A question")]
    talk.answer(messages, b"one answer")
    shown, events = talk.answer(messages, b"another")
    assert (shown, n_read(events)) == ("another", 1)
    assert talk.said() == talk.model.render(messages) + "another"


def test_an_edited_question_takes_back_the_end_only(talk):
    first = [user("Some words that stay"), said_by_model("Yes"), user("What is that?")]
    talk.answer(first, b"It is this.")
    edited = [*first[:2], user("What is this?")]
    _, events = talk.answer(edited, b"It is that.")
    assert n_read(events) < len("is?") + 25
    assert talk.said() == talk.model.render(edited) + "It is that."
    assert talk.session.fed.tolist()[: -len("It is that.")] == talk.conversation.transcript.whole(
        talk.model.render(edited), talk.model.spans_of
    )


def test_where_layers_forgot_different_tokens_everything_is_read_again(talk):
    long = [user("word " * 60)]
    talk.answer(long, b"x" * 30)
    assert talk.memory.n_evicted > 0
    edited = [user("Word " * 60)]
    _, events = talk.answer(edited, b"y")
    assert events[0].n_before == 0
    assert talk.session.n_read == len(talk.model.tokenize(talk.model.render(edited), special=True)) + 1
    assert talk.said() == talk.model.render(edited) + "y"


def test_a_memory_that_cannot_take_back_is_read_again(talk):
    talk.context.can_retract = False
    talk.answer([user("Hi")], b"Hello")
    _, events = talk.answer([user("Hi")], b"Again")
    assert events[0].n_before == 0
    assert talk.said() == talk.model.render([user("Hi")]) + "Again"


def test_a_stopped_read_goes_on_where_it_was(talk):
    messages = [user("long words " * 40)]
    _, events = talk.answer(messages, n_events=5)
    n_done = events[-1].n_done
    assert n_done == 75
    shown, events = talk.answer(messages, b"done")
    assert (shown, events[0].n_before, events[0].n_done) == ("done", n_done, n_done + 15)
    whole = Talk()
    whole.answer(messages, b"done")
    np.testing.assert_array_equal(whole.memory.held, talk.memory.held)
    np.testing.assert_array_equal(whole.session.seen, talk.session.seen)


def test_stopped_behind_the_last_ubatch_there_is_nothing_left_to_read(talk):
    messages = [user("Hi")]
    _, events = talk.answer(messages)
    n_reads = sum(isinstance(e, Progress) for e in events)
    talk.conversation.reset()
    talk.answer(messages, n_events=n_reads)
    shown, events = talk.answer(messages, b"yes")
    assert (shown, n_read(events)) == ("yes", 0)


def test_a_stop_string_leaves_nothing_behind(talk):
    messages = [user("Count")]
    shown, _ = talk.answer(messages, b"1, 2, STOP and more", stop=["STOP"])
    assert shown == "1, 2, "
    assert talk.said() == talk.model.render(messages) + "1, 2, "
    messages += [said_by_model(shown), user("Go on")]
    _, events = talk.answer(messages)
    assert events[0].n_before > 10
    assert talk.said() == talk.model.render(messages)


def test_text_held_back_when_the_reader_leaves_is_not_said(talk):
    messages = [user("Count")]
    shown, events = talk.answer(messages, b"1, 2, STOP", n_events=2 + 9, stop=["STOP"])
    assert (shown, events[-1].text) == ("1, 2, ", "")
    assert talk.said() == talk.model.render(messages) + "1, 2, "


def test_half_a_character_is_not_kept(talk):
    messages = [user("x")]
    shown, _ = talk.answer(messages, "é".encode()[:1], max_tokens=1)
    assert shown == "\ufffd"
    talk.answer([*messages, said_by_model(shown), user("y")])
    assert talk.said() == talk.model.render([*messages, said_by_model(shown), user("y")])


def test_a_template_that_strips_answers_costs_no_second_reading(talk):
    talk.model.strips = True
    talk.answer([user("Hi")], b"Hello \n")
    messages = [user("Hi"), said_by_model("Hello \n"), user("More")]
    _, events = talk.answer(messages)
    assert events[0].n_before > 10
    assert talk.said() == talk.model.render(messages)


def test_no_control_token_is_torn_apart(talk):
    """The answer ended in "<"; without it the template's "<e>" follows, whose first letter looks like it."""
    talk.answer([user("Hi")], b"a <")
    messages = [user("Hi"), said_by_model("a "), user("More")]
    talk.answer(messages)
    assert talk.session.seen.tolist().count(END) == 3
    assert talk.said() == talk.model.render(messages)


def test_the_system_message_and_a_pinned_text_stay(talk):
    system, instruction = {"role": "system", "content": "Be brief."}, "Sum up:\n"
    messages = [system, user(instruction + "words " * 100)]
    talk.answer(messages, pinned=instruction)
    head = "<s>system\nBe brief.<e>\n<s>user\nSum up:\n"
    assert talk.memory.n_pinned == len(talk.model.tokenize(head, special=True)) + 1
    assert talk.memory.n_evicted > 0
    with pytest.raises(UsageError, match="does not begin"):
        talk.answer([user("Something else")], pinned=instruction)


def test_a_generation_that_was_left_behind_refuses_to_go_on(talk):
    for n_events in (1, 4):
        talk.context.script = list(b"Hello")
        run = talk.conversation.answer([user("Hi")], Sampling(temperature=0))
        for _ in range(n_events):
            next(run)
        talk.conversation.reset()
        with pytest.raises(UsageError, match="left behind"):
            next(run)
        run.close()
        assert talk.said() == ""


def test_raw_tokens_and_messages_may_follow_each_other(talk):
    list(talk.session.read(talk.model.tokenize("some other text")))
    talk.conversation.transcript.cut(0)
    messages = [user("Hi")]
    talk.answer(messages, b"Hello")
    assert talk.said() == talk.model.render(messages) + "Hello"


word = st.text(st.sampled_from("ab <>es.é"), max_size=12)
turn = st.tuples(
    st.sampled_from(["go on", "again", "edit", "delete", "edit answer", "new", "system"]),
    word,  # what the user says or edits
    st.lists(st.sampled_from([*b"ab <>es\n", 0xC3, 0xA9, 300 + ord("b"), 501]), max_size=30),  # what the model writes
    st.integers(1, 30),  # events until it is stopped
    st.booleans(),  # the template strips
)


@settings(max_examples=200, deadline=None)
@given(turns=st.lists(turn, min_size=1, max_size=8), n_ctx=st.sampled_from([100, 200, 2000]))
def test_the_memory_always_says_what_the_transcript_says(turns, n_ctx):
    talk, messages = Talk(n_ctx), [user("Hello there")]
    for what, text, script, n_events, strips in turns:
        talk.model.strips = strips
        if what == "go on" and messages[-1]["role"] == "assistant":
            messages = [*messages, user(text)]
        elif what == "again" and messages[-1]["role"] == "assistant":
            messages = messages[:-1]
        elif what == "edit":
            last = max(i for i, m in enumerate(messages) if m["role"] == "user")
            messages = [*messages[:last], user(messages[last]["content"][: len(text)] + text)]
        elif what == "delete" and len(messages) > 2:
            messages = messages[2:]
        elif what == "edit answer" and len(messages) > 1 and messages[1]["role"] == "assistant":
            messages = [messages[0], said_by_model(text), *messages[2:]]
        elif what == "new":
            messages = [user(text)]
        elif what == "system":
            messages = [{"role": "system", "content": text[:4]}, *(m for m in messages if m["role"] != "system")]
        if messages[-1]["role"] == "assistant":
            messages = [*messages, user(text)]
        shown, events = talk.answer(messages, script, n_events=n_events, stop=["ss", "e s"])
        prompt, said = talk.model.render(messages), talk.said_bytes().decode("utf-8", "replace")
        if any(isinstance(e, Step) for e in events):
            assert said.startswith(prompt)
            written = said[len(prompt) :]
            assert shown.startswith(written)
            missing = shown[len(written) :]  # of the last token only, or broken characters: read with the next turn
            assert len(missing) <= 1 or set(missing) == {"\ufffd"}
            assert talk.session.fed.tolist().count(END) == len(messages)
            messages = [*messages, said_by_model(shown)]
        else:
            assert prompt.startswith(said.rstrip("\ufffd"))  # a read may stop inside a character


def test_the_transcript_survives_a_file(talk):
    talk.answer([user("Hi")], b"Hello")
    text, marks = talk.conversation.transcript.state()
    again = Transcript(talk.model)
    again.restore(text, marks, len(talk.session.fed))
    assert (again.text, again.marks) == (talk.conversation.transcript.text, talk.conversation.transcript.marks)
    for broken in (marks[1:], marks[:, :2], marks[::-1], marks + 1000):
        with pytest.raises(ValueError, match="marks"):
            Transcript(talk.model).restore(text, broken, len(talk.session.fed))


def test_cells_that_a_failed_compaction_lost_are_not_answered_from() -> None:
    talk = Talk()
    messages = [{"role": "user", "content": "x" * 90}]
    talk.answer(messages, [ord("y")])
    talk.context.status = native.ERR_COMPUTE
    longer = [*messages, {"role": "assistant", "content": "y"}, {"role": "user", "content": "z" * 60}]
    with pytest.raises(native.NativeError):
        talk.answer(longer)
    talk.check()
    assert len(talk.session.seen) == talk.memory.n_cells == 0
    talk.context.status = 0
    shown, _ = talk.answer([{"role": "user", "content": "x"}], [ord("w")])
    assert (shown, talk.said()[:12]) == ("w", "<s>user\nx<e>")


def test_a_token_that_is_none_changes_nothing() -> None:
    talk = Talk()
    talk.answer([{"role": "user", "content": "x" * 100}], [ord("y")])
    before, n = talk.session.fed.tolist(), talk.memory.n_compactions
    for wrong in (-1, 600):
        with pytest.raises(UsageError, match="vocabulary"):
            list(talk.session.read([5, wrong] * 8))
        assert (talk.session.fed.tolist()[: len(before)], talk.memory.n_compactions) == (before, n)
        talk.check()
