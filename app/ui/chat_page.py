"""Asking and answering in the chat tab: what the events do that write messages.

What it is: `ChatPage`, one method per event. A visitor has one answer under way at a time, and so has a conversation.
The event that asks also paints the answer (`answering`): each further event is a round trip of the page.
Nothing that finishes late can bring back something old: an answer's last chunk is empty, and whoever changes the page
while an answer is being written stops it and waits until it is painted.
What it does not know: layout, how the model is run, SQL.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components.chatbot import Message as Bubble
from gradio.components.chatbot import TextMessage
from lacache_app import chat
from lacache_app.chat import PRESETS, Turn, View
from lacache_app.ui import chat_choice, chat_html
from lacache_app.ui.chat_conversations import Asked, Changes, ConversationsPage, bubble, shortened
from lacache_app.ui.context import Context

from lacache_gguf.errors import LacacheError, UsageError

if TYPE_CHECKING:
    from lacache_app.ui.chat_tab import ChatTab

ID = "chat"


class ChatPage(ConversationsPage):
    """The events of one chat tab."""

    def __init__(self, ctx: Context, own: ChatTab) -> None:
        super().__init__(ctx, own)
        self._sending = threading.Lock()

    # ---- asking and answering ----------------------------------------------------------------------------------------

    def send(self, text: str, conversation: str, search: str, request: gr.Request, *choice: Any) -> Changes:
        """Enter or Send: the message is in the store and on the page, its answer is queued."""
        with self._sending:  # Enter pressed twice: the second event comes before the first has changed the page
            if not (text or "").strip() or self.ctx.runs.get(request.session_hash, ID) is not None:
                return self._nothing()
            try:
                self._not_elsewhere(conversation)
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
        self.end(asked)
        try:
            self._not_elsewhere(conversation, asked)
            number = self._number(bubbles, event.index)
            if event.previous_value != shortened(self.store.message(number)):
                raise UsageError("This conversation was changed in another window; look at it again.")
            if event.previous_value != self.store.message(number).content:
                raise UsageError("This message is too long to be edited here; delete it and send another one.")
            is_question = chat.edit(self.store, conversation, number, str(event.value))
        except LacacheError as error:
            gr.Warning(str(error))
            return self.settled(conversation, search)
        return self._ask(conversation, search, request, choice) if is_question else self.settled(conversation, search)

    def redo(self, conversation: str, search: str, asked: Asked | None, request: gr.Request, *choice: Any) -> Changes:
        """Answer the last question again."""
        self.end(asked)
        try:
            self._not_elsewhere(conversation, asked)
            chat.redo(self.store, conversation)
        except LacacheError as error:
            gr.Warning(str(error))
            return self.settled(conversation, search)
        return self._ask(conversation, search, request, choice)

    def _ask(self, conversation: str, search: str, request: gr.Request, choice: tuple) -> Changes:
        """Queue the answer to what is in the store, and paint it as waiting."""
        system, settings = chat_choice.chosen(choice)
        self.store.configure(conversation, system=system, settings={"chosen": settings})
        turn = Turn(self.store, conversation, chat_choice.sampling(settings)).start(self.ctx.host)
        self.ctx.runs.set(request.session_hash, turn, ID)
        waiting = View("waiting", place=turn.place)
        return {
            **self.settled(conversation, search, chat_html.news(waiting)),
            self.own.asked: Asked(turn, search, request.session_hash),
            self.own.opened: conversation,
        }

    def answering(self, event: Callable[..., Changes]) -> Callable[..., Iterator[Changes]]:
        """`event`, which may ask; then the answer is painted, too."""

        @functools.wraps(event)
        def asks_and_answers(*args: Any, **kwargs: Any) -> Iterator[Changes]:
            changes = event(*args, **kwargs)
            if asked := changes.get(self.own.asked):
                yield from self._answer(asked, changes)
            else:
                yield changes

        return asks_and_answers

    def _answer(self, asked: Asked, changes: Changes) -> Iterator[Changes]:
        """Paint `changes`, then the answer until it is over. Only the last message changes meanwhile."""
        turn = asked.turn
        try:
            yield changes
            before = [bubble(m) for m in self.store.messages(turn.conversation) if m.id != turn.message]
            for view in turn.views():
                if view.is_over:
                    break
                live = [Bubble(role="assistant", content=[TextMessage(text=view.text)])] if view.n_tokens else []
                yield {self.own.log: [*before, *live], self.own.status: chat_html.news(view)}
            newer = self.ctx.runs.get(asked.session, ID)
            if newer is None or newer is turn:
                yield self.settled(turn.conversation, asked.search, chat_html.news(view))
            yield self._nothing()  # Gradio repeats an event's last chunk at its end, when others may have painted
        finally:
            turn.stop()  # the page is gone, or the answer is over
            asked.shown.set()

    def stop(self, asked: Asked | None, conversation: str, search: str) -> Changes:
        """End the answer at once; what was written stays. The event that paints the answer also paints its end: this
        one may reach the page after it."""
        if asked is None or asked.shown.is_set():
            return self.settled(conversation, search)
        asked.turn.stop()
        return self._nothing()

    def leave(self, request: gr.Request) -> None:
        """The page was closed: nobody waits for the answer any more."""
        self.ctx.runs.stop(request.session_hash, ID)

    # ---- the conversation --------------------------------------------------------------------------------------------

    def remove(
        self, bubbles: list[dict], conversation: str, search: str, asked: Asked | None, event: gr.EventData
    ) -> Changes:
        """Delete one message."""
        self.end(asked)
        try:
            self._not_elsewhere(conversation, asked)
            chat.remove(self.store, conversation, self._number(bubbles, event.index))
        except LacacheError as error:
            gr.Warning(str(error))
        return self.settled(conversation, search)

    def repaint(self, conversation: str, search: str) -> Changes:
        """Show what is in the store."""
        return self.settled(conversation, search)

    def use_example(self, event: gr.SelectData) -> str:
        """Put an example into the input."""
        return event.value["text"]

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

