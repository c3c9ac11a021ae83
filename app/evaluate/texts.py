"""Texts to measure on: files of any format that `lacache summarize` reads, or prose that comes with every Python.

What it does not know: engines beyond `tokenize` and `bos_tokens`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lacache_gguf.errors import UsageError

if TYPE_CHECKING:
    from lacache_gguf.engine import Engine

PYDOC = "pydoc"
"""The Python language reference (`pydoc_data.topics`)."""
_CHARS_PER_TOKEN = 16  # more than any vocabulary gets out of prose; a text is cut there before it is tokenized


@dataclass(frozen=True)
class Text:
    """A text with the name that tables show. `identity` tells whether a stored result is of the same one."""

    name: str
    text: str

    @property
    def identity(self) -> dict[str, Any]:
        """Name and SHA-256."""
        return {"name": self.name, "sha256": hashlib.sha256(self.text.encode("utf-8", "replace")).hexdigest()}


def load_texts(names: Sequence[str]) -> list[Text]:
    """`pydoc` or files; none = pydoc. Raises UsageError and DocumentError for what cannot be read."""
    texts = [load_text(name) for name in names or (PYDOC,)]
    seen: dict[str, int] = {}
    for text in texts:
        seen[text.name] = seen.get(text.name, 0) + 1
    if twice := [name for name, n in seen.items() if n > 1]:
        raise UsageError(f"two texts are called {twice[0]!r}; rename one file, for results are stored by name")
    return texts


def load_text(name: str) -> Text:
    """One of them."""
    from lacache_app.documents import read_document

    if name == PYDOC and not Path(name).exists():
        from lacache_app.commands.demo import python_reference

        return Text(PYDOC, python_reference())
    document = read_document(name)
    return Text(Path(document.name).name, document.text)


def tokens_of(engine: Engine, text: Text, n_tokens: int, n_skip: int = 0) -> np.ndarray:
    """int32 [n]: the BOS where the model wants one, then the tokens of the text from number `n_skip` on; at most
    `n_tokens` + 1, so that n_tokens are predicted. Raises UsageError if there are fewer than 2.
    """
    n_needed = n_tokens + 1 + n_skip
    part = text.text[: _CHARS_PER_TOKEN * n_needed]
    tokens = engine.tokenize(part)
    if len(tokens) < n_needed and len(part) < len(text.text):
        tokens = engine.tokenize(text.text)
    tokens = [*engine.bos_tokens(), *tokens[n_skip:]][: n_tokens + 1]
    if len(tokens) < 2:
        raise UsageError(f"{text.name} has no tokens behind the first {n_skip:,}; skip fewer")
    return np.asarray(tokens, dtype=np.int32)
