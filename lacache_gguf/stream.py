"""From token bytes to text that may be shown: whole UTF-8 characters, cut before a stop string. Knows no model."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Feed bytes with `push`, take text; `stopped` tells that a stop string was met.

    >>> stream = TextStream(stop=["END"])
    >>> [stream.push(b) for b in (b"caf\\xc3", b"\\xa9 E", b"ND more")], stream.stopped
    (['caf', 'é ', ''], True)
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = [text for text in stop if text]
        self._held = ""  # may be the beginning of a stop string
        self.stopped = False

    def push(self, data: bytes) -> str:
        """Text that is now certain: complete characters that cannot belong to a stop string any more."""
        return self._take(self._decoder.decode(data))

    def flush(self) -> str:
        """The rest, at the end of a generation."""
        text = self._take(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return text + held

    def _take(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        n_held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]


def _overlap(text: str, stop: str) -> int:
    """Longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
