"""Word documents (DOCX) through mammoth: headings, lists, tables and notes, not the looks. A DOCX knows no pages.

Pictures are left out, linked ones are never opened; deleted text of tracked changes is left out.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any
from xml.parsers.expat import ExpatError

from lacache_app.documents.archive import names, open_archive, read_entry
from lacache_app.documents.document import Document
from lacache_app.documents.headings import markdown_headings, parts_by_headings
from lacache_app.documents.limits import DocumentError, Limits, check_length
from lacache_app.documents.loader import Loader
from lacache_app.documents.markup import to_markdown
from lacache_app.documents.safe_xml import check_xml, parse_xml

KIND = "docx"

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_TITLE = "p[style-name='Title'] => h1:fresh"


def claims(data: bytes) -> bool:
    """A zip file with Word's parts in it."""
    entries = names(data)
    return "[Content_Types].xml" in entries and any(entry.startswith("word/") for entry in entries)


def load(data: bytes, name: str, limits: Limits) -> Document:
    """Raises DocumentError for a damaged, exploding or empty document."""
    import mammoth

    parts = _checked_parts(data, name, limits)
    has_title = any(b'<w:pStyle w:val="Title"' in part for entry, part in parts.items() if "document" in entry)
    try:
        html = mammoth.convert_to_html(_zip(parts), convert_image=_no_image, style_map=_styles(has_title)).value
    except (ExpatError, LookupError, ValueError, AttributeError, TypeError, OSError) as error:
        raise DocumentError(
            f"{name} is damaged: it cannot be read as a DOCX ({error}); save it again in Word"
        ) from error
    text = to_markdown(html, limits)
    if not text:
        raise DocumentError(f"{name} has no text; if it consists of pictures, run OCR on it first")
    check_length(len(text), name, limits)
    return Document(name, text, KIND, parts_by_headings(text, markdown_headings(text)))


def _checked_parts(data: bytes, name: str, limits: Limits) -> dict[str, bytes]:
    """Entry -> bytes of the XML inside, each looked through; hidden text is taken out."""
    parts = {}
    with open_archive(data, name, limits) as archive:
        for entry in archive.namelist():
            if entry.lower().endswith((".xml", ".rels")):
                part = read_entry(archive, entry, name)
                check_xml(part, entry, name, limits)
                parts[entry] = _without_hidden(part, entry, name, limits) if b":vanish" in part else part
    return parts


def _without_hidden(part: bytes, entry: str, name: str, limits: Limits) -> bytes:
    """Without the runs that Word does not show (w:vanish): a reader has not seen them, so a summary must not."""
    from xml.etree.ElementTree import tostring

    root = parse_xml(part, entry, name, limits)
    for parent in list(root.iter()):
        for run in [child for child in parent if child.tag == f"{_W}r"]:
            vanish = run.find(f"{_W}rPr/{_W}vanish")
            if vanish is not None and vanish.get(f"{_W}val") not in ("0", "false", "off"):
                parent.remove(run)
    return tostring(root, "utf-8", xml_declaration=True)


def _zip(parts: dict[str, bytes]) -> io.BytesIO:
    """A container of these parts alone: mammoth finds nothing else, whatever the document names."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for entry, part in parts.items():
            archive.writestr(zipfile.ZipInfo(entry), part)
    out.seek(0)
    return out


def _styles(has_title: bool) -> str:
    """Headings one level lower where a document has a title, as that is what its chapters are under."""
    lines = [f"p[style-name='heading {level}'] => h{min(6, level + has_title)}:fresh" for level in range(1, 10)]
    return "\n".join([_TITLE, *lines])


def _no_image(image: Any) -> list[Any]:
    return []


DOCX = Loader(KIND, (".docx", ".docm", ".dotx"), claims, load)
