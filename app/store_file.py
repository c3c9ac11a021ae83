"""The file that conversations are kept in: opening it, its schema, and what happens when it is damaged.

What it is: `open_file(path)` gives a connection to an SQLite database in WAL mode with the newest schema. Files are
readable by their owner only. A file that SQLite cannot read is moved aside, never deleted, and a new one begun.
What it does not know: what the rows mean; that is store.py.

    file = open_file(Path("chats.sqlite3"))
    file.connection.execute("SELECT count(*) FROM messages")
    print(file.notice)                 # "" or a sentence for the user: what was damaged and where it lies now
"""

from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from lacache_app.paths import move_aside

from lacache_gguf.errors import LacacheError, UsageError

VERSION = 1  # of the schema, in the file's user_version
BUSY_S = 10.0  # another process is writing: wait as long as this
_SIDES = ("-wal", "-shm", "-journal")

_SCHEMA = """
CREATE TABLE conversations (
    id TEXT PRIMARY KEY,
    title TEXT NOT NULL,               -- '' = made from the first message
    created REAL NOT NULL,             -- seconds since 1970
    updated REAL NOT NULL,
    system TEXT NOT NULL,
    settings TEXT NOT NULL             -- JSON object
);
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    role TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
    content TEXT NOT NULL,
    display TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('whole', 'partial')),
    created REAL NOT NULL,
    is_indexed INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX messages_of_conversation ON messages (conversation, id);
CREATE INDEX messages_to_index ON messages (id) WHERE is_indexed = 0;
"""
# Which message holds which three letters, without their places: candidates for a search, no second copy of the text.
# The text is in small letters already, Python's: SQLite has others for some characters, and would miss what holds them.
_INDEX = """
CREATE VIRTUAL TABLE IF NOT EXISTS lower_index
USING fts5(text, content='', detail='none', tokenize='trigram case_sensitive 1')
"""


class StoreError(LacacheError):
    """The conversations cannot be read or written; the text says why."""


@dataclass(frozen=True)
class StoreFile:
    """An open database. `has_index`: this SQLite has FTS5; `notice`: what the user should know, or ""."""

    connection: sqlite3.Connection
    has_index: bool
    notice: str


def open_file(path: Path) -> StoreFile:
    """Open or create the database. Raises StoreError if it cannot be used, UsageError if a newer version wrote it."""
    notice = ""
    try:
        _create_private(path)
        try:
            connection = _open_checked(path)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            aside = move_aside(path, *_SIDES)
            notice = (
                f"The file with your conversations could not be read ({error}). It was kept as {aside.name} in "
                f"{aside.parent}, and a new one was begun."
            )
            _create_private(path)
            connection = _open_checked(path)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"the conversations in {path} cannot be opened: {error}; choose another data folder"
        ) from error
    try:
        has_index = _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return StoreFile(connection, has_index, notice)


def _create_private(path: Path) -> None:
    """An empty file that only its owner may read, in a folder of which the same is true if we make it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
    if os.name == "posix" and path.stat().st_mode & 0o077:
        path.chmod(0o600)


def _open_checked(path: Path) -> sqlite3.Connection:
    """A connection to a file that is a sound database."""
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        # What is deleted is overwritten, not only unlinked.
        for pragma in ("secure_delete=ON", "foreign_keys=ON", "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        _use_wal(connection)
        if (answer := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(f"malformed: {answer}")
    except BaseException:
        connection.close()
        raise
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to write-ahead logging. The switch needs the file alone, and SQLite does not wait for that by itself."""
    give_up_at = time.monotonic() + BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up_at:
                raise
            time.sleep(0.01)


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file itself is bad, rather than locked, full or out of reach."""
    text = str(error)
    return "not a database" in text or "malformed" in text


def _prepare(connection: sqlite3.Connection, path: Path) -> bool:
    """Make the tables if they are not there; whether there is an index for searching."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise UsageError(
                f"{path} was written by a newer lacache-gguf (format {version}, this one knows {VERSION}); "
                "update lacache-gguf or choose another data folder"
            )
        if version == 0:
            for statement in _SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={VERSION}")
        has_index = _make_index(connection)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise StoreError(f"the conversations in {path} cannot be used: {error}") from error
    return has_index


def _make_index(connection: sqlite3.Connection) -> bool:
    is_new = not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'lower_index'").fetchone()
    try:
        connection.execute(_INDEX)
        connection.execute("SELECT count(*) FROM lower_index WHERE lower_index MATCH '\"abc\"'").fetchone()
    except sqlite3.OperationalError:  # no FTS5, or one that knows no trigrams
        return False
    if is_new:  # an index of another kind was there before
        connection.execute("DROP TABLE IF EXISTS message_index")
        connection.execute("UPDATE messages SET is_indexed = 0")
    return True
