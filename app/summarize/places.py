"""Where in the document a statement comes from, by shared words. Pure: text in, places out; knows no model.

Honest and cheap: the model is not asked (a small one would invent page numbers). Every sentence of the summary goes to
the part of the document that shares the most telling words with it (tf-idf: a word counts for more the fewer parts have
it), and to none if too few of its words are found anywhere. It is a hint where to look, no proof.

    for sentence in cite(summary, document.text, document.parts): sentence.label, sentence.text
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from lacache_app.summarize.events import Place

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_CJK = re.compile(r"[぀-ヿ㐀-鿿가-힯]")
_END = re.compile(r"""((?<=[.!?…])["”’')\]]*)\s+(?=["“‘'(\[*_]*[^\W\d_a-zß-öø-ÿ]|["“‘'(\[]*\d)|(?<=[。！？])""")
_NO_END = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Prof|Sr|Jr|vs|etc|No|pp?|ch|vol|e\.g|i\.e|cf|bzw|z\.B)|\b\w)\.$")
_BULLET = re.compile(r"^(\s*(?:[-*+•]|\d+[.)]|#+)\s+)?(.*?)(\s*)$", re.DOTALL)
_BLOCK = re.compile(r"\s*(?:[-*+•]\s|\d+[.)]\s|#+\s|>|\||```|~~~|[-=*_]{3,}|$)")  # begins a block, or blank
_N_SHARED_MIN = 2  # words that must be shared: one may be chance
_COVERED_MIN = 0.3  # share of a sentence's words (by weight) that the part must have


class Stretch(Protocol):
    """A part of a document: what documents.Part and tree.Node have in common."""

    label: str
    title: str
    start: int
    end: int


@dataclass(frozen=True)
class Sentence:
    """A sentence of a summary; `line` and `lead` (bullet or heading mark) say where it stood."""

    text: str
    line: int
    lead: str = ""


def cite(summary: str, text: str, parts: Sequence[Stretch]) -> list[tuple[Sentence, Place | None]]:
    """Every sentence of `summary` with the part of `text` it most likely comes from, or None."""
    rows = list(sentences(unwrapped(summary)))
    parts = [part for part in parts if part.label or part.title]
    wanted = {word for row in rows for word in _words(row.text)}
    found = [Counter(word for word in _words(text[part.start : part.end]) if word in wanted) for part in parts]
    n_parts_with = Counter(word for words in found for word in words)
    weight = {word: math.log(1 + len(parts) / n_parts_with[word]) if n_parts_with[word] else 1.0 for word in wanted}
    return [(row, _place(row, parts, found, weight)) for row in rows]


def _place(
    row: Sentence, parts: Sequence[Stretch], found: list[Counter[str]], weight: dict[str, float]
) -> Place | None:
    words = set(_words(row.text))
    if row.lead.strip().startswith("#") or len(words) < _N_SHARED_MIN:
        return None
    total = sum(weight[word] for word in words)
    best, best_score = None, 0.0
    for part, counts in zip(parts, found, strict=True):
        shared = [word for word in words if word in counts]
        if len(shared) < _N_SHARED_MIN or sum(weight[word] for word in shared) < _COVERED_MIN * total:
            continue
        # a word that occurs often says more, but not in proportion; a long part has more words by chance
        n_words = max(1, part.end - part.start) / 6
        score = sum(weight[word] * counts[word] / (counts[word] + 0.5 + n_words / 1000) for word in shared)
        if score > best_score:
            best, best_score = part, score
    return Place(best.label, best.title, row.text, best.start, best.end) if best else None


def marked(summary: str, placed: Sequence[tuple[Sentence, Place | None]]) -> str:
    """The summary with "[p. 3]" behind its sentences; neighbours with the same place share one mark."""
    result: list[str] = []
    for number, line in enumerate(unwrapped(summary).split("\n")):
        row = [(sentence, place) for sentence, place in placed if sentence.line == number]
        if not row:
            result.append(line)
            continue
        words = [row[0][0].lead]
        for i, (sentence, place) in enumerate(row):
            following = row[i + 1][1] if i + 1 < len(row) else None
            is_last = place is not None and (following is None or _label(following) != _label(place))
            words.append(f"{sentence.text} [{_label(place)}] " if is_last and place else f"{sentence.text} ")
        result.append("".join(words).rstrip())
    return "\n".join(result)


def _label(place: Place) -> str:
    return place.label or place.title


def unwrapped(text: str) -> str:
    """Markdown whose paragraphs are one line each: models wrap theirs as the document did. Code stays as it is."""
    lines: list[str] = []
    is_open = is_code = False  # whether the next line may go on with the last one; inside a fence
    for line in text.split("\n"):
        is_fence = line.lstrip().startswith(("```", "~~~"))
        if is_open and not _BLOCK.match(line):
            lines[-1] = f"{lines[-1].rstrip()} {line.strip()}"
        else:
            lines.append(line)
        is_code ^= is_fence
        is_alone = is_code or is_fence or not line.strip(" -=*_") or line.lstrip().startswith(("#", "|"))
        is_open = not is_alone and not line.endswith("  ")
    return "\n".join(lines)


def sentences(summary: str) -> Iterator[Sentence]:
    """Sentences in order; a bullet, a heading and a blank line end one too."""
    for number, line in enumerate(summary.split("\n")):
        lead, body, _ = _BULLET.match(line).groups()  # type: ignore[union-attr]
        text = ""
        for piece in _pieces(body):
            text = f"{text} {piece}".strip() if text else piece.strip()
            if text and not _NO_END.search(text):
                yield Sentence(text, number, lead or "")
                text = ""
        if text:
            yield Sentence(text, number, lead or "")


def _pieces(body: str) -> Iterator[str]:
    """A line cut behind what may be ends of sentences, closing quotes kept with them."""
    start = 0
    for match in _END.finditer(body):
        end = match.end(1) if match[1] is not None else match.end()
        yield body[start:end]
        start = match.end()
    yield body[start:]


def _words(text: str) -> Iterator[str]:
    """Words in small letters, none of one or two letters; pairs of characters in scripts without spaces."""
    for match in _WORD.finditer(text):
        word = match[0].casefold()
        if _CJK.search(word):
            yield from (word[i : i + 2] for i in range(max(1, len(word) - 1)))
        elif len(word) > 2 or word.isdigit():
            yield word.removesuffix("'s").removesuffix("’s")
