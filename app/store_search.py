"""Finding words in conversations: an index of three-letter pieces gives candidates, reading the text decides.

What it is: `Index`, used by the store inside its transactions. Without FTS5 every text is read, with the same result.
Messages are indexed when somebody searches, so a streaming answer is not indexed again and again.
What it does not know: connections, locks, conversations as values.

    sql, values = index.finder("scatter")      # SELECT of the ids of conversations that hold the word
"""

from __future__ import annotations

import sqlite3
from typing import Any

SHOWN = "CASE WHEN display <> '' THEN display ELSE content END"  # what a page shows of a message
_N_PIECE = 3  # letters of a piece; FTS5's trigram tokenizer


class Index:
    """The table `lower_index` of an open database; `is_there`: this SQLite can use it."""

    def __init__(self, db: sqlite3.Connection, is_there: bool) -> None:
        self._db, self.is_there = db, is_there
        db.create_function("holds", 2, _holds, deterministic=True)
        db.create_function("lowered", 1, _lowered, deterministic=True)

    def finder(self, word: str) -> tuple[str, list[str]]:
        """SQL, and its values, that selects the conversations that hold a word (in lower case) anywhere."""
        sql = f"SELECT conversation FROM messages WHERE holds({SHOWN}, ?)"
        values = [word]
        if self.is_there and len(word) >= _N_PIECE:
            pieces = dict.fromkeys(word[i : i + _N_PIECE].replace('"', '""') for i in range(len(word) - _N_PIECE + 1))
            sql += " AND id IN (SELECT rowid FROM lower_index WHERE lower_index MATCH ?)"
            values.append(" AND ".join(f'"{piece}"' for piece in pieces))
        return f"{sql} UNION SELECT id FROM conversations WHERE holds(title, ?) OR holds(system, ?)", [
            *values,
            word,
            word,
        ]

    def add_new(self) -> None:
        """Index what was written since the last time."""
        if self.is_there:
            new = f"SELECT id, lowered({SHOWN}) FROM messages WHERE is_indexed = 0"
            self._db.execute(f"INSERT INTO lower_index (rowid, text) {new}")
            self._db.execute("UPDATE messages SET is_indexed = 1 WHERE is_indexed = 0")

    def remove(self, chosen: str, *values: Any) -> None:
        """Take the messages `WHERE {chosen}` out of the index, before they change or go."""
        if not self.is_there:
            return
        sql = (
            f"INSERT INTO lower_index (lower_index, rowid, text) SELECT 'delete', id, lowered({SHOWN}) "
            f"FROM messages WHERE is_indexed = 1 AND {chosen}"
        )
        if self._db.execute(sql, values).rowcount > 0:
            self._db.execute(f"UPDATE messages SET is_indexed = 0 WHERE {chosen}", values)
            self._db.execute("INSERT INTO lower_index (lower_index) VALUES ('optimize')")  # forgets them really


def _holds(text: str | None, word: str) -> bool:
    return word in _lowered(text)


def _lowered(text: str | None) -> str:
    return (text or "").lower()
