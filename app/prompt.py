"""Lines typed by a person: editing and history where readline exists, continued lines, pasted paragraphs.

lines = LineReader()
while (text := lines.read()) is not None: ...
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_N_HISTORY = 1000
_PASTE_WAIT_S = 0.02  # a paste arrives at once; nobody types the next line this fast


def state_dir() -> Path:
    """Where this platform keeps small state such as a history."""
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "lacache"
    if sys.platform == "darwin":
        return home / "Library" / "Application Support" / "lacache"
    return Path(os.environ.get("XDG_STATE_HOME") or home / ".local" / "state") / "lacache"


class LineReader:
    """Reads messages from the terminal; the history file can be read by its owner only."""

    def __init__(self, read_line: Callable[[str], str] = input, history: Path | None = None) -> None:
        self._read_line = read_line
        self._next: str | None = None
        self._history = history or state_dir() / "history"
        self._readline = _load_readline()
        if self._readline is not None:
            self._readline.clear_history()
            with suppress(OSError):  # no history yet, or not readable: then there is none
                self._readline.read_history_file(self._history)

    def read(self) -> str | None:
        """The next message, of several lines if one ends in a backslash or a text was pasted; None at the end."""
        try:
            text, self._next = self._next if self._next is not None else self._line("> "), None
            while text.endswith("\\"):
                text = text[:-1] + "\n" + self._line(". ")
            while not text.startswith("/") and _is_pasting():
                line = self._line("")
                if line.startswith("/"):  # typed ahead, not pasted
                    self._next = line
                    break
                text += "\n" + line
            return text
        except EOFError:
            print(file=sys.stderr)
            return None
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return ""

    def _line(self, prompt: str) -> str:
        return self._read_line(prompt if sys.stdout.isatty() else "")

    def close(self) -> None:
        """Write the history."""
        if self._readline is None:
            return
        try:
            self._history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._history, os.O_WRONLY | os.O_CREAT, 0o600))
            os.chmod(self._history, 0o600)
            self._readline.set_history_length(_N_HISTORY)
            self._readline.write_history_file(self._history)
        except OSError as error:
            print(f"note: the history was not saved: {error}", file=sys.stderr)


def _load_readline():
    if not sys.stdin.isatty():
        return None
    try:
        import readline
    except ImportError:  # Windows, or a Python without it: plain lines
        return None
    return readline


def _is_pasting() -> bool:
    """Whether more input is waiting right behind the line just read."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        return False
    return bool(select.select([sys.stdin], [], [], _PASTE_WAIT_S)[0])
