"""What the events of the chat tab do.

What it is: `ChatPage`, one method per event. Every method paints what the store holds at that moment, never what an
earlier event had in hand, and a visitor has one answer under way at a time. So an event that finishes late cannot bring
back something old: an answer's last chunk is empty, and whoever changes the page while an answer is being written stops
it and waits until it is painted.
What it does not know: layout, how the model is run, SQL.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components.chatbot import Message as Bubble
from gradio.components.chatbot import TextMessage
from lacache_app import chat
from lacache_app.chat import PRESETS, Turn, View
from lacache_app.store import Message
from lacache_app.ui import chat_choice, chat_html
from lacache_app.ui.context import Context

from lacache_gguf.errors import LacacheError, UsageError

if TYPE_CHECKING:
    from lacache_app.ui.chat_tab import ChatTab

ID = "chat"
N_SHOWN = 5_000  # characters of a message on the page; longer ones are shortened there, and kept whole
_END_S = 60.0  # how long to wait for an answer that was stopped: a ubatch on a slow machine
Changes = dict[Any, Any]  # component -> new value


@dataclass
class Asked:
    """An answer that is due or being painted. `shown` is set when the event that paints it has nothing more to say."""

    turn: Turn
    shown: threading.Event = field(default_factory=threading.Event)
    _first: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> bool:
        """Whether the caller is the first to take it, and so the one who paints how it ends."""
        return self._first.acquire(blocking=False)


class ChatPage:
    """The events of one chat tab; nothing of a visitor is kept here.

    asking, painted, everything: outputs of events that ask, that repaint the conversation, that open one.
    """

    def __init__(self, ctx: Context, own: ChatTab) -> None:
        self.ctx, self.store, self.own = ctx, ctx.store, own
        self.painted = [own.log, own.note, own.status, own.talks, own.title]
        self.asking = [*self.painted, own.input, own.asked, own.opened]
        rows = [own.bar, own.rename_row, own.confirm_row]
        self.everything = [*self.painted, own.opened, *rows, *own.sampling.inputs()]

    # ---- asking and answering ----------------------------------------------------------------------------------------

    def send(
        self, text: str, conversation: str, asked: Asked | None, search: str, request: gr.Request, *choice: Any
    ) -> Changes:
        """Enter or Send: the message is in the store and on the page, its answer is queued."""
        if not (text or "").strip() or _is_busy(asked):
            return self._nothing()
        try:
            self._not_elsewhere(conversation, asked)
        except UsageError as error:
            gr.Warning(str(error))
            return self._nothing()
        if not conversation or not self.store.has(conversation):
            conversation = self.store.create().id
        chat.ask(self.store, conversation, text)
        return {**self._ask(conversation, search, request, choice), self.own.input: ""}

    def edit(
        self,
        bubbles: list[dict],
        conversation: str,
        search: str,
        asked: Asked | None,
        event: gr.EditData,
        request: gr.Request,
        *choice: Any,
    ) -> Changes:
        """A message was edited on the page."""
        self._end(asked)
        try:
            self._not_elsewhere(conversation, asked)
            number = self._number(bubbles, event.index)
            if event.previous_value != _shortened(self.store.message(number)):
                raise UsageError("This conversation was changed in another window; look at it again.")
            if event.previous_value != self.store.message(number).content:
                raise UsageError("This message is too long to be edited here; delete it and send another one.")
            is_question = chat.edit(self.store, conversation, number, str(event.value))
        except LacacheError as error:
            gr.Warning(str(error))
            return self._settled(conversation, search)
        return self._ask(conversation, search, request, choice) if is_question else self._settled(conversation, search)

    def redo(self, conversation: str, search: str, asked: Asked | None, request: gr.Request, *choice: Any) -> Changes:
        """Answer the last question again."""
        self._end(asked)
        try:
            self._not_elsewhere(conversation, asked)
            chat.redo(self.store, conversation)
        except LacacheError as error:
            gr.Warning(str(error))
            return self._settled(conversation, search)
        return self._ask(conversation, search, request, choice)

    def _ask(self, conversation: str, search: str, request: gr.Request, choice: tuple) -> Changes:
        """Queue the answer to what is in the store, and paint it as waiting."""
        system, settings = chat_choice.chosen(choice)
        self.store.configure(conversation, system=system, settings={"chosen": settings})
        asked = Asked(Turn(self.store, conversation, chat_choice.sampling(settings)).start(self.ctx.host))
        self.ctx.runs.set(request.session_hash, asked.turn, ID)
        waiting = View("waiting", place=asked.turn.place)
        return {
            **self._settled(conversation, search, chat_html.news(waiting)),
            self.own.asked: asked,
            self.own.opened: conversation,
        }

    def answer(self, asked: Asked | None, search: str, request: gr.Request) -> Iterator[Changes]:
        """Paint the answer that is due until it is over. Only the last message changes meanwhile."""
        if asked is None or not asked.take():
            yield self._nothing()
            return
        turn = asked.turn
        try:
            before = [_bubble(m) for m in self.store.messages(turn.conversation) if m.id != turn.message]
            for view in turn.views():
                if view.is_over:
                    break
                live = [Bubble(role="assistant", content=[TextMessage(text=view.text)])] if view.n_tokens else []
                yield {self.own.log: [*before, *live], self.own.status: chat_html.news(view)}
            newer = self.ctx.runs.get(request.session_hash, ID)
            if newer is None or newer is turn:
                yield self._settled(turn.conversation, search, chat_html.news(view))
            yield self._nothing()  # Gradio repeats an event's last chunk at its end, when others may have painted
        finally:
            asked.shown.set()

    def stop(self, asked: Asked | None, conversation: str, search: str) -> Changes:
        """End the answer at once; what was written stays. The event that paints the answer also paints its end: this
        one may reach the page after it. Only an answer that nobody paints yet, behind others, ends here."""
        if asked is None or asked.shown.is_set():
            return self._settled(conversation, search)
        asked.turn.stop()
        if not asked.take():
            return self._nothing()
        asked.turn.wait(_END_S)
        asked.shown.set()
        return self._settled(conversation, search, chat_html.news(View("stopped")))

    def leave(self, request: gr.Request) -> None:
        """The page was closed: nobody waits for the answer any more."""
        self.ctx.runs.stop(request.session_hash, ID)

    # ---- the conversation --------------------------------------------------------------------------------------------

    def remove(
        self, bubbles: list[dict], conversation: str, search: str, asked: Asked | None, event: gr.EventData
    ) -> Changes:
        """Delete one message."""
        self._end(asked)
        try:
            self._not_elsewhere(conversation, asked)
            chat.remove(self.store, conversation, self._number(bubbles, event.index))
        except LacacheError as error:
            gr.Warning(str(error))
        return self._settled(conversation, search)

    def repaint(self, conversation: str, search: str) -> Changes:
        """Show what is in the store."""
        return self._settled(conversation, search)

    def use_example(self, event: gr.SelectData) -> str:
        """Put an example into the input."""
        return event.value["text"]

    # ---- conversations -----------------------------------------------------------------------------------------------

    def new(self, search: str, asked: Asked | None) -> Changes:
        """An empty page; the conversation is made with its first message."""
        self._end(asked)
        return self._open("", search)

    def open(self, search: str, asked: Asked | None, event: gr.EventData) -> Changes:
        """A conversation was chosen in the list."""
        self._end(asked)
        return self._open(str(event.id), search)

    def follow(self, wanted: str, search: str, asked: Asked | None) -> Changes:
        """Another tab wants a conversation to be opened."""
        self._end(asked)
        return self._open(wanted, search)

    def load(self, search: str, request: gr.Request) -> Changes:
        """The page was loaded: the conversation in its address."""
        return self._open(request.query_params.get("chat", ""), search, self.store.notice)

    def list(self, conversation: str, search: str) -> str:
        """The list of conversations."""
        return chat_html.conversation_list(self.store.conversations(search or ""), conversation, search or "")

    def ask_name(self, conversation: str) -> Changes:
        """Show the field for a new title."""
        return {**self._rows(self.own.rename_row), self.own.name: self.store.get(conversation).title}

    def ask_delete(self) -> Changes:
        """Show the question whether to delete."""
        return self._rows(self.own.confirm_row)

    def close_rows(self) -> Changes:
        """Back to the title."""
        return self._rows(self.own.bar)

    def rename(self, name: str, conversation: str, search: str) -> Changes:
        """Give the conversation a title."""
        self.store.rename(conversation, name)
        title = chat_html.title(self.store.get(conversation).title)
        return {
            **self._rows(self.own.bar),
            self.own.talks: self.list(conversation, search),
            self.own.title: title,
        }

    def delete(self, conversation: str, search: str, asked: Asked | None) -> Changes:
        """Delete the conversation."""
        self._end(asked)
        self.store.delete(conversation)
        return self._open("", search)

    def export_markdown(self, conversation: str) -> dict[str, Any]:
        """For the bridge, which saves it as a file."""
        return self._file(conversation, "markdown", "md", "text/markdown")

    def export_json(self, conversation: str) -> dict[str, Any]:
        """The same with everything."""
        return self._file(conversation, "json", "json", "application/json")

    def use_preset(self, preset: str) -> list[Any]:
        """Set the sliders."""
        return list(PRESETS[preset].values()) if preset in PRESETS else [gr.skip()] * len(self.own.sampling.sliders)

    # ---- API ---------------------------------------------------------------------------------------------------------

    def chat(self, message: str, conversation: str = "", max_tokens: int = 2048) -> Iterator[tuple[str, str]]:
        """Answer a message. Give back the conversation's id to go on with it; max_tokens 0: until the model is done.
        -> (answer so far, conversation)"""
        if conversation and not self.store.has(conversation):
            raise gr.Error(
                f"there is no conversation {conversation!r}; leave it empty to begin one", print_exception=False
            )
        try:
            self._not_elsewhere(conversation)
            conversation = conversation or self.store.create().id
            chat.ask(self.store, conversation, message)
            sampling = {**PRESETS[chat.DEFAULT_PRESET], "max_tokens": max_tokens or None}
            turn = Turn(self.store, conversation, sampling).start(self.ctx.host)
            self.ctx.runs.set(conversation, turn, "api")
        except LacacheError as error:
            raise gr.Error(str(error), print_exception=False) from None
        for view in turn.views():
            if view.state == "failed":
                raise gr.Error(view.error, print_exception=False)
            yield view.text, conversation

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _nothing(self) -> Changes:
        return {self.own.log: gr.skip(), self.own.status: gr.skip()}

    def _settled(self, conversation: str, search: str, news: str = "") -> Changes:
        """The conversation as the store has it. `news` also says whether Send or Stop is shown (assets/chat.css)."""
        own, is_there = self.own, bool(conversation) and self.store.has(conversation)
        messages = self.store.messages(conversation) if is_there else []
        note = chat.note_of(self.store, conversation) if is_there else None
        return {
            own.log: [_bubble(message) for message in messages],
            own.note: chat_html.memory_note(note, messages),
            own.status: news or chat_html.news(None),
            own.talks: self.list(conversation if is_there else "", search),
            own.title: chat_html.title(self.store.get(conversation).title if is_there else None),
        }

    def _open(self, conversation: str, search: str, notice: str = "") -> Changes:
        """Everything about one conversation; "" or one that is gone: an empty page."""
        own, s = self.own, self.own.sampling
        if conversation and not self.store.has(conversation):
            conversation = ""
        changes = self._settled(conversation, search, chat_html.notice(notice) if notice else "")
        changes |= self._rows(own.bar)
        changes |= {own.opened: conversation, s.system: ""}
        if conversation:
            talk = self.store.get(conversation)
            changes[s.system] = talk.system
            if values := chat_choice.known(talk.settings.get("chosen")):
                changes |= dict(zip(s.inputs()[1:], values, strict=True))
        return changes

    def _rows(self, shown: gr.Row) -> Changes:
        rows = (self.own.bar, self.own.rename_row, self.own.confirm_row)
        return {row: gr.Row(visible=row is shown) for row in rows}

    def _file(self, conversation: str, kind: str, ending: str, media_type: str) -> dict[str, Any]:
        title = self.store.get(conversation).title
        name = "".join(c if c.isalnum() or c in " -_" else "" for c in title).strip()[:60] or "conversation"
        text = self.store.export(conversation, kind)
        return {"name": f"{name}.{ending}", "text": text, "type": media_type, "at": time.time()}

    def _end(self, asked: Asked | None) -> None:
        """Stop the answer under way and wait until the page shows it as stopped."""
        if asked is not None and not asked.shown.is_set():
            asked.turn.stop()
            asked.turn.wait(_END_S)
            if not asked.take():  # otherwise its event still waits in the queue, and will paint nothing
                asked.shown.wait(_END_S)

    def _not_elsewhere(self, conversation: str, asked: Asked | None = None) -> None:
        """Raise UsageError if another window, or a program, waits for an answer in this conversation."""
        own = asked.turn if asked else None
        for run in self.ctx.runs:
            if isinstance(run, Turn) and run.conversation == conversation and run is not own and not run.is_over:
                raise UsageError(
                    "This conversation is being answered in another window; wait until it is done, or stop it there."
                )

    @staticmethod
    def _number(bubbles: list[dict], index: int | tuple[int, int]) -> int:
        """Id of the message at a place on the page."""
        try:
            return int(bubbles[int(index)]["metadata"]["id"])
        except (IndexError, KeyError, TypeError, ValueError):
            raise UsageError("This message is not in the store any more; look at it again.") from None


def _is_busy(asked: Asked | None) -> bool:
    return asked is not None and not asked.turn.is_over


def _bubble(message: Message) -> Bubble:
    text = _shortened(message) or "*(no answer)*"
    return Bubble(role=message.role, content=[TextMessage(text=text)], metadata={"id": message.id})


def _shortened(message: Message) -> str:
    text = message.shown
    if len(text) <= N_SHOWN:
        return text
    return f"{text[:N_SHOWN]} …\n\n*({len(text):,} characters in all; the whole text is kept and read.)*"
