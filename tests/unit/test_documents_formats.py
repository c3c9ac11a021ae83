"""Every format on its samples: what must be read, what must not, and which page or chapter it is cited by.

A new format: its samples in tests/golden/documents/make_samples.py and a row here.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from golden.documents.make_samples import samples
from golden.documents.writers import Picture, archive, docx, epub, paragraph, pdf
from lacache_app.documents import DocumentError, Limits, loaders, read_document
from unit.document_files import assert_parts_cover

SAMPLES = Path(__file__).parents[1] / "golden" / "documents"

# file, kind, (what it must include, its label), what it must not include
ROWS = [
    (
        "report.pdf",
        "pdf",
        [
            ("climbed the hundred and twelve steps with a can of oil.", "p. 1"),
            ("wrote the number into a book", "p. 1"),
            ("Fact 3: the lamp burned 21 litres", "p. 3"),
            ("“You will not stay,” said", "p. 1"),
            ("3. The keeper's year, part 5", "p. 5"),
            ("The Lighthouse Report", "p. 1"),
        ],
        ["num-", "\n12\n", "litres that month.\n13"],
    ),
    ("no-printing.pdf", "pdf", [("Fact 1: the lamp burned 7 litres", "p. 1")], []),
    ("partly-scanned.pdf", "pdf", [("Fact 1", "p. 1"), ("Fact 2", "p. 6")], []),
    (
        "report.docx",
        "docx",
        [
            ("# Annual Report", "ch. 1"),
            ("Barley was good & rye was not — see the table.", "ch. 1"),
            ("| Barley | 41 |", "ch. 1"),
            ("It rained in June. And in July.", "ch. 2"),
            ("Müller will sow earlier.", "ch. 3"),
        ],
        ["deleted text"],
    ),
    (
        "book.epub",
        "epub",
        [
            ("She left on a *Tuesday*. Nobody waved.", "ch. 1"),
            ("empty—and cold", "ch. 2"),
            ("She came back in spring.", "ch. 3"),
        ],
        ["script text", "margin"],
    ),
    (
        "old-book.epub",
        "epub",
        [("First of two in a file.", "ch. 1"), ("Second of two", "ch. 2"), ("Third, in a file of its own.", "ch. 3")],
        [],
    ),
    (
        "page.html",
        "html",
        [
            ("# The Café Bakery", "ch. 1"),
            ("Rye bread takes **three days**. The starter is fed twice.", "ch. 1"),
            ("We use stone-ground rye.", "ch. 2"),
            ("- soft water\n- or *filtered* water", "ch. 3"),
            ("| Step | Hours |\n| --- | --- |\n| Rest | 12 |", "ch. 4"),
            ("[The oven]", "ch. 4"),
            ("```\n# not a heading\nmix()\n```", "ch. 4"),
        ],
        ["script text", "comment text", "hidden", "noscript", "color", "Home", "example.invalid", "x.gif"],
    ),
    (
        "old-page.htm",
        "html",
        [
            ("an unclosed **bold**\n\nSecond entry & more\na new line", "ch. 1"),
            ("The layout table's first column.\n\nIts second column.", "ch. 2"),
            ("Ebb\n:   water going out", "ch. 2"),
            ("Last entry", "ch. 2"),
        ],
        ["|", "<"],
    ),
    (
        "notes.markdown",
        "markdown",
        [("Some words before", "ch. 1"), ("# a comment", "ch. 2"), ("half as much", "ch. 3"), ("**surge**", "ch. 4")],
        [],
    ),
    ("novel.txt", "text", [("THE FERRYMAN", ""), ("The ferryman pulled", "ch. 1")], []),
    ("letter.txt", "text", [("Grüße aus Köln, schöne Straße – für 12 €.\n", "")], ["\r"]),
]
REFUSED = [
    ("encrypted.pdf", r"is encrypted: it opens only with a password; save it without one, .*qpdf --password"),
    ("scanned.pdf", r"looks scanned: 2 of 3 pages are pictures .* no text layer.* ocrmypdf scanned\.pdf"),
]
TITLES = {
    "report.pdf": ["Spring", "", "Summer", "", "Winter", ""],
    "report.docx": ["Harvest", "Weather", "Outlook"],
    "book.epub": ["Departure", "Arrival", "Return"],
    "old-book.epub": ["The First", "The Second", "The Third"],
    "page.html": ["The Café Bakery", "Flour", "Water", "Times"],
    "notes.markdown": ["Notes on tides", "Moon", "Sun", "Wind"],
    "novel.txt": ["", "CHAPTER I. The River", "CHAPTER II. The Far Bank"],
}


@pytest.fixture(autouse=True)
def _in_the_samples_folder(monkeypatch):
    monkeypatch.chdir(SAMPLES)


@pytest.mark.parametrize(("file", "kind", "included", "excluded"), ROWS, ids=[row[0] for row in ROWS])
def test_samples(file, kind, included, excluded):
    document = read_document(file)
    assert document.kind == kind
    assert document.name == file
    for text, label in included:
        assert text in document.text
        assert document.label_at(document.text.index(text)) == label
    for text in excluded:
        assert text not in document.text
    assert_parts_cover(document)
    if file in TITLES:
        assert [part.title for part in document.parts] == TITLES[file]


@pytest.mark.parametrize(("file", "message"), REFUSED)
def test_refused_samples(file, message):
    with pytest.raises(DocumentError, match=message):
        read_document(file)


def test_every_sample_has_a_row_and_is_what_the_script_writes():
    made = samples()
    files = {path.name for path in SAMPLES.iterdir() if path.suffix not in (".py", "") and path.is_file()}
    assert files == set(made) == {row[0] for row in (*ROWS, *REFUSED)}
    for name, data in made.items():
        assert (SAMPLES / name).read_bytes() == data, f"{name}: run make_samples.py"
        assert len(data) < 50_000


@pytest.mark.parametrize(("file", "named"), [("report.pdf", "a.txt"), ("book.epub", "a.pdf"), ("page.html", "a.md")])
def test_the_content_decides_and_not_the_name(tmp_path, file, named):
    shutil.copy(file, tmp_path / named)
    assert read_document(tmp_path / named, name=file) == read_document(file)


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": ""}, r"\(ODT\).* --convert-to docx"),
        ({"[Content_Types].xml": "", "xl/workbook.xml": ""}, r"\(XLSX\).*CSV"),
        ({"[Content_Types].xml": "", "ppt/presentation.xml": ""}, r"\(PPTX\).*PDF"),
        ({"Index/Document.iwa": ""}, "Pages"),
        (
            {"a.txt": "x", "b.pdf": "y"},
            r"a zip archive with 2 files \(a\.txt, b\.pdf\), neither DOCX nor EPUB; unpack it",
        ),
        ({}, "a zip archive with 0 files"),
    ],
)
def test_other_zip_files_are_named(entries, what):
    with pytest.raises(DocumentError, match=what):
        read(archive(entries))


# ---- PDF -------------------------------------------------------------------------------------------------------------


def read(data):
    """In this process: these are honest files."""
    return loaders.load(data, "f", Limits())


def test_a_partly_scanned_pdf_says_which_pages_are_missing():
    document = read_document("partly-scanned.pdf")
    assert "3 pages (p. 2, 4-5) left out, as they have no text layer (scanned?)" in document.note
    assert "ocrmypdf partly-scanned.pdf" in document.note, "page 3 is empty, not scanned"


def test_pdfs_without_text():
    with pytest.raises(DocumentError, match="looks scanned: all 2 pages have no text layer"):
        read(pdf([Picture(), Picture()]))
    with pytest.raises(DocumentError, match="looks scanned: its only page has no text layer"):
        read(pdf([Picture()]))
    with pytest.raises(DocumentError, match="shows nothing on its 2 pages: it is empty or damaged"):
        read(pdf([[], []]))


def test_damaged_pdfs():
    data = (SAMPLES / "report.pdf").read_bytes()
    with pytest.raises(DocumentError, match=r"is damaged.*repaired\.pdf"):
        read(data[:400])
    document = read(data.replace(b"startxref", b"startxxxx"))
    assert "hundred and twelve" in document.text, "a broken cross-reference table is mended"


def test_a_sentence_runs_on_over_a_page():
    text = "and so the whole of this sentence goes on and on and on over the end of"
    document = read(pdf([[text], ["the page. New paragraph."], ["Next page."]]))
    assert document.text == f"{text}\nthe page. New paragraph.\n\nNext page."


# ---- EPUB ------------------------------------------------------------------------------------------------------------


def test_an_epub_without_contents_goes_by_headings_or_files():
    with_headings = read(epub([("a.xhtml", "<h1>One</h1><p>x</p><h1>Two</h1><p>y</p>")]))
    assert [(part.label, part.title) for part in with_headings.parts] == [("ch. 1", "One"), ("ch. 2", "Two")]
    without = read(epub([("a.xhtml", "<p>x</p>"), ("b.xhtml", "<p>y</p>")]))
    assert [(part.label, part.title) for part in without.parts] == [("ch. 1", ""), ("ch. 2", "")]
    assert_parts_cover(without)


def test_a_copy_protected_epub():
    encryption = (
        '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container" xmlns:e="http://www.w3.org/2001/04/xmlenc#">'
        '<e:EncryptedData><e:CipherData><e:CipherReference URI="{}"/></e:CipherData></e:EncryptedData></encryption>'
    )
    chapters = [("a.xhtml", "<p>x</p>")]
    with pytest.raises(DocumentError, match=r"copy-protected \(DRM\)"):
        read(epub(chapters, extra={"META-INF/encryption.xml": encryption.format("OPS/a.xhtml")}))
    fonts = epub(chapters, extra={"META-INF/encryption.xml": encryption.format("OPS/font.otf")})
    assert read(fonts).text == "x", "scrambled fonts are usual and harm nobody"


def test_an_epub_with_a_missing_chapter_is_read_with_a_note():
    data = epub([("a.xhtml", "<p>x</p>"), ("b.xhtml", "<p>y</p>")])
    broken = data.replace(b"OPS/b.xhtml", b"OPS/c.xhtml")
    document = read(broken)
    assert document.text == "x"
    assert "1 of its chapter files are missing or damaged" in document.note


def test_an_epub_of_pictures():
    with pytest.raises(DocumentError, match="has no text: its chapters are empty or pictures"):
        read(epub([("a.xhtml", '<img src="a.png" alt=""/>')]))


# ---- DOCX ------------------------------------------------------------------------------------------------------------


def test_a_docx_without_text():
    with pytest.raises(DocumentError, match="has no text"):
        read(docx(paragraph("")))


def test_hidden_text_of_a_docx_is_not_read():
    runs = [
        "<w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden orders</w:t></w:r>",
        '<w:r><w:rPr><w:vanish w:val="1"/></w:rPr><w:t>hidden too</w:t></w:r>',
        '<w:r><w:rPr><w:b/><w:vanish w:val="0"/></w:rPr><w:t>shown again</w:t></w:r>',
    ]
    document = read(docx(paragraph("A head", "heading1") + f"<w:p>{''.join(runs)}</w:p>"))
    assert document.text == "# A head\n\n**shown again**"


def test_a_docx_without_its_main_part():
    with pytest.raises(DocumentError, match="is damaged: it cannot be read as a DOCX"):
        read(archive({"[Content_Types].xml": "<x/>", "word/styles.xml": "<x/>"}))


# ---- HTML ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("<html><body>é</body></html>".encode("utf-16"), "é"),
        ('<html><meta charset="shift_jis"><body>日本語</body></html>'.encode("shift_jis"), "日本語"),
        ('<?xml version="1.0" encoding="windows-1251"?><html><body>Да</body></html>'.encode("cp1251"), "Да"),
        ('<html><meta charset="utf-8"><body>caf\xe9</body></html>'.encode("cp1252"), "caf\ufffd"),
        (b'<html><meta charset="no-such"><body>caf\xe9</body></html>', "café"),
        (b"<p>A fragment</p>\n<p>of a page</p>", "A fragment\n\nof a page"),
    ],
)
def test_html_encodings(data, text):
    document = read(data)
    assert (document.kind, document.text) == ("html", text)


@pytest.mark.parametrize(
    "text", ['<p align="center">\n\n# Project\n\nText.\n', "<note>XML is text here</note>", "a < b > c"]
)
def test_what_is_no_html(text):
    assert read(text.encode()).text == text


def test_a_page_without_text():
    with pytest.raises(DocumentError, match="shows no text: it may need scripts"):
        read(b"<html><body><div id=app></div><script>render()</script></body></html>")
