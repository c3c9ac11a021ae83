"""PDF through PDFium: the text of every page, repaired into paragraphs, with its page number to cite it by.

What it does not do: recognize scanned pages (it says which they are), tell columns or tables apart.
"""

from __future__ import annotations

import re
from typing import Any

from lacache_app.documents.document import Document, Part
from lacache_app.documents.encodings import clean
from lacache_app.documents.headings import plain_title
from lacache_app.documents.limits import DocumentError, Limits, check_length
from lacache_app.documents.loader import Loader
from lacache_app.documents.page_text import page_texts

KIND = "pdf"

_N_BOOKMARKS = 10_000
_OCR = "run OCR on it first, for example: ocrmypdf {0} readable.pdf"
_ERR_PASSWORD, _ERR_SECURITY = 4, 5


def claims(data: bytes) -> bool:
    """The mark of a PDF within the first 1,024 bytes, as readers accept it; a text that only speaks of it is none."""
    at = data.find(b"%PDF-", 0, 1024)
    return at == 0 or (at > 0 and (b"\0" in data[:4096] or b"startxref" in data[-2048:]))


def load(data: bytes, name: str, limits: Limits) -> Document:
    """Raises DocumentError: encrypted, damaged, too many pages, or scanned without a text layer."""
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise _refusal(error, name) from error
    n_pages = len(pdf)
    if n_pages > limits.pages:
        raise DocumentError(f"{name} has {n_pages:,} pages, more than {limits.pages:,}; split it into several files")
    if not n_pages:
        raise DocumentError(f"{name} has no pages: it is damaged; try to repair it: qpdf {name} repaired.pdf")
    raw, without_text, broken, n_characters = [], [], [], 0
    for number in range(1, n_pages + 1):
        try:
            page = pdf[number - 1]
            text = page.get_textpage().get_text_bounded()
        except (pypdfium2.PdfiumError, ValueError):
            broken.append(number)
            raw.append("")
            continue
        n_characters += len(text)
        check_length(n_characters, name, limits)
        if not text.strip() and _shows_something(page):
            without_text.append(number)
        raw.append(text)
        page.close()
    if len(broken) == n_pages:
        raise DocumentError(f"{name} is damaged: none of its {n_pages:,} pages can be read; {_repair(name)}")
    if not any(text.strip() for text in raw):
        raise DocumentError(_no_text(name, n_pages, len(without_text)))
    text, parts = _join([clean(text) for text in page_texts(raw)], _titles(pdf, n_pages))
    notes = []
    if without_text:
        notes.append(
            f"{name}: {_listed(without_text)} left out, as {'they have' if len(without_text) > 1 else 'it has'} "
            f"no text layer (scanned?); {_OCR.format(name)}"
        )
    if broken:
        notes.append(f"{name}: {_listed(broken)} left out, as the file is damaged there")
    if _is_gibberish(text):
        notes.append(f"{name}: its fonts do not say which letters they show, so much of the text may be wrong")
    return Document(name, text, KIND, tuple(parts), "\n".join(notes))


def _join(pages: list[str], titles: dict[int, str]) -> tuple[str, list[Part]]:
    """All pages as one text, a blank line between them, except where a sentence runs on. Empty pages have no length."""
    pieces, parts, start = [], [], 0
    last = max(number for number, page in enumerate(pages, 1) if page)
    for number, (page, follower) in enumerate(zip(pages, [*pages[1:], ""], strict=True), 1):
        runs_on = page and page[-1] not in '.!?:"”»)' and follower[:1].islower()
        text = page if not page or number == last else page + ("\n" if runs_on else "\n\n")
        pieces.append(text)
        parts.append(Part(f"p. {number}", titles.get(number, ""), start, start + len(text)))
        start += len(text)
    return "".join(pieces), parts


def _titles(pdf: Any, n_pages: int) -> dict[int, str]:
    """Page number -> the first entry of the table of contents that points there; {} if that is damaged."""
    titles: dict[int, str] = {}
    try:
        for count, bookmark in enumerate(pdf.get_toc(max_depth=4)):
            destination = bookmark.get_dest()
            index = destination.get_index() if destination else None
            if index is not None and 0 <= index < n_pages:
                titles.setdefault(index + 1, plain_title(clean(bookmark.get_title())))
            if count >= _N_BOOKMARKS:
                break
    except (RuntimeError, ValueError):
        return {}
    return titles


def _shows_something(page: Any) -> bool:
    """Whether a page without text shows anything at all; an empty page is no scan."""
    return next(iter(page.get_objects(max_depth=2)), None) is not None


def _no_text(name: str, n_pages: int, n_scanned: int) -> str:
    if not n_scanned:
        pages = "its only page" if n_pages == 1 else f"its {n_pages:,} pages"
        return f"{name} shows nothing on {pages}: it is empty or damaged; {_repair(name)}"
    which = "its only page has" if n_pages == 1 else f"all {n_pages:,} pages have"
    if n_scanned < n_pages:
        which = f"{n_scanned:,} of {n_pages:,} pages are pictures and the others are empty, so they have"
    return f"{name} looks scanned: {which} no text layer, only pictures; {_OCR.format(name)}"


def _refusal(error: Any, name: str) -> DocumentError:
    if error.err_code == _ERR_PASSWORD:
        return DocumentError(
            f"{name} is encrypted: it opens only with a password; save it without one, for example: "
            f"qpdf --password=... --decrypt {name} open.pdf"
        )
    if error.err_code == _ERR_SECURITY:
        return DocumentError(f"{name} is encrypted in a way that is not supported here; save it without protection")
    return DocumentError(f"{name} is damaged: it begins like a PDF but cannot be opened as one; {_repair(name)}")


def _repair(name: str) -> str:
    return f"get it again, or try to repair it: qpdf {name} repaired.pdf"


def _listed(numbers: list[int]) -> str:
    """ "p. 3, 5-9" of [3, 5, 6, 7, 8, 9], cut after ten ranges."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ranges[:10])
    return f"{len(numbers):,} page{'s' * (len(numbers) > 1)} (p. {shown}{', ...' if len(ranges) > 10 else ''})"


def _is_gibberish(text: str) -> bool:
    """Whether a fifth of the letters are from the private area of Unicode or stand for unknown ones."""
    return len(re.findall("[\ue000-\uf8ff\ufffd]", text)) * 5 > len(text)


PDF = Loader(KIND, (".pdf",), claims, load)
