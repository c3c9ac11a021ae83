"""Which summaries to write for a long document, in which order. Pure: a document and token counts in, nodes out.

Small neighbouring parts (pages, chapters) are read together, large ones are split at paragraphs; the summaries of the
pieces of one part become one; then neighbouring summaries become one until a single one is left:

    pages   1 2 3 | 4 5 | 6 ... 6 |          6 is longer than one reading
    read      a      b     c d e
    merge                    f               of c d e
    root           g                         of a b f

    nodes = plan(document, engine.tokenize, n_read_max=512, n_fan=5)
    nodes[-1]                                  # the root: the final summary
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lacache_app.documents import Document

N_LISTED_MAX = 24  # a longer list of parts is no help any more
_N_TITLE_MAX = 80
_BREAKS = (re.compile(r"\n\s*\n"), re.compile(r"\n"), re.compile(r"(?<=[.!?。！？])\s*"), re.compile(r"\s"))
_NUMBERED = re.compile(r"^(.*?)(pp?\. |ch\. |\(|parts? )(\d+)(?:-(\d+))?(| of \d+|/\d+\))$")
_PLURAL = {"p. ": "pp. ", "part ": "parts "}


@dataclass(frozen=True)
class Node:
    """One summary to write: of characters start .. end if it has no children, else of the children's summaries.

    `n_tokens` are read for it; for a merge that is an estimate. `is_unit`: it stands for whole parts of the document.
    """

    label: str
    title: str
    start: int
    end: int
    n_tokens: int
    children: tuple[int, ...] = ()
    is_unit: bool = False

    @property
    def name(self) -> str:
        """Label and title as one line; "" where a document has neither."""
        return ": ".join(word for word in (self.label, self.title) if word)


def plan(
    document: Document, tokenize: Callable[[str], Sequence[int]], n_read_max: int, n_fan: int, n_part: int = 100
) -> list[Node]:
    """Nodes in the order in which they are written, children before their parent, the root last.

    n_read_max  most tokens that are read for one summary
    n_fan       most summaries that become one, at least 2
    n_part      tokens that a summary of a part may have, for the estimates
    """
    n_read_max, n_fan = max(1, n_read_max), max(2, n_fan)
    nodes: list[Node] = []

    def merge(children: list[int]) -> int:
        while len(children) > 1:
            n_groups = -(-len(children) // n_fan)
            size = -(-len(children) // n_groups)  # of equal size: no group of one at the end
            groups = [children[i : i + size] for i in range(0, len(children), size)]
            children = [group[0] if len(group) == 1 else add_merge(group) for group in groups]
        return children[0]

    def add_merge(group: list[int]) -> int:
        first, last = nodes[group[0]], nodes[group[-1]]
        label = span_label(first.label, last.label)
        node = Node(label, "", first.start, last.end, len(group) * n_part, tuple(group))
        nodes.append(node)
        return len(nodes) - 1

    units: list[int] = []
    for unit in _units(document, tokenize, n_read_max):
        pieces = _split(document.text, unit.start, unit.end, tokenize, n_read_max)
        n_before = len(nodes)
        for number, (start, end, n_tokens) in enumerate(pieces, 1):
            label = unit.label
            if len(pieces) > 1:
                label = span_label(document.label_at(start), document.label_at(end - 1))
                if label == unit.label:
                    label = f"{label} ({number}/{len(pieces)})" if label else f"part {number} of {len(pieces)}"
            nodes.append(replace(unit, label=label, start=start, end=end, n_tokens=n_tokens))
        top = merge(list(range(n_before, len(nodes))))
        nodes[top] = replace(nodes[top], label=unit.label, title=unit.title, is_unit=True)
        units.append(top)
    merge(units)
    return nodes


def listed(nodes: Sequence[Node]) -> list[int]:
    """The nodes whose summaries are shown below the final one: whole parts if there are few, else groups of them."""
    n_units = sum(node.is_unit for node in nodes)
    shown, root = [len(nodes) - 1], len(nodes) - 1
    while True:
        finer = [
            child
            for i in shown
            for child in (nodes[i].children if not nodes[i].is_unit or (i == root and n_units == 1) else (i,)) or (i,)
        ]
        if finer == shown or len(finer) > N_LISTED_MAX:
            return [] if shown == [root] else shown
        shown = finer


def span_label(first: str, last: str) -> str:
    """One label for everything from one to the other: "p. 3", "p. 7" -> "pp. 3-7"."""
    if first == last or not last:
        return first
    if not first:
        return last
    a, b = _NUMBERED.match(first), _NUMBERED.match(last)
    if a and b and (a[1], _singular(a[2]), a[5]) == (b[1], _singular(b[2]), b[5]):
        return f"{a[1]}{_PLURAL.get(_singular(a[2]), a[2])}{a[3]}-{b[4] or b[3]}{a[5]}"
    return f"{first} - {last}"


def _singular(word: str) -> str:
    return next((one for one, many in _PLURAL.items() if word == many), word)


def _units(document: Document, tokenize: Callable[[str], Sequence[int]], n_read_max: int) -> list[Node]:
    """Chapters in order: small neighbours together, as long as they are read at once; a longer one is alone."""
    units: list[Node] = []
    for node in _chapters(document, tokenize):
        if units and units[-1].n_tokens + node.n_tokens <= n_read_max:
            last = units[-1]
            label, n_tokens = span_label(last.label, node.label), last.n_tokens + node.n_tokens
            units[-1] = Node(label, _join_titles(last.title, node.title), last.start, node.end, n_tokens)
        else:
            units.append(node)
    return units or [Node("", "", 0, len(document.text), len(tokenize(document.text)))]


def _chapters(document: Document, tokenize: Callable[[str], Sequence[int]]) -> Iterator[Node]:
    """Parts that are not empty; pages up to the next title belong to the page with the title before them."""
    open_: Node | None = None
    for part in document.parts:
        text = document.text[part.start : part.end]
        if not text.strip():
            continue
        n_tokens = len(tokenize(text))
        if open_ and open_.title and not part.title and _is_next_page(open_.label, part.label):
            label = span_label(open_.label, part.label)
            open_ = replace(open_, label=label, end=part.end, n_tokens=open_.n_tokens + n_tokens)
            continue
        if open_:
            yield open_
        open_ = Node(part.label, part.title, part.start, part.end, n_tokens)
    if open_:
        yield open_


def _is_next_page(label: str, following: str) -> bool:
    a, b = _NUMBERED.match(label), _NUMBERED.match(following)
    return bool(a and b and a[1] == b[1] and _singular(a[2]) == _singular(b[2]) == "p. ")


def _join_titles(first: str, second: str) -> str:
    """Both titles, as long as they fit on a line."""
    if not second or first == second or first.endswith("..."):
        return first
    both = f"{first}; {second}" if first else second
    return both if len(both) <= _N_TITLE_MAX else f"{first} ..."


def _split(
    text: str, start: int, end: int, tokenize: Callable[[str], Sequence[int]], n_max: int
) -> list[tuple[int, int, int]]:
    """Stretches (start, end, tokens) of at most n_max tokens and about the same size, cut where a reader would."""
    n_tokens = len(tokenize(text[start:end]))
    if n_tokens <= n_max or end - start < 2:
        return [(start, end, n_tokens)]
    n_pieces = -(-n_tokens // n_max)
    cuts, reach = [start], max(1, (end - start) // n_pieces // 4)
    for i in range(1, n_pieces):
        cut = _cut(text, start + i * (end - start) // n_pieces, reach)
        if cuts[-1] < cut < end:
            cuts.append(cut)
    if len(cuts) == 1:
        cuts.append((start + end) // 2)
    return [piece for a, b in zip(cuts, [*cuts[1:], end], strict=True) for piece in _split(text, a, b, tokenize, n_max)]


def _cut(text: str, at: int, reach: int) -> int:
    """The best place to cut within `reach` characters of `at`: between paragraphs, lines, sentences or words."""
    first, window = max(0, at - reach), text[max(0, at - reach) : at + reach]
    for pattern in _BREAKS:
        ends = [first + match.end() for match in pattern.finditer(window)]
        if ends:
            return min(ends, key=lambda end: abs(end - at))
    return at
