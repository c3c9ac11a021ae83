"""Conversations that last: an SQLite file that a killed process leaves whole.

What it is: `Store`, the only one who writes conversations. Every call is one transaction; one lock makes it safe from
any thread, WAL and a busy timeout from several processes. An answer is written while it streams (`set_content`).
What it does not know: engines, pages, how often an answer is written.

    store = Store(Path("chats.sqlite3"))
    chat = store.create(system="Be brief.")
    store.append(chat.id, "user", "Why is the sky blue?")
    answer = store.append(chat.id, "assistant", "Because", state="partial")
    store.set_content(answer.id, "Because of scattering.", "whole")
    [talk.title for talk in store.conversations(search="scatter")]      # ["Why is the sky blue?"]
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from lacache_app.store_file import StoreError, open_file
from lacache_app.store_search import SHOWN, Index

from lacache_gguf.errors import UsageError

Role = Literal["user", "assistant"]
State = Literal["whole", "partial"]
N_TITLE = 60  # characters of a title made from the first message
NEW_TITLE = "New chat"

_FIRST = f"""coalesce((SELECT substr({SHOWN}, 1, 400) FROM messages
    WHERE conversation = c.id AND role = 'user' ORDER BY id LIMIT 1), '')"""
_CONVERSATION = f"SELECT c.id, c.title, {_FIRST}, c.created, c.updated, c.system, c.settings FROM conversations c"
_MESSAGE = "SELECT id, role, content, display, state FROM messages"


class ConversationGone(StoreError):
    """The conversation or message was deleted, perhaps in another window."""


@dataclass(frozen=True)
class Message:
    """One message. `display`: what a page shows instead of `content`, if not "". A stopped answer stays "partial"."""

    id: int
    role: Role
    content: str
    display: str = ""
    state: State = "whole"

    @property
    def shown(self) -> str:
        """The text for people."""
        return self.display or self.content


@dataclass(frozen=True)
class Conversation:
    """A conversation without its messages. Times in seconds since 1970; `settings` is any JSON object."""

    id: str
    title: str
    created: float
    updated: float
    system: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


class Store:
    """All conversations of one user, in one file.

    notice   a sentence for the user if a damaged file had to be moved aside, else ""

    Raises StoreError if the file cannot be opened, UsageError if a newer version of the program wrote it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        file = open_file(self.path)
        self._db, self.notice = file.connection, file.notice
        self._index = Index(file.connection, file.has_index)
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the file; safe to call twice."""
        with self._lock:
            self._db.close()

    # ---- conversations ---------------------------------------------------------------------------------------------

    def conversations(self, search: str = "", limit: int = 500) -> list[Conversation]:
        """The newest `limit` conversations. `search`: only those whose title, system message or messages hold every
        word of it, in any case."""
        query, values = _CONVERSATION, []
        if finders := [self._index.finder(word) for word in search.lower().split()]:
            with self._writing():
                self._index.add_new()
            query += " WHERE " + " AND ".join(f"c.id IN ({sql})" for sql, _ in finders)
            values = [value for _, words in finders for value in words]
        rows = self._read(f"{query} ORDER BY c.updated DESC, c.rowid DESC LIMIT ?", [*values, limit])
        return [_conversation(row) for row in rows]

    def create(self, title: str = "", system: str = "", settings: dict[str, Any] | None = None) -> Conversation:
        """A new conversation. Without a title it is called by its first message."""
        now, conversation = time.time(), secrets.token_hex(8)
        with self._writing() as db:
            db.execute(
                "INSERT INTO conversations VALUES (?, ?, ?, ?, ?, ?)",
                (conversation, _one_line(title), now, now, system, json.dumps(settings or {})),
            )
        return self.get(conversation)

    def get(self, conversation: str) -> Conversation:
        """One conversation. Raises ConversationGone."""
        rows = self._read(f"{_CONVERSATION} WHERE c.id = ?", [conversation])
        if not rows:
            raise ConversationGone("this conversation was deleted; begin a new one")
        return _conversation(rows[0])

    def has(self, conversation: str) -> bool:
        """Whether there is such a conversation."""
        return bool(self._read("SELECT 1 FROM conversations WHERE id = ?", [conversation]))

    def rename(self, conversation: str, title: str) -> None:
        """Give a title; "" = by its first message again. Raises ConversationGone."""
        self._change(conversation, "title = ?", _one_line(title))

    def configure(
        self, conversation: str, *, system: str | None = None, settings: dict[str, Any] | None = None
    ) -> None:
        """Set the system message and some of the settings, where given; None removes one. Raises ConversationGone."""
        with self._writing():
            kept = {**self.get(conversation).settings, **(settings or {})}
            kept = {name: value for name, value in kept.items() if value is not None}
            if system is not None:
                self._change(conversation, "system = ?", system)
            if settings:
                self._change(conversation, "settings = ?", json.dumps(kept))

    def delete(self, conversation: str) -> None:
        """Remove a conversation and overwrite its text in the file; one that is not there is no error."""
        with self._writing() as db:
            self._index.remove("conversation = ?", conversation)
            db.execute("DELETE FROM conversations WHERE id = ?", (conversation,))
        self._forget()

    # ---- messages --------------------------------------------------------------------------------------------------

    def messages(self, conversation: str) -> list[Message]:
        """The messages in order; none if there is no such conversation."""
        return [Message(*row) for row in self._read(f"{_MESSAGE} WHERE conversation = ? ORDER BY id", [conversation])]

    def message(self, message: int) -> Message:
        """One message. Raises ConversationGone."""
        rows = self._read(f"{_MESSAGE} WHERE id = ?", [message])
        if not rows:
            raise ConversationGone("this message was deleted")
        return Message(*rows[0])

    def append(self, conversation: str, role: Role, content: str, display: str = "", state: State = "whole") -> Message:
        """Add a message. Raises ConversationGone."""
        with self._writing() as db:
            self._touch(conversation)
            row = (conversation, role, _text(content), _text(display), state, time.time())
            sql = (
                "INSERT INTO messages (conversation, role, content, display, state, created) VALUES (?, ?, ?, ?, ?, ?)"
            )
            number = db.execute(sql, row).lastrowid
        return Message(int(number or 0), role, row[2], row[3], state)

    def set_content(self, message: int, content: str, state: State = "whole", *, keep_display: bool = False) -> None:
        """Replace the text of a message. Raises ConversationGone if the message is not there any more."""
        with self._writing() as db:
            self._index.remove("id = ?", message)
            sql = f"UPDATE messages SET content = ?, state = ?{'' if keep_display else ', display = ?'} WHERE id = ?"
            values = (_text(content), state, *(() if keep_display else ("",)), message)
            if not db.execute(sql, values).rowcount:
                raise ConversationGone("this message was deleted")

    def delete_message(self, message: int) -> None:
        """Remove one message and overwrite its text in the file; one that is not there is no error."""
        self._delete_messages("id = ?", message)

    def truncate_from(self, message: int) -> None:
        """Remove a message and all that follow it in its conversation."""
        chosen = "id >= ? AND conversation = (SELECT conversation FROM messages WHERE id = ?)"
        self._delete_messages(chosen, message, message)

    def truncate_after(self, message: int) -> None:
        """Remove all messages that follow this one in its conversation."""
        chosen = "id > ? AND conversation = (SELECT conversation FROM messages WHERE id = ?)"
        self._delete_messages(chosen, message, message)

    # ---- export ----------------------------------------------------------------------------------------------------

    def export(self, conversation: str, kind: str = "markdown") -> str:
        """The conversation as "markdown", for reading, or as "json", with everything. Raises ConversationGone."""
        talk, messages = self.get(conversation), self.messages(conversation)
        if kind == "json":
            fields = ("role", "content", "display", "state")
            data = {
                "title": talk.title,
                "created": _iso(talk.created),
                "updated": _iso(talk.updated),
                "system": talk.system,
                "settings": talk.settings,
                "messages": [{name: getattr(m, name) for name in fields if getattr(m, name)} for m in messages],
            }
            return json.dumps(data, ensure_ascii=False, indent=1) + "\n"
        if kind != "markdown":
            raise UsageError(f"export as {kind!r} is unknown; choose markdown or json")
        parts = [f"# {talk.title}", f"*{_iso(talk.created)[:10]}*"]
        parts += [f"## System\n\n{talk.system.strip()}"] if talk.system else []
        for message in messages:
            name = "You" if message.role == "user" else "Assistant"
            stopped = " (stopped)" if message.state == "partial" else ""
            parts.append(f"## {name}{stopped}\n\n{message.shown.strip()}")
        return "\n\n".join(parts) + "\n"

    # ---- inside ----------------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, all or nothing; it may stand inside another."""
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                raise StoreError(f"the conversations in {self.path} cannot be written: {error}") from error
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _read(self, sql: str, values: Sequence[Any]) -> list[tuple]:
        with self._lock:
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise StoreError(f"the conversations in {self.path} cannot be read: {error}") from error

    def _change(self, conversation: str, setting: str, value: str) -> None:
        with self._writing() as db:
            if not db.execute(f"UPDATE conversations SET {setting} WHERE id = ?", (value, conversation)).rowcount:
                raise ConversationGone("this conversation was deleted; begin a new one")

    def _touch(self, conversation: str) -> None:
        if not self._db.execute(
            "UPDATE conversations SET updated = ? WHERE id = ?", (time.time(), conversation)
        ).rowcount:
            raise ConversationGone("this conversation was deleted; begin a new one")

    def _delete_messages(self, chosen: str, *values: Any) -> None:
        with self._writing() as db:
            self._index.remove(chosen, *values)
            n = db.execute(f"DELETE FROM messages WHERE {chosen}", values).rowcount
        if n:
            self._forget()

    def _forget(self) -> None:
        """Let nothing of what was deleted stay in the write-ahead log either; another process's read may delay that."""
        with self._lock, suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def title_of(text: str) -> str:
    """A title from the beginning of a message: one line, cut between words."""
    line = _one_line(text)
    if len(line) <= N_TITLE:
        return line or NEW_TITLE
    cut = line[:N_TITLE].rpartition(" ")[0]
    return (cut if len(cut) > N_TITLE // 2 else line[:N_TITLE]) + "\u2026"


def _conversation(row: tuple) -> Conversation:
    number, title, first, created, updated, system, settings = row
    return Conversation(number, title or title_of(first), created, updated, system, json.loads(settings))


def _one_line(text: str) -> str:
    return " ".join(_text(text)[:1000].split())


def _text(text: str) -> str:
    """What SQLite and UTF-8 can hold: half of a surrogate pair becomes "?", NUL nothing."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
