"""Books of 300 pages in every format: nothing is lost, nothing comes twice, and chapters are found."""

from __future__ import annotations

import re

import pytest
from golden.documents.writers import docx, epub, paragraph, pdf
from lacache_app.documents import read_document
from unit.document_files import assert_parts_cover

WORDS = re.findall(
    r"\w+", "the keeper of light climbed down slowly while rain fell over seven grey stones and nobody spoke again"
)


def lines_of(chapter: int, n_lines: int) -> list[str]:
    return [
        " ".join(WORDS[(chapter * 7 + line * 3 + at * (line + 1)) % len(WORDS)] for at in range(14)).capitalize()
        for line in range(n_lines)
    ]


CHAPTERS = {number: lines_of(number, 400) for number in range(1, 31)}  # 12,000 lines: 300 pages of 40


def big_pdf() -> bytes:
    lines = [line for chapter in CHAPTERS.values() for line in chapter]
    pages = [["A Long Book", *lines[at : at + 40], str(at // 40 + 1)] for at in range(0, len(lines), 40)]
    return pdf(pages, outline=[(f"Chapter {number}", 10 * (number - 1) + 1) for number in CHAPTERS])


def big_epub() -> bytes:
    files = [
        (f"c{number}.xhtml", f"<h2>Chapter {number}</h2>" + "".join(f"<p>{line}.</p>" for line in lines))
        for number, lines in CHAPTERS.items()
    ]
    contents = [(f"Chapter {number}", f"c{number}.xhtml") for number in CHAPTERS]
    return epub(files, contents, is_packed=True)


def big_docx() -> bytes:
    body = "".join(
        paragraph(f"Chapter {number}", "heading1") + "".join(map(paragraph, lines))
        for number, lines in CHAPTERS.items()
    )
    return docx(body, is_packed=True)


def big_html() -> bytes:
    body = "".join(f"<h2>Chapter {number}</h2><p>" + "<p>".join(lines) for number, lines in CHAPTERS.items())
    return f"<!doctype html><title>x</title><body>{body}".encode()


@pytest.mark.parametrize(("make", "n_parts"), [(big_pdf, 300), (big_epub, 30), (big_docx, 30), (big_html, 30)])
def test_books_of_300_pages(tmp_path, make, n_parts):
    (tmp_path / "book").write_bytes(make())
    document = read_document(tmp_path / "book")
    assert len(document.parts) == n_parts
    assert_parts_cover(document)
    assert [part.title for part in document.parts if part.title] == [f"Chapter {number}" for number in CHAPTERS]
    read_words = re.findall(r"\w+", document.text.lower())
    written = [word for lines in CHAPTERS.values() for line in lines for word in line.lower().split()]
    assert len(written) == 12_000 * 14 <= len(read_words) <= len(written) + 100, "nothing lost, nothing twice"
    first = CHAPTERS[17][0]
    label = document.label_at(document.text.index(first))
    assert label == ("p. 161" if make is big_pdf else "ch. 17")
