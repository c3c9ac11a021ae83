"""The files that were dropped on the documents tab: what they are, and how long they will take.

What it is: `DroppedFiles`, the events before a summary starts. Nothing of a visitor is kept here.
What it does not know: layout, how a file is read, how a summary is made.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from lacache_app.documents import Document, join, read_document
from lacache_app.memory_flags import N_CTX_DEFAULT
from lacache_app.reach import pages
from lacache_app.settings import load_value
from lacache_app.summarize import Meter, Task
from lacache_app.ui import documents_html as show
from lacache_app.ui.context import Context

from lacache_gguf.errors import LacacheError, UsageError

if TYPE_CHECKING:
    from lacache_app.ui.documents_tab import DocumentsTab

_HOW = {"parts": "part by part", "whole": "as a whole"}
_CHARS_PER_TOKEN = 4.0  # of English, until a document was read with this model
Changes = dict[Any, Any]  # component -> new value


class DroppedFiles:
    """The files of one documents tab."""

    def __init__(self, ctx: Context, own: DocumentsTab) -> None:
        self.ctx, self.own = ctx, own

    @property
    def folder(self) -> Path:
        """Where uploads lie; a day after that they are deleted."""
        return Path(os.environ.get("GRADIO_TEMP_DIR") or self.ctx.data_dir / "uploads")

    def recognise(self, files: list[str] | None) -> Changes:
        """Files were dropped or taken away: read them, say what they are."""
        own = self.own
        if not files:
            return {own.found: show.EMPTY, own.document: None, own.start: gr.Button(interactive=False)}
        documents, errors = self._read(files)
        if not documents:
            text = "".join(show.alert(error) for error in errors)
            return {own.found: text, own.document: None, own.start: gr.Button(interactive=False)}
        document = join(documents)
        names = [show.describe(each) for each in documents]
        found = show.recognised(document, names, errors, self._outlook(document))
        return {own.found: found, own.document: document, own.start: gr.Button(interactive=True)}

    def _read(self, files: list[str]) -> tuple[list[Document], list[str]]:
        documents, errors = [], []
        for path in files:
            try:
                documents.append(read_document(self.uploaded(path), name=Path(path).name))
            except LacacheError as error:
                errors.append(str(error))
            except Exception as error:  # a bug in a reader: this file fails, the app goes on
                errors.append(f"{Path(path).name} cannot be read: {type(error).__name__}: {error}")
        return documents, errors

    def uploaded(self, path: str) -> Path:
        """A file that came through the upload. Raises UsageError for any other file of this machine."""
        real = Path(path).resolve()
        if not real.is_relative_to(self.folder.resolve()):
            raise UsageError(f"{Path(path).name} was not uploaded; upload it first")
        return real

    def _outlook(self, document: Document) -> str:
        """How long the document is for the memory, and how long it will take."""
        pace = load_value(self.ctx.data_dir, "pace", {})
        status = self.ctx.host.status()
        n_tokens = len(document.text) / (pace.get("chars_per_token") or _CHARS_PER_TOKEN)
        words = [f"About {_rounded(n_tokens):,} tokens ({pages(n_tokens)})."]
        settings = self.ctx.host.settings
        n_ctx = status.n_ctx or settings.n_ctx or (N_CTX_DEFAULT if settings.kv_budget is None else 0)
        if n_ctx and n_tokens <= 0.9 * n_ctx:
            words.append("It fits into the memory: every word stays sharp.")
        elif n_ctx:
            words.append(
                f"That is {n_tokens / n_ctx:,.1f} times the memory: read as a whole, the newest part stays sharp and "
                "the rest is thinned; part by part, every part is read sharp."
            )
        if not (n_ctx and pace.get("tokens_per_s") and pace.get("write_s")):
            return " ".join([*words, "How long it takes will be known after a few seconds of reading."])
        speeds = n_ctx, pace["tokens_per_s"], pace["write_s"]
        seconds = {how: Meter.expected_s(n_tokens, Task(mode), *speeds) for mode, how in _HOW.items()}
        times = [f"{show.duration(value)} {how}" for how, value in seconds.items()]
        return " ".join([*words, f"It takes about {' or '.join(times)}, at the speed of the last one."])


def _rounded(n: float) -> int:
    """To two digits: an estimate says no more."""
    n = round(n)
    digits = max(0, len(str(n)) - 2)
    return round(n, -digits)
