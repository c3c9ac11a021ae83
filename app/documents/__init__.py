"""Documents: any file a person has -> its text, with the pages or chapters to cite it by. Knows no models, no Gradio.

    document = read_document("book.epub")
    document.text[:80], document.kind, document.label_at(200_000)     # "ch. 12"

One file a format, listed in `loaders.py`. Files with a parser are read in a child process within `Limits`.
"""

from __future__ import annotations

from lacache_app.documents.document import Document, Part, join
from lacache_app.documents.encodings import decode
from lacache_app.documents.limits import DocumentError, Limits
from lacache_app.documents.loaders import LOADERS
from lacache_app.documents.reader import read_document

SUFFIXES = [suffix for loader in LOADERS for suffix in loader.suffixes]
"""File endings for a file dialog or a drop zone. What a file is, is decided by its content."""

__all__ = ["LOADERS", "SUFFIXES", "Document", "DocumentError", "Limits", "Part", "decode", "join", "read_document"]
