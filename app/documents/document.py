"""What a reader hands on: a text, and which stretch of it is which page or chapter.

What it does not know: formats, files, models.

    document.text[part.start : part.end], part.label          # "p. 3", "ch. 2"
    document.label_at(offset)                                 # where a sentence stands
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath


@dataclass(frozen=True)
class Part:
    """A page or a chapter: `label` to cite it by ("p. 3", "ch. 2"), `title` where it has one, and where it stands.

    `start` and `end` are offsets in characters into Document.text. A title marks a beginning: in a PDF it is on the
    page where an entry of the table of contents points, so the pages up to the next title belong to it. What stands
    before the first chapter has neither label nor title.
    """

    label: str
    title: str
    start: int
    end: int


@dataclass(frozen=True)
class Document:
    """A text with its name, its kind ("pdf", "docx", "epub", "html", "markdown", "text") and its parts.

    Parts follow each other without a gap from 0 to len(text), and there is at least one: a plain text without
    headings is one part without a label. `note` is what the reader had to leave out or to assume, "" if nothing.
    """

    name: str
    text: str
    kind: str = "text"
    parts: tuple[Part, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if not self.parts:
            object.__setattr__(self, "parts", (Part("", "", 0, len(self.text)),))

    def part_at(self, offset: int) -> Part:
        """The part in which character `offset` stands; beyond the ends, the first or the last one."""
        return self.parts[max(0, bisect_right([part.start for part in self.parts], offset) - 1)]

    def label_at(self, offset: int) -> str:
        """Its label: "p. 3"."""
        return self.part_at(offset).label


def join(documents: Sequence[Document]) -> Document:
    """Several documents as one: each under its file's name, labels telling the files apart ("a.pdf, p. 3").

    One document is returned as it is. Raises ValueError for none.
    """
    if not documents:
        raise ValueError("no documents to join")
    if len(documents) == 1:
        return documents[0]
    text, parts = "", []
    for document in documents:
        start, shown = len(text), document.name.encode("utf-8", "replace").decode()  # Linux takes any bytes as a name
        text += f"File: {shown}\n\n"
        shift, name = len(text), PurePath(shown).name
        for part in document.parts:
            label = f"{name}, {part.label}" if part.label else name
            parts.append(replace(part, label=label, start=part.start + shift, end=part.end + shift))
        text += document.text + ("" if document is documents[-1] else "\n\n")
        first = len(parts) - len(document.parts)
        parts[first] = replace(parts[first], start=start, title=parts[first].title or name)
        parts[-1] = replace(parts[-1], end=len(text))
    kinds = {document.kind for document in documents}
    return Document(
        ", ".join(document.name for document in documents),
        text,
        kinds.pop() if len(kinds) == 1 else "text",
        tuple(parts),
        "\n".join(document.note for document in documents if document.note),
    )
