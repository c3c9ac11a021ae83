"""Lines of printed pages -> paragraphs: words that a line end cut in two, running heads, page numbers. Knows no PDF.

    page_texts(["A word is hyphen-\\r\\nated.\\r\\n12", ...])      # ["A word is hyphenated.", ...]

All of it is cautious: what is not clearly a running head, a page number or a cut word stays as it is.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

_N_EDGE = 2  # lines at the top and at the bottom of a page that may be running heads
_N_HEAD = 80  # characters: longer lines are text
_N_PAGES = 4  # fewer pages show no pattern
_N_NUMBERS = 3  # pages that count up are numbered
_SHARE = 0.3  # of the pages: a head of every second page, with chapters in between
_BARE_NUMBER = re.compile(
    r"[\W_]*(?:(?:page|p\.|seite|s\.|página|pagina)\s*)?(\d{1,5})(?:\s*(?:of|/|von|de|sur)\s*\d{1,5})?[\W_]*$|((?-i:[ivxlc]{1,8}))$",
    re.IGNORECASE,
)
_EDGE_NUMBER = re.compile(r"^(\d{1,5})\s+\D|\D\s+(\d{1,5})$")
_NUMBERED = re.compile(r"\s*(chapter|section|part|book|kapitel|teil|chapitre|lesson|exercise|slide)\b", re.I)
_HYPHENS = "-\u00ad\u2010"
_MARKED = re.compile("[\x02\ufffe]")  # PDFium's sign for a hyphen and the line end behind it
_COMPOUND = re.compile(r"\b\w+-\w+\b")
_ITEM = re.compile(r"(?:[-–—•▪◦*·]|\(?\d{1,3}[.)]|\(?[a-z][.)]|\d{1,2}(?:\.\d{1,2})+\.?)\s|\d{1,2} [A-Z]")
_LEADERS = re.compile(r"\s*(?:\. ?){4,}\s*|\s*…{2,}\s*")
_ENDS = re.compile(r"[.!?:;…][\"'”’»)\]]*$")
_FULL, _LAST = 0.72, 0.9  # a line shorter than this part of a full one ends its paragraph; ... if it ends a sentence
_N_COLUMN = 25  # characters: shorter full lines are no running text


def page_texts(pages: list[str]) -> list[str]:
    """The pages with running heads dropped and lines joined to paragraphs, a newline after each."""
    lines = [
        [" ".join(_LEADERS.sub(" ... ", line).split()) for line in _MARKED.sub("-\n", page).splitlines()]
        for page in pages
    ]
    lines = [[line for line in page if line] for page in lines]
    compounds = frozenset(word for page in lines for line in page for word in _COMPOUND.findall(line))
    return [paragraphs(page, compounds) for page in without_running_heads(lines)]


def without_running_heads(pages: list[list[str]]) -> list[list[str]]:
    """Pages without page numbers, and without the heads and feet that repeat; a head stays where it stands first.

    Looked for from the edge inwards, up to the first line that is neither.
    """
    if sum(map(bool, pages)) < _N_PAGES:
        return pages
    n_seen: Counter[tuple[int, str]] = Counter()
    n_shifted: Counter[tuple[int, int]] = Counter()  # how often the number at a place is the page's index + this
    for at, page in enumerate(pages):
        for place in _edge_places(page):
            n_seen[place, _without_number(page[place])] += 1
            number = _page_number(page[place])
            if number is not None:
                n_shifted[place, number - at] += 1
    n_needed = max(3, _SHARE * len(pages))
    kept: list[list[str]] = []
    shown: set[str] = set()
    for at, page in enumerate(pages):
        drop = set()
        for side in (1, -1):
            for place in [place for place in _edge_places(page) if (place < 0) == (side < 0)]:
                line, number = page[place], _page_number(page[place])
                is_bare = bool(_BARE_NUMBER.match(line))
                n_least = _N_NUMBERS if is_bare else n_needed  # the front matter counts by itself
                counts_up = number is not None and n_shifted[place, number - at] >= n_least
                repeats = n_seen[place, _without_number(line)] >= n_needed and len(line) <= _N_HEAD
                if not (counts_up or (repeats and number is None)):
                    break
                if is_bare or _without_number(line) in shown:
                    drop.add(place % len(page))
                elif not repeats:
                    break
                shown.add(_without_number(line))
        kept.append([line for place, line in enumerate(page) if place not in drop])
    return kept


def paragraphs(lines: list[str], compounds: frozenset[str] = frozenset()) -> str:
    """Lines joined where a paragraph clearly goes on. A short line, a list item or a table row stays by itself.

    `compounds`: words that are written with a hyphen elsewhere, "well-known", and keep it at a line end.
    """
    if not lines:
        return ""
    full = sorted(map(len, lines))[int(0.8 * (len(lines) - 1))]
    joined = [lines[0]]
    for above, line in pairwise(lines):
        n_least = full * (_LAST if _ENDS.search(above) else _FULL)
        if above[-1] in _HYPHENS and above[-2:-1].isalpha() and line[0].isalpha():
            joined[-1] = _rejoin(joined[-1], line, compounds)
        elif full >= _N_COLUMN and len(above) >= n_least and not _ITEM.match(line):
            joined[-1] += " " + line
        else:
            joined.append(line)
    return "\n".join(joined)


def _rejoin(above: str, line: str, compounds: frozenset[str]) -> str:
    """A word cut at a line end: the hyphen goes, unless it belongs to the word ("Anglo-" + "Saxon")."""
    stem = above[:-1]
    word = stem.rsplit(" ", 1)[-1].lstrip("(\"'“„‘") + "-" + re.match(r"\w+", line)[0]
    keeps = above[-1] != "\u00ad" and (line[0].isupper() or word.count("-") > 1 or word in compounds)
    return stem + ("-" if keeps else "") + line


def _edge_places(page: list[str]) -> list[int]:
    """Indices of the lines that may be heads, from above inwards, and feet, from below inwards (negative)."""
    n_edge = min(_N_EDGE, len(page) // 2)
    return [*range(n_edge), *range(-1, -n_edge - 1, -1)]


def _page_number(line: str) -> int | None:
    bare = _BARE_NUMBER.match(line)
    if bare:
        return _roman(bare[2]) if bare[2] else int(bare[1])
    edge = None if _NUMBERED.match(line) else _EDGE_NUMBER.search(line)
    return int(edge[1] or edge[2]) if edge else None


def _roman(number: str) -> int:
    values = [{"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}[letter] for letter in number]
    return sum(-value if value < after else value for value, after in zip(values, [*values[1:], 0], strict=True))


def _without_number(line: str) -> str:
    if _NUMBERED.match(line):
        return line
    return re.sub(r"^\d{1,5}\s+(?=\D)|(?<=\D)\s+\d{1,5}$|^\d{1,5}$", "", line)
