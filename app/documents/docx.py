"""Word documents (DOCX) through mammoth: headings, lists, tables and notes, not the looks. A DOCX knows no pages.

Pictures are left out, linked ones are never opened; deleted text of tracked changes is left out.
"""

from __future__ import annotations

import io
from typing import Any
from xml.parsers.expat import ExpatError

from lacache_app.documents.archive import names, open_archive, read_entry
from lacache_app.documents.document import Document
from lacache_app.documents.headings import markdown_headings, parts_by_headings
from lacache_app.documents.limits import DocumentError, Limits, check_length
from lacache_app.documents.loader import Loader
from lacache_app.documents.markup import to_markdown
from lacache_app.documents.safe_xml import check_xml

KIND = "docx"

_TITLE = "p[style-name='Title'] => h1:fresh"


def claims(data: bytes) -> bool:
    """A zip file with Word's parts in it."""
    entries = names(data)
    return "[Content_Types].xml" in entries and any(entry.startswith("word/") for entry in entries)


def load(data: bytes, name: str, limits: Limits) -> Document:
    """Raises DocumentError for a damaged, exploding or empty document."""
    import defusedxml
    import mammoth

    has_title = False
    with open_archive(data, name, limits) as archive:
        for entry in archive.namelist():
            if entry.endswith((".xml", ".rels")):
                part = read_entry(archive, entry, name)
                check_xml(part, entry, name, limits)
                has_title |= entry.startswith("word/document") and b'<w:pStyle w:val="Title"' in part
    defusedxml.defuse_stdlib()  # for mammoth's own use of minidom; this process reads one document and ends
    try:
        html = mammoth.convert_to_html(io.BytesIO(data), convert_image=_no_image, style_map=_styles(has_title)).value
    except (ExpatError, LookupError, ValueError, AttributeError, TypeError, OSError) as error:
        raise DocumentError(
            f"{name} is damaged: it cannot be read as a DOCX ({error}); save it again in Word"
        ) from error
    text = to_markdown(html, limits)
    if not text:
        raise DocumentError(f"{name} has no text; if it consists of pictures, run OCR on it first")
    check_length(len(text), name, limits)
    return Document(name, text, KIND, parts_by_headings(text, markdown_headings(text)))


def _styles(has_title: bool) -> str:
    """Headings one level lower where a document has a title, as that is what its chapters are under."""
    lines = [f"p[style-name='heading {level}'] => h{min(6, level + has_title)}:fresh" for level in range(1, 10)]
    return "\n".join([_TITLE, *lines])


def _no_image(image: Any) -> list[Any]:
    return []


DOCX = Loader(KIND, (".docx", ".docm", ".dotx"), claims, load)
