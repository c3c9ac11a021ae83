"""Markdown, kept as it is: models read it well. Chapters come from its headings."""

from __future__ import annotations

import re

from lacache_app.documents.document import Document
from lacache_app.documents.encodings import clean, decode
from lacache_app.documents.headings import markdown_headings, parts_by_headings
from lacache_app.documents.limits import Limits, check_length
from lacache_app.documents.loader import Loader
from lacache_app.documents.refusals import refuse_binary

KIND = "markdown"

_N_LOOK = 1 << 16
_HEADING = rb"#{1,6} [^\n]*\S"
# A heading with air around it. A comment in a script has code below it.
_SIGN = re.compile(
    rb"(?:\A(?:\xef\xbb\xbf)?|\n[ \t]*\n)(?:%b(?:\n[ \t]*(?:\n|\Z)|\Z|\n#)|[^\n]{2,80}\n(?:={3,}|-{3,})\n)" % _HEADING
)


def claims(data: bytes) -> bool:
    """Whether there is a heading near the beginning."""
    head = data[:_N_LOOK].replace(b"\r\n", b"\n")
    return not head.startswith(b"#!") and b"\0" not in head and bool(_SIGN.search(head))


def load(data: bytes, name: str, limits: Limits) -> Document:
    """Raises DocumentError for what is no text."""
    refuse_binary(data, name)
    text, note = decode(data, name)
    text = clean(text)
    check_length(len(text), name, limits)
    return Document(name, text, KIND, parts_by_headings(text, markdown_headings(text)), note)


MARKDOWN = Loader(KIND, (".md", ".markdown"), claims, load, is_safe=True)
"""As safe as plain text, see text.py: one pass over the lines."""
