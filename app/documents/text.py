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

_ROMAN = r"[IVXLCDM]{1,9}"
_WORDS = (
    "chapter|book|part|letter|act|scene|volume|adventure|canto|lecture|kapitel|teil|buch|brief|akt|aufzug|chapitre|livre"
    "|partie|lettre|capítulo|capitulo|capitolo|parte|libro|hoofdstuk|глава|часть|книга|rozdział|kapitola|fejezet"
)
_LINES = (  # what a line that stands alone must be to begin a chapter, best evidence first
    re.compile(rf"(?i:{_WORDS})\s+(?:the\s+)?(?:\d{{1,3}}|{_ROMAN}|[A-Z][a-z]+|[A-Z]+)\b.{{0,80}}"
               r"|(?i:the\s+)?(?i:first|second|third|fourth|fifth|last)\s+(?i:act|book|part)"
               r"|第[一二三四五六七八九十百零〇\d]{1,6}[章回節节].{0,40}"
               rf"|(?:{_ROMAN}|\d{{1,3}})\.\s+[^a-z]*[A-Z]{{2}}[^a-z]*"
               r"|(?i:prologue|epilogue|prolog|epilog|prólogo|épilogue)\.?"),  # CHAPTER 3. A Storm; VII. THE STORM
    re.compile(rf"{_ROMAN}\.?"),  # VII.
    re.compile(r"[^a-z\s][^a-z]*[A-Z]{3}[^a-z]*[^a-z.,:;]"),  # THE STORM
)  # fmt: skip
_ONLY_NUMBER = re.compile(r"(?:\w+\s+)?(?:[\dIVXLCDM]+)[.:]?")
_BELOW = re.compile(r"\n(?:[ \t]*\n){1,3}[ \t]*([A-Z](?:[^a-z\n]|\n(?!\n)){3,120}?)[ \t]*\n[ \t]*\n")
_N_LINE, _N_LISTED = 90, 200  # characters: longer lines are text, shorter chapters lines of a table of contents


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
    """Lines that name a chapter and stand alone, levels by how sure that is; [] unless there are two of a kind.

    Those of a table of contents are left out. A line in capitals counts only below two empty lines.
    """
    found: list[list[Heading]] = [[] for _ in _LINES]
    n_empty, start = 2, 0
    lines = text.split("\n")
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        bare = line.strip()
        if bare and n_empty and not below.strip() and len(bare) <= _N_LINE and bare[-1] not in ",;":
            level = next((at for at, pattern in enumerate(_LINES) if pattern.fullmatch(bare)), len(_LINES))
            if level < 2 or (level == 2 and n_empty >= 2 and line[0] == bare[0]):
                found[level].append(Heading(start, level + 1, _title(bare, text, start + len(line)), start + len(line)))
        n_empty = 0 if bare else n_empty + 1
        start += len(line) + 1
    chapters: list[Heading] = []
    for level in found:
        level = without_listed(sorted([*chapters, *level], key=lambda heading: heading.start), len(text))
        chapters = level if len(level) > max(1, len(chapters)) else chapters
    return chapters


def _title(line: str, text: str, end: int) -> str:
    """The line; "CHAPTER I" with the title that stands alone below it, in capitals: "CHAPTER I. LOOMINGS"."""
    below = _BELOW.match(text, end) if _ONLY_NUMBER.fullmatch(line) else None
    return plain_title(f"{line.rstrip('.:')}. {below[1]}" if below else line)


def without_listed(headings: list[Heading], n_text: int) -> list[Heading]:
    """Without those that another of the same or a higher level follows at once, as in a table of contents."""
    kept: list[Heading] = []
    following: dict[int, int] = {}  # level -> where the next one of it begins
    for heading in reversed(headings):
        end = min((place for level, place in following.items() if level <= heading.level), default=n_text)
        if end - heading.end >= _N_LISTED:
            kept.append(heading)
        following[heading.level] = heading.start
    return kept[::-1]


TEXT = Loader(KIND, (".txt", ".text", ".log", ".rst", ".tex", ".csv", ".org"), claims, load, is_safe=True)
"""Safe to read inside the app: no parser, no unpacking. Decoding and a few regular expressions without nested
repetition take time in proportion to the file, and the file's size is limited."""
