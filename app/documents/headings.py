"""Headings in Markdown, and the chapters they make. Knows text only.

DOCX, EPUB and HTML become Markdown first, so this is where their chapters come from as well.

    parts_by_headings("# One\\n\\na\\n\\n# Two\\n\\nb", markdown_headings)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lacache_app.documents.document import Part

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]+(\S.*)")
_UNDERLINE = re.compile(r" {0,3}(=+|-{3,})[ \t]*$")
_LIST_OR_TABLE = re.compile(r"\s*([-*+>|]|\d+[.)])(\s|$)|.*\|")
_N_CHAPTERS = 3  # a level of headings that has fewer is the title's, and the next one makes the chapters
_N_TITLE = 120
_N_TITLE_SOURCE = 2000  # characters of a heading's line that are looked at


@dataclass(frozen=True)
class Heading:
    """Where a heading begins (characters), how deep it is (1 = top), what it says, and where its line ends."""

    start: int
    level: int
    title: str
    end: int


def markdown_headings(text: str) -> list[Heading]:
    """All headings of a Markdown text, "# so" and underlined ones, not those inside fenced code."""
    found: list[Heading] = []
    fence, start = "", 0
    before, before_start, before_is_first = "", 0, True  # the line above, and whether a paragraph begins with it
    for line in text.splitlines(keepends=True):
        opening = _FENCE.match(line)
        if fence:
            if opening and opening[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
            before = ""
        elif opening:
            fence, before = opening[1], ""
        elif atx := _ATX.match(line):
            found.append(Heading(start, len(atx[1]), plain_title(atx[2]), start + len(line)))
            before = ""
        elif before and before_is_first and (under := _UNDERLINE.match(line)) and not _LIST_OR_TABLE.match(before):
            level = 1 if under[1][0] == "=" else 2
            found.append(Heading(before_start, level, plain_title(before), start + len(line)))
            before = ""
        else:
            before_is_first = not before
            before, before_start = line.strip(), start
        start += len(line)
    return [heading for heading in found if heading.title]


def plain_title(markdown: str) -> str:
    """A heading's text without its markup, on one line, at most 120 characters."""
    text = markdown[:_N_TITLE_SOURCE]  # the expressions below may take the square of a line's length
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)  # links, pictures
    text = re.sub(r"<[^>]*>|\{#[^}]*\}|[ \t]#+[ \t]*$", "", text)
    text = " ".join(re.sub(r"[*`]|\\(?=[\W_])|(?<!\w)_+|_+(?!\w)", "", text).split())
    return text if len(text) <= _N_TITLE else text[: _N_TITLE - 1].rstrip() + "…"


def parts_by_headings(text: str, headings: Iterable[Heading], is_listed: bool = False) -> tuple[Part, ...]:
    """One part for each chapter; what stands before the first heading is a part without label.

    Chapters are what the highest level with at least three headings (it and those above it) makes. A heading that
    follows another one with nothing between belongs to the same chapter: "CHAPTER I" and "Down the Rabbit-Hole" are
    one title. `is_listed`: the headings are entries of a table of contents, where the second of two such replaces
    the first (a cover) unless it is deeper.
    """
    headings = list(headings)
    levels = sorted({heading.level for heading in headings})
    counts = {level: sum(heading.level <= level for heading in headings) for level in levels}
    level = next((level for level in levels if counts[level] >= _N_CHAPTERS), levels[-1] if levels else 0)
    chapters: list[Heading] = []
    for heading in headings:
        if heading.level > level:
            continue
        above = chapters[-1] if chapters else None
        if above and not text[above.end : heading.start].strip():
            names_all = len(chapters) == 1 and above.level < heading.level and counts[levels[0]] == 1
            replaces = is_listed and above.level >= heading.level
            title = heading.title if names_all or replaces else _both(above.title, heading.title)
            chapters[-1] = Heading(above.start, heading.level, title, heading.end)
        else:
            chapters.append(heading)
    if not chapters:
        return (Part("", "", 0, len(text)),)
    starts = [chapter.start for chapter in chapters]
    parts = []
    if text[: starts[0]].strip():
        parts.append(Part("", "", 0, starts[0]))
    else:
        starts[0] = 0
    for number, (chapter, start, end) in enumerate(zip(chapters, starts, [*starts[1:], len(text)], strict=True), 1):
        parts.append(Part(f"ch. {number}", chapter.title, start, end))
    return tuple(parts)


def _both(title: str, below: str) -> str:
    return plain_title(f"{title.rstrip('.:')}. {below}")
