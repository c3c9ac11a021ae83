"""The heart of the chat: a question in the store, an engine, and what a page should show meanwhile.

What it is: `Turn`, one answer from the question to its end. Its `work` runs in the host's thread and writes the answer
into the store while it streams; `views` tells a page what to show; `stop` ends it at once. And the changes a user may
make to what was said: `ask`, `edit`, `remove`, `redo`. What the store holds then is what the engine is given next, so
an edited or deleted text is never answered from.
What it does not know: gradio, how a view is painted, how an engine notices that its memory is stale.

    ask(store, chat.id, "Why is the sky blue?")
    turn = Turn(store, chat.id, PRESETS["Balanced"]).start(host)
    for view in turn.views():
        print(view.state, view.text)   # waiting, loading, reading, answering, ..., done
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lacache_app.thinning import Thinned, thinned

from lacache_gguf.errors import LacacheError, UsageError
from lacache_gguf.events import Progress, Step

if TYPE_CHECKING:
    from lacache_app.host import EngineHost
    from lacache_app.run import Run
    from lacache_app.store import Message, State, Store

    from lacache_gguf.engine import Engine

SHOW_EVERY_S = 0.12  # a page is painted at most so often: painting takes the cores that the model writes with

PRESETS = MappingProxyType({
    "Precise": {"temperature": 0.2, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "repeat_penalty": 1.1},
    "Balanced": {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "min_p": 0.05, "repeat_penalty": 1.1},
    "Creative": {"temperature": 1.1, "top_k": 0, "top_p": 0.98, "min_p": 0.03, "repeat_penalty": 1.05},
})  # fmt: skip
DEFAULT_PRESET = "Balanced"


@dataclass(frozen=True)
class View:
    """What a page shows of a turn.

    state: waiting (`place` others come first), loading (the model), reading (`progress`), answering, stopping, and at
    the end done, stopped or failed (`error`).
    """

    state: str
    text: str = ""  # of the answer so far
    place: int = 0
    progress: Progress | None = None
    n_tokens: int = 0  # written
    tokens_per_s: float = 0.0  # of writing
    is_cut: bool = False  # ended by the limit of tokens
    error: str = ""

    @property
    def is_over(self) -> bool:
        """Whether this is the last one."""
        return self.state in ("done", "stopped", "failed")


class Turn:
    """One answer in a conversation. Made by a page's event, run by the host, read by one reader.

    sampling  keyword arguments of Engine.answer: temperature, top_k, ..., seed, max_tokens
    message   id of the answer in the store, once there is one
    """

    def __init__(
        self,
        store: Store,
        conversation: str,
        sampling: dict[str, Any] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store, self.conversation, self.sampling = store, conversation, dict(sampling or PRESETS[DEFAULT_PRESET])
        self.message: int | None = None
        self.n_tokens, self.is_cut = 0, False
        self._clock = clock
        self._first_at = self._last_at = 0.0
        self._run: Run[Progress | Step] | None = None

    # ---- for the page ------------------------------------------------------------------------------------------------

    def start(self, host: EngineHost) -> Turn:
        """Queue it; returns itself."""
        self._run = host.start(self.work)
        return self

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self._run is not None and self._run.is_over

    @property
    def place(self) -> int:
        """How many others come first."""
        return self._run.place if self._run else 0

    def stop(self) -> None:
        """End it behind the current ubatch or token; what was written stays. Returns at once."""
        if self._run:
            self._run.stop()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it is over; False if that took longer."""
        return self._run is None or self._run.wait(timeout_s)

    @property
    def tokens_per_s(self) -> float:
        """Speed of writing."""
        seconds = self._last_at - self._first_at
        return (self.n_tokens - 1) / seconds if seconds > 0 else 0.0

    def views(self, interval_s: float = SHOW_EVERY_S) -> Iterator[View]:
        """What to show, from now to the end; the first token comes at once. Errors are views. Closing it stops."""
        assert self._run is not None, "start() it first"
        text, progress, error = "", None, ""
        try:
            for batch in self._run.batches(interval_s):
                text += "".join(event.text for event in batch if isinstance(event, Step))
                progress = next((event for event in reversed(batch) if isinstance(event, Progress)), progress)
                is_read = progress is not None and progress.n_done == progress.n_total
                is_due = batch and is_read and not text  # the first text, which painting this would only delay
                if not (self._run.is_over or is_due):
                    yield self._view(self._state(), text, progress)
        except LacacheError as reason:
            error = str(reason)
        except Exception as reason:  # a bug; the page says so and the app goes on
            error = f"internal error: {type(reason).__name__}: {reason}"
        yield self._view("failed" if error else self._run.state, text, progress, error)

    def _state(self) -> str:
        state = self._run.state if self._run else "waiting"
        if self._run and self._run.is_stopping:
            return "stopping"
        if state == "running":
            return "answering" if self.n_tokens else "reading"
        return state

    def _view(self, state: str, text: str, progress: Progress | None, error: str = "") -> View:
        return View(state, text, self.place, progress, self.n_tokens, self.tokens_per_s, self.is_cut, error)

    # ---- for the host's thread ---------------------------------------------------------------------------------------

    def work(self, engine: Engine) -> Iterator[Progress | Step]:
        """Answer the last message of the conversation. The store has every token before anybody sees it (a tenth of a
        millisecond each), so a killed process loses the one being written. Raises ConversationGone if the conversation
        was deleted meanwhile."""
        talk, messages = self.store.get(self.conversation), self.store.messages(self.conversation)
        prompt = to_prompt(talk.system, messages)
        pinned = str(talk.settings.get("pinned", ""))
        if not prompt or not next(m["content"] for m in prompt if m["role"] == "user").startswith(pinned):
            pinned = ""
        written, is_whole, is_read = "", False, False
        try:
            with closing(engine.answer(prompt, pinned=pinned, **self.sampling)) as events:
                for event in events:
                    is_read = True
                    if isinstance(event, Step):
                        written += event.text
                        self._count(event)
                        self._save(written, "partial")
                    yield event
            is_whole = True
        finally:
            if self.message is not None and self.store.has(self.conversation):
                self._save(written, "whole" if is_whole else "partial")
            if is_read:
                self._note(engine)

    def _save(self, written: str, state: State) -> None:
        if self.message is None:
            self.message = self.store.append(self.conversation, "assistant", written, state=state).id
        else:
            self.store.set_content(self.message, written, state)

    def _count(self, step: Step) -> None:
        now = self._last_at = self._clock()
        if not self.n_tokens:
            self._first_at = now
        self.n_tokens += 1
        self.is_cut = step.finish_reason == "length"

    def _note(self, engine: Engine) -> None:
        """Keep with the conversation what its memory has lost of it."""
        if not self.store.has(self.conversation):
            return
        left = thinned(engine, self.store.messages(self.conversation))
        self.store.configure(self.conversation, settings={"thinned": left.as_dict() if left else None})


