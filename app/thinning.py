"""How much of a conversation the memory still holds, message by message.

What it is: `thinned(engine, messages)` looks where each message lies among the tokens that were fed (`engine.seen`) and
in how many layers each of those tokens still is (`engine.held`). None if nothing of it was thinned.
What it does not know: policies, plans, pages. What it says is counted in the memory, not derived from what should be.

    note = thinned(engine, store.messages(chat))
    note.n_thinned, note.share         # 1,830 tokens are not in every layer any more; 0.61 of everything is left
    note.parts[0]                      # Part(message=3, index=0, n_parts=4, n_tokens=512, share=0.5)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lacache_app.store import Message

    from lacache_gguf.engine import Engine

_N_PART = 500  # tokens: longer messages are told in parts of about this size ...
_N_PARTS = 10  # ... but no more than this many


@dataclass(frozen=True)
class Part:
    """A message, or one of `n_parts` equal parts of it, and which share of its tokens x layers is left, 0 .. 1."""

    message: int
    index: int
    n_parts: int
    n_tokens: int
    share: float


@dataclass(frozen=True)
class Thinned:
    """What the memory still holds of a conversation in which something was thinned."""

    n_tokens: int  # of all messages
    n_thinned: int  # of them, not in every layer any more
    n_gone: int  # of those, in no layer any more
    share: float  # of all tokens x layers that is left
    parts: tuple[Part, ...]  # in order

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "parts": [list(vars(part).values()) for part in self.parts]}

    @classmethod
    def from_dict(cls, values: Any) -> Thinned | None:
        """The inverse; None for anything that `as_dict` did not make."""
        try:
            return cls(**{**values, "parts": tuple(Part(*part) for part in values["parts"])})
        except (TypeError, KeyError):
            return None


def thinned(engine: Engine, messages: Sequence[Message]) -> Thinned | None:
    """What is left of these messages, as far as they were fed; None if the memory holds all of it."""
    seen = np.asarray(engine.seen)
    if not engine.stats.n_compactions or not len(seen):
        return None
    left = layers_left(np.asarray(engine.held), len(seen))
    parts: list[Part] = []
    tokens = []
    for message, span in zip(messages, _spans(engine, seen, [message.content for message in messages]), strict=True):
        if span is None:
            continue
        tokens.append(left[span[0] : span[1]])
        n_parts = min(_N_PARTS, max(1, round(len(tokens[-1]) / _N_PART)))
        for index, piece in enumerate(np.array_split(tokens[-1], n_parts)):
            parts.append(Part(message.id, index, n_parts, len(piece), round(float(piece.mean()), 4)))
    if not tokens:
        return None
    everything = np.concatenate(tokens)
    n_thinned = int((everything < 1).sum())
    if not n_thinned:
        return None
    n_gone = int((everything == 0).sum())
    return Thinned(len(everything), n_thinned, n_gone, round(float(everything.mean()), 4), tuple(parts))


def layers_left(held: np.ndarray, n_seen: int) -> np.ndarray:
    """float64 [n_seen]: the share of layers (or of layers x heads) that still hold each token. held: int32 [n_rows,
    n_cells]."""
    return np.bincount(held.ravel(), minlength=n_seen)[:n_seen] / len(held)


def _spans(engine: Engine, seen: np.ndarray, texts: Iterable[str]) -> list[tuple[int, int] | None]:
    """[first, last) token of each text among `seen`; None for one that is not there. Texts in order.

    They are looked up in the bytes of the tokens, so neither template nor tokenizer has to be run again.
    """
    unique, which = np.unique(seen, return_inverse=True)
    pieces = [engine.piece(int(token)) for token in unique]
    ends = np.cumsum(np.array([len(piece) for piece in pieces], dtype=np.int64)[which])  # [n_seen], in bytes
    blob = b"".join([pieces[i] for i in which])
    found: list[tuple[int, int] | None] = []
    start = 0
    for text in texts:
        wanted = text.strip().encode()  # templates strip
        at = blob.find(wanted, start) if wanted else -1
        if at < 0:
            found.append(None)
            continue
        start = at + len(wanted)
        found.append((int(np.searchsorted(ends, at, "right")), int(np.searchsorted(ends, start, "left")) + 1))
    return found
