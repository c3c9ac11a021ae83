"""The conversations of the chat tab: which one is open, how it is painted, and what can be done with it as a whole.

What it is: `ConversationsPage`, the half of the tab's events that neither ask nor answer (chat_page.py has those), and
the painting that both share. Every method paints what the store holds at that moment, never what an earlier event had
in hand.
What it does not know: layout, how the model is run, SQL.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components.chatbot import Message as Bubble
from gradio.components.chatbot import TextMessage
from lacache_app import chat
from lacache_app.chat import PRESETS, Turn
from lacache_app.store import Message
from lacache_app.ui import chat_choice, chat_html
from lacache_app.ui.context import Context

if TYPE_CHECKING:
    from lacache_app.ui.chat_tab import ChatTab

N_SHOWN = 5_000  # characters of a message on the page; longer ones are shortened there, and kept whole
END_S = 60.0  # how long to wait for an answer that was stopped: a ubatch on a slow machine
Changes = dict[Any, Any]  # component -> new value


@dataclass
class Asked:
    """An answer that is being painted. `shown` is set when the event that asked and paints has nothing more to say."""

    turn: Turn
    search: str  # what the list of conversations is searched for
    session: str | None  # of the visitor
    shown: threading.Event = field(default_factory=threading.Event)


class ConversationsPage:
    """Events of a chat tab; nothing of a visitor is kept here.

    asking, painted, everything: outputs of events that ask, that repaint the conversation, that open one.
    """

    def __init__(self, ctx: Context, own: ChatTab) -> None:
        self.ctx, self.store, self.own = ctx, ctx.store, own
        self.painted = [own.log, own.note, own.status, own.talks, own.title]
        self.asking = [*self.painted, own.input, own.asked, own.opened]
        rows = [own.bar, own.rename_row, own.confirm_row]
        self.everything = [*self.painted, own.opened, *rows, *own.sampling.inputs()]

    def new(self, search: str, asked: Asked | None) -> Changes:
        """An empty page; the conversation is made with its first message."""
        self.end(asked)
        return self._open("", search)

    def open(self, search: str, asked: Asked | None, event: gr.EventData) -> Changes:
        """A conversation was chosen in the list."""
        self.end(asked)
        return self._open(str(event.id), search)

    def follow(self, wanted: str, search: str, asked: Asked | None) -> Changes:
        """Another tab wants a conversation to be opened."""
        self.end(asked)
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
        self.end(asked)
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

    # ---- inside ------------------------------------------------------------------------------------------------------

    def settled(self, conversation: str, search: str, news: str = "") -> Changes:
        """The conversation as the store has it. `news` also says whether Send or Stop is shown (assets/chat.css)."""
        own, is_there = self.own, bool(conversation) and self.store.has(conversation)
        messages = self.store.messages(conversation) if is_there else []
        note = chat.note_of(self.store, conversation) if is_there else None
        return {
            own.log: [bubble(message) for message in messages],
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
        changes = self.settled(conversation, search, chat_html.notice(notice) if notice else "")
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

    def end(self, asked: Asked | None) -> None:
        """Stop the answer under way and wait until the page shows it as stopped."""
        if asked is not None and not asked.shown.is_set():
            asked.turn.stop()
            asked.shown.wait(END_S)


def bubble(message: Message) -> Bubble:
    """A message as the page shows it."""
    text = shortened(message) or "*(no answer)*"
    return Bubble(role=message.role, content=[TextMessage(text=text)], metadata={"id": message.id})


def shortened(message: Message) -> str:
    """What the page shows of its text."""
    text = message.shown
    if len(text) <= N_SHOWN:
        return text
    return f"{text[:N_SHOWN]} …\n\n*({len(text):,} characters in all; the whole text is kept and read.)*"