def to_prompt(system: str, messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as chat templates want them: user and assistant take turns and the user begins.

    A stopped question or a deleted message leaves two of one kind in a row; they become one.
    """
    prompt: list[dict[str, str]] = []
    for message in messages:
        if prompt and prompt[-1]["role"] == message.role:
            prompt[-1]["content"] += "\n\n" + message.content
        else:
            prompt.append({"role": message.role, "content": message.content})
    if prompt and prompt[0]["role"] == "assistant":
        prompt.insert(0, {"role": "user", "content": ""})
    if not prompt or prompt[-1]["role"] != "user":
        raise UsageError("there is no question to answer; write one")
    return [{"role": "system", "content": system}, *prompt] if system.strip() else prompt


# ---- what a user may change ------------------------------------------------------------------------------------------


def ask(store: Store, conversation: str, text: str) -> Message:
    """Add a question."""
    if not text.strip():
        raise UsageError("the message is empty; write something")
    return store.append(conversation, "user", text.strip())


def edit(store: Store, conversation: str, message: int, text: str) -> bool:
    """Replace what was said; whether a new answer is due.

    A question loses everything that came after it and is answered anew; an answer just keeps the new text.
    """
    old = store.message(message)
    if not text.strip():
        raise UsageError("an empty message cannot be kept; delete it instead")
    if old.role == "user":
        store.truncate_after(message)
    store.set_content(message, text.strip() if old.role == "user" else text, "whole")
    store.configure(conversation, settings={"thinned": None})
    return old.role == "user"


def remove(store: Store, conversation: str, message: int) -> None:
    """Delete one message; what the memory holds of it is not used any more."""
    store.delete_message(message)
    store.configure(conversation, settings={"thinned": None})


def redo(store: Store, conversation: str) -> None:
    """Take back the last answer, so that its question can be answered again."""
    messages = store.messages(conversation)
    n = len(messages)
    while n and messages[n - 1].role == "assistant":
        n -= 1
    if not n:
        raise UsageError("there is no question to answer again; write one")
    if n < len(messages):
        store.truncate_from(messages[n].id)


def note_of(store: Store, conversation: str) -> Thinned | None:
    """What the memory had lost of a conversation when its last answer ended; None if nothing."""
    return Thinned.from_dict(store.get(conversation).settings.get("thinned"))
