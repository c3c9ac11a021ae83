"""Whatever is said, stopped, edited, deleted or asked again: the memory holds the prompt and the answer, nothing else.

A model of bytes and a cache of lists stand in for the real ones; session, memory, transcript and conversation are real.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lacache_gguf import native
from lacache_gguf import session as session_module
from lacache_gguf.conversation import Conversation
from lacache_gguf.errors import UsageError
from lacache_gguf.events import Progress, Step
from lacache_gguf.memory import Memory
from lacache_gguf.policies import Ladder
from lacache_gguf.sampling import Sampling
from lacache_gguf.session import Session
from lacache_gguf.transcript import Transcript

CONTROL = ("<s>", "<e>")  # begins and ends a message; token 256 and 257
BOS, END = 258, 257
N_LAYER = 4


class ByteModel:
    """Tokens are bytes, or pairs of letters where the tokenizer has the choice: so a model's own tokens may differ."""

    n_vocab = 600
    stops = ()
    bos_tokens = (BOS,)
    strips = False

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        if special:
            parts = re.split("(" + "|".join(CONTROL) + ")", text)
            return [t for p in parts for t in ([256 + CONTROL.index(p)] if p in CONTROL else self.tokenize(p))]
        data, tokens = text.encode(), []
        while data:
            is_pair = len(data) > 1 and data[:1] == b"a" and 97 <= data[1] <= 122
            tokens.append(300 + data[1] if is_pair else data[0])
            data = data[1 + is_pair :]
        return tokens

    def piece(self, token: int) -> bytes:
        return b"" if token > 500 or token == BOS else b"a" + bytes([token - 300]) if token >= 300 else bytes([token])

    def is_eog(self, token: int) -> bool:
        return token == END

    def is_plain(self, text: str) -> bool:
        return not any(control in text for control in CONTROL)

    def render(self, messages: Sequence[dict]) -> str:
        self.spans_of, prompt = [], ""
        for message in messages:
            content = message["content"].strip() if self.strips else message["content"]
            prompt += f"<s>{message['role']}\n"
            self.spans_of.append((len(prompt), len(prompt) + len(content)))
            prompt += content + "<e>\n"
        return prompt + "<s>assistant\n"

    def spans(self, messages: Sequence[dict], prompt: str) -> list:
        self.render(messages)
        return self.spans_of

    def tokenize_prompt(self, prompt: str, spans, start: int = 0) -> list[int]:
        from lacache_gguf.model import Model

        return Model.tokenize_prompt(self, prompt, spans, start)


class ListContext:
    """A cache of lists: rows[il] are the tokens that layer il holds. What it will write next is in `script`."""

    def __init__(self) -> None:
        self.ptr = self
        self.rows: list[list[int]] = [[] for _ in range(N_LAYER)]
        self.can_retract, self.status = True, 0
        self.script: list[int] = []

    def clear(self) -> None:
        self.rows = [[] for _ in range(N_LAYER)]

    def compact(self, keep: np.ndarray) -> None:
        if self.status:
            self.clear()
            raise native.NativeError("the backend failed half way", self.status)
        self.rows = [[row[i] for i in kept] for row, kept in zip(self.rows, keep, strict=True)]

    def check(self, tokens) -> np.ndarray:
        if not all(0 <= token < ByteModel.n_vocab for token in tokens):
            raise UsageError("not in the vocabulary")
        return np.asarray(tokens, dtype=np.int64)

    def decode(self, tokens, pos: int, all_logits: bool = False) -> None:
        assert all(len(row) == pos for row in self.rows)
        for row in self.rows:
            row += [int(t) for t in tokens]

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def retract(self, pos: int) -> bool:
        if self.can_retract:
            for row in self.rows:
                del row[pos:]
        return self.can_retract


class ScriptSampler:
    def __init__(self, *_: object) -> None:
        pass

    def sample(self, context: ListContext, _row) -> int:
        return context.script.pop(0) if context.script else END

    def close(self) -> None:
        pass


class Talk:
    """A conversation on a small memory, and checks that it holds what it should."""

    def __init__(self, n_ctx: int = 120) -> None:
        self.model, self.context = ByteModel(), ListContext()
        self.memory = Memory(Ladder(span=2, n_recent=40), N_LAYER, n_ctx, self.context.compact)
        self.session = Session(self.model, self.context, self.memory, n_ubatch=16)
        self.conversation = Conversation(self.model, self.session, self.memory)

    def answer(self, messages, script=(), n_events: int | None = None, **options) -> tuple[str, list]:
        """Shown text and events; `n_events` closes it behind so many."""
        self.context.script = list(script)
        run = self.conversation.answer(messages, Sampling(temperature=0), **options)
        events = []
        for event in run:
            events.append(event)
            if len(events) == n_events:
                break
        run.close()
        self.check()
        return "".join(e.text for e in events if isinstance(e, Step)), events

    def check(self) -> None:
        """Every layer's tokens are those that `held` names, and nothing is held that was not fed."""
        seen, held = self.session.seen, self.memory.held
        assert len(seen) == self.memory.n_seen
        assert self.context.rows == seen[held].tolist()

    def said(self) -> str:
        """What the memory's tokens say, control tokens included, BOS left out."""
        return self.said_bytes().decode()

    def said_bytes(self) -> bytes:
        tokens = self.session.fed.tolist()
        assert tokens[:1] in ([], [BOS])
        return b"".join(CONTROL[t - 256].encode() if t in (256, 257) else self.model.piece(t) for t in tokens)


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
