"""The registry of formats: what a file is, is decided by its content, in this order, never by its name.

A new format: one file with a Loader in it, its line here, its samples in tests/golden/documents/.
"""

from __future__ import annotations

from lacache_app.documents.archive import is_zip, refuse_archive
from lacache_app.documents.document import Document
from lacache_app.documents.docx import DOCX
from lacache_app.documents.epub import EPUB
from lacache_app.documents.html import HTML
from lacache_app.documents.limits import DocumentError, Limits
from lacache_app.documents.loader import Loader
from lacache_app.documents.markdown import MARKDOWN
from lacache_app.documents.pdf import PDF
from lacache_app.documents.text import TEXT

LOADERS: tuple[Loader, ...] = (
    PDF,
    EPUB,
    DOCX,
    HTML,
    MARKDOWN,
    TEXT,  # takes what is left, or refuses it
)

_N_HERE = 16 << 20  # bytes: what is larger would hold up the app for more than a moment


def loader_for(data: bytes) -> Loader:
    """The first loader that claims the file."""
    return next(loader for loader in LOADERS if loader.claims(data))


def is_safe_here(data: bytes) -> bool:
    """Whether the app's own process may read it: of modest size, no archive, and a loader that says so."""
    return len(data) <= _N_HERE and not is_zip(data) and loader_for(data).is_safe


def load(data: bytes, name: str, limits: Limits) -> Document:
    """Read a file's bytes right here, in this process. Raises DocumentError."""
    if not data.strip():
        raise DocumentError(f"{name} is empty; there is nothing to read")
    loader = loader_for(data)
    if is_zip(data) and loader.is_safe:  # only the readers of text have claimed it
        refuse_archive(data, name, limits)
    document = loader.load(data, name, limits)
    if not document.text.strip():
        raise DocumentError(f"{name} is empty; there is nothing to read")
    return document
