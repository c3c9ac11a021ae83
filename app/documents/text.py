"""Plain text, in any usual encoding, with its chapters where it has lines like "Chapter 3". The last loader: what no
other one claims is text, or it is refused.

What is binary is refused by its name (`refusals.py`).
"""

from __future__ import annotations

import re

from lacache_app.documents.document import Document
from lacache_app.documents.encodings import clean, decode
from lacache_app.documents.headings import Heading, parts_by_headings, plain_title
from lacache_app.documents.limits import Limits, check_length
from lacache_app.documents.loader import Loader
from lacache_app.documents.refusals import refuse_binary

KIND = "text"

_NUMBER = r"(?:\d{1,3}|[IVXLCDM]{1,9}|[A-Z][a-z]+(?:[- ][a-z]+)?|[A-Z]+(?:[- ][A-Z]+)?)"
_WORDS = (
    "chapter|book|part|letter|act|scene|volume|kapitel|teil|buch|chapitre|livre|partie|capítulo|capitulo|capitolo|parte"
    "|hoofdstuk|глава|часть|rozdział|kapitola"
)
_CHAPTER = re.compile(
    rf"^[ \t]*((?i:{_WORDS})[ \t]+{_NUMBER}\b[^\n]{{0,80}}"
    r"|第[一二三四五六七八九十百零〇\d]{1,6}[章回節节][^\n]{0,40}"
    r"|(?i:prologue|epilogue|prolog|epilog|prólogo|épilogue)[ \t.]*)$",
    re.MULTILINE,
)
_N_LISTED = 200  # "chapters" shorter than this are lines of a table of contents


def claims(data: bytes) -> bool:
    """Everything that is left."""
    return True


def load(data: bytes, name: str, limits: Limits) -> Document:
    """Raises DocumentError for what is no text."""
    refuse_binary(data, name)
    text, note = decode(data, name)
    text = clean(text)
    check_length(len(text), name, limits)
    return Document(name, text, KIND, parts_by_headings(text, chapter_lines(text)), note)


def chapter_lines(text: str) -> list[Heading]:
    """Lines that name a chapter and stand alone, those of a table of contents left out; none if there is only one."""
    found = []
    for match in _CHAPTER.finditer(text):
        above = text.rfind("\n", 0, max(0, match.start() - 1))
        line_above = text[above + 1 : match.start()].strip() if match.start() else ""
        line = match[1].strip()
        if not line_above and not line.endswith((",", ";")) and not (line[-1:] == "." and len(line) > 60):
            found.append(match)
    ends = [*(match.start() for match in found[1:]), len(text)]
    found = [match for match, end in zip(found, ends, strict=False) if end - match.end() >= _N_LISTED]
    return [Heading(match.start(), 1, plain_title(match[1]), match.end()) for match in found] if len(found) > 1 else []


TEXT = Loader(KIND, (".txt", ".text", ".log", ".rst", ".tex", ".csv", ".org"), claims, load, is_safe=True)
"""Safe to read inside the app: no parser, no unpacking. Decoding and a few regular expressions without nested
repetition take time in proportion to the file, and the file's size is limited."""
