"""Saved web pages and other HTML: what a reader sees of it, as Markdown. Nothing is fetched and no script runs."""

from __future__ import annotations

import re

from lacache_app.documents.document import Document
from lacache_app.documents.encodings import decode
from lacache_app.documents.headings import markdown_headings, parts_by_headings
from lacache_app.documents.limits import DocumentError, Limits, check_length
from lacache_app.documents.loader import Loader
from lacache_app.documents.markup import to_markdown
from lacache_app.documents.refusals import refuse_binary

KIND = "html"

_N_LOOK = 1 << 12
_BEFORE = re.compile(rb"\s+|\xef\xbb\xbf|<!--.*?-->|<\?xml[^>]*\?>", re.DOTALL)  # one piece of what may stand first
_PAGE = re.compile(rb"<!doctype\s+html|<html[\s>]|<head[\s>]|<body[\s>]", re.IGNORECASE)
_FRAGMENT = re.compile(rb"\s*<(?:p|div|h[1-6]|table|ul|ol|article|section|main|title|meta|center)[\s>]", re.IGNORECASE)
_CHARSET = re.compile(
    rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{2,40})|<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([\w.:-]{2,40})",
    re.IGNORECASE,
)


def claims(data: bytes) -> bool:
    """A page by its beginning, or a fragment: a tag first, a closing tag last, and no Markdown heading."""
    head = data[:_N_LOOK]
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        head = head.replace(b"\0", b"")[2:]
    start = 0
    while piece := _BEFORE.match(head, start):  # a loop: one expression for all would try every way to divide them
        start = piece.end()
    if _PAGE.match(head, start):
        return True
    return bool(_FRAGMENT.match(head)) and data.rstrip()[-1:] == b">" and b"\n# " not in head and b"```" not in head


def load(data: bytes, name: str, limits: Limits) -> Document:
    """Raises DocumentError for a page that shows no text."""
    refuse_binary(data, name)
    html, note = decode_html(data, name)
    text = to_markdown(html, limits, is_xml=html.lstrip("\ufeff \n\t\r").startswith("<?xml"))
    if not text:
        raise DocumentError(f"{name} shows no text: it may need scripts to show any; save the page as PDF or text")
    check_length(len(text), name, limits)
    return Document(name, text, KIND, parts_by_headings(text, markdown_headings(text)), note)


def decode_html(data: bytes, name: str) -> tuple[str, str]:
    """As encodings.decode, with the encoding that a page names in its head."""
    match = _CHARSET.search(data[:_N_LOOK])
    declared = (match[1] or match[2]).decode("ascii", "ignore") if match else ""
    # What says Latin-1 is Windows-1252, as in every browser.
    return decode(data, name, "cp1252" if declared.lower() in ("iso-8859-1", "latin1", "us-ascii") else declared)


HTML = Loader(KIND, (".html", ".htm", ".xhtml"), claims, load)
