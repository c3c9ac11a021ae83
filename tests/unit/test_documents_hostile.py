"""Hostile documents: each gets a message that says what it is. Bombs are made here, none is committed."""

from __future__ import annotations

import contextlib
import io
import random
import socket
import sys
import zipfile

import pytest
from golden.documents.make_samples import samples
from golden.documents.writers import Packed, archive, docx, epub, paragraph, pdf, xhtml
from lacache_app.documents import DocumentError, Limits, loaders
from lacache_app.documents.safe_xml import check_xml, parse_xml
from lacache_app.documents.tags import clean_html
from unit.document_files import read

LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{at + 1} "{f"&a{at};" * 10}">' for at in range(12)) + "]>"
)
OUTSIDE = '<!DOCTYPE x [<!ENTITY out SYSTEM "file:///etc/hostname">]>'


def load(data, limits=None):
    """As `read` without a process: for what a loader refuses before it parses anything."""
    return loaders.load(data if isinstance(data, bytes) else data.encode(), "f", limits or Limits())


# ---- zip bombs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [lambda text: docx(text, is_packed=True), lambda text: epub([("a.xhtml", text)], is_packed=True)]
)
def test_a_zip_bomb(tmp_path, make):
    bomb = make("<p>" + " " * 30_000_000 + "</p>")
    assert len(bomb) < 100_000
    with pytest.raises(DocumentError, match=r"f is a zip bomb: '.*' unpacks from [\d,]+ to 30,000,\d+ bytes"):
        read(tmp_path, bomb)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS")
def test_a_pdf_that_unpacks_without_end(tmp_path):
    bomb = pdf([Packed(b"BT /F1 11 Tf 56 700 Td " + b"(bomb) Tj " * 6_000_000 + b"ET")])
    assert len(bomb) < 10_000
    with pytest.raises(DocumentError, match=r"f (made its reader crash|needed more than 400 MiB|took|is damaged)"):
        read(tmp_path, bomb, Limits(memory_bytes=400 << 20, seconds=60))


def test_many_modest_entries_are_a_bomb_too():
    text = "".join(random.Random(0).choices("abcdefgh ", k=500_000))
    bomb = epub([(f"{at}.xhtml", text) for at in range(6)], is_packed=True)
    with pytest.raises(DocumentError, match="unpacks to 3 MiB of text, more than 2"):
        load(bomb, Limits(unpacked_bytes=2 << 20))


def test_too_many_entries():
    with pytest.raises(DocumentError, match="holds 505 files, more than 500"):
        load(epub([(f"{at}.xhtml", "x") for at in range(501)]), Limits(entries=500))


def test_a_directory_that_lies_about_sizes_unpacks_no_more_than_it_says():
    data = bytearray(docx(paragraph("x" * 100_000), is_packed=True))
    with zipfile.ZipFile(io.BytesIO(bytes(data))) as file:
        entry = file.getinfo("word/document.xml")
    true, lie = entry.file_size.to_bytes(4, "little"), (1000).to_bytes(4, "little")
    assert data.count(true) == 2, "in the entry and in the directory"
    with pytest.raises(DocumentError, match=r"is damaged: 'word/document\.xml'"):
        load(bytes(data).replace(true, lie))


def test_an_encrypted_zip():
    data = bytearray(docx(paragraph("x")))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + offset] |= 1
            at = data.find(signature, at + 4)
    with pytest.raises(DocumentError, match="is encrypted; save it without a password"):
        load(bytes(data))


def test_other_ways_of_packing_are_refused():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("[Content_Types].xml", "<x/>")
        file.writestr("word/document.xml", "<x/>")
    with pytest.raises(DocumentError, match="packed in a way that DOCX and EPUB do not allow"):
        load(out.getvalue())


def test_names_that_lead_out_of_the_container_lead_nowhere(tmp_path):
    secret = tmp_path / "secret.xhtml"
    secret.write_text(xhtml("<p>secret</p>"))
    data = epub([("a.xhtml", "<p>x</p>")]).replace(b'href="a.xhtml"', f'href="{secret}"'.encode())
    with pytest.raises(DocumentError):
        read(tmp_path, data)
    chapters = [("../../../../etc/passwd", "<p>inside the book</p>"), ("a.xhtml", "<p>x</p>")]
    document = read(tmp_path, epub(chapters))
    assert "root:" not in document.text


# ---- XML -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("doctype", "what"), [(LAUGHS, "an XML bomb"), (OUTSIDE, "would read another file")])
@pytest.mark.parametrize("entry", ["META-INF/container.xml", "OPS/book.opf", "OPS/nav.xhtml", "OPS/a.xhtml"])
def test_entities_in_an_epub(doctype, what, entry):
    entity = "&a12;" if doctype is LAUGHS else "&out;"
    book = epub([("a.xhtml", "<h1>One</h1><p>x</p>")], [("One", "a.xhtml")])
    with zipfile.ZipFile(io.BytesIO(book)) as file:
        entries = {name: file.read(name).decode() for name in file.namelist()}
    head, mark, rest = entries[entry].partition("?>")
    entries[entry] = head + mark + doctype + rest.replace(">x<", f">{entity}<").replace(">One<", f">{entity}<")
    with pytest.raises(DocumentError, match=f"declares the entity .* in '{entry}', which .*{what}.*; it is refused"):
        load(archive(entries))


@pytest.mark.parametrize(("doctype", "what"), [(LAUGHS, "an XML bomb"), (OUTSIDE, "would read another file")])
@pytest.mark.parametrize("entry", ["word/document.xml", "word/styles.xml", "word/comments.xml", "[Content_Types].xml"])
def test_entities_in_a_docx(doctype, what, entry):
    bomb = docx(paragraph("x"), extra={entry: f"<?xml version='1.0'?>{doctype}<x>&a12;&out;</x>"})
    with pytest.raises(DocumentError, match=f"declares the entity .*{what}"):
        load(bomb)


def test_entities_of_a_web_page_stay_letters():
    document = load(f"<!DOCTYPE html>{LAUGHS}<html><body><p>&a12; &amp; &eacute; &#233;</p></body></html>")
    assert "&a12; & é é" in document.text
    assert len(document.text) < 5000


def test_deep_xml_is_refused():
    deep = "<w:sdt>" * 5_000 + "</w:sdt>" * 5_000
    with pytest.raises(DocumentError, match=r"nested more than 200 deep in 'word/document\.xml'"):
        load(docx(deep))


def test_xml_is_checked_before_a_tree_is_built():
    limits = Limits(nesting=10)
    assert parse_xml(b"<a><b c='1'/></a>", "e", "n", limits)[0].get("c") == "1"
    check_xml(b"<!DOCTYPE a SYSTEM 'http://127.0.0.1:1/x.dtd'><a/>", "e", "n", limits)  # named, never fetched
    for bad in (
        b"",
        b"<a>",
        b"<a></b>",
        b"<?xml version='1.0' encoding='nonsense'?><a/>",
        b"\xff\xfe<a/>",
        b"<a>\0</a>",
    ):
        with pytest.raises(DocumentError, match="n is damaged: 'e' is no valid XML"):
            parse_xml(bad, "e", "n", limits)
    with pytest.raises(DocumentError, match="nested more than 10 deep"):
        check_xml(b"<a>" * 11 + b"</a>" * 11, "e", "n", limits)


@pytest.mark.parametrize("tag", ["div", "b", "blockquote", "ul><li", "table><tr><td", "dl><dd", "font", "p", "object"])
def test_deep_html_keeps_its_text(tmp_path, tag):
    document = read(tmp_path, f"<!doctype html><body><p>start</p>{f'<{tag}>' * 3_000}deep words")
    assert "start" in document.text
    assert ("deep words" in document.text) == (tag != "object")


def test_html_comes_out_well_nested():
    rng = random.Random(1)
    tags = [
        "p",
        "b",
        "i",
        "li",
        "ul",
        "ol",
        "td",
        "tr",
        "table",
        "h1",
        "div",
        "pre",
        "dd",
        "dl",
        "span",
        "script",
        "head",
    ]
    for _ in range(300):
        page = "".join(
            rng.choice(["<{}>", "</{}>", "x", "<{}/>", "<{} hidden>"]).format(rng.choice(tags)) for _ in range(60)
        )
        open_tags = []
        for piece in clean_html(page, 20).replace("<br>", "").replace("<hr>", "").split("<")[1:]:
            name = piece.split(">")[0]
            if name.startswith("/"):
                assert open_tags.pop() == name[1:], page
            else:
                open_tags.append(name)
                assert len(open_tags) <= 20
        assert open_tags == [], page


def test_a_list_of_very_many_items_takes_no_square_of_time(tmp_path):
    document = read(tmp_path, "<!doctype html><ol>" + "<li>x" * 20_000, Limits(seconds=60))
    assert document.text.endswith("\n20000. x")


# ---- no network ------------------------------------------------------------------------------------------------------


def test_nothing_is_fetched(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        image = (
            '<w:p><w:r><w:drawing><wp:inline xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/'
            'wordprocessingDrawing"><a:graphic xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main">'
            '<a:graphicData><pic:pic xmlns:pic="http://schemas.openxmlformats.org/drawingml/2006/picture"><pic:blipFill>'
            '<a:blip xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships" r:link="out"/>'
            "</pic:blipFill></pic:pic></a:graphicData></a:graphic></wp:inline></w:drawing></w:r></w:p>"
        )
        link = (
            f'<Relationship Id="out" TargetMode="External" Target="{url}" Type="http://schemas.openxmlformats.org/'
            'officeDocument/2006/relationships/image"/>'
        )
        page = f'<html><head><link rel=stylesheet href="{url}"></head><body><img src="{url}" alt="pic"><p>x'
        book = epub([("a.xhtml", f'<p>x</p><img src="{url}"/>')])
        for data in (docx(paragraph("x") + image, links=link), page, book):
            assert "x" in read(tmp_path, data).text
        with pytest.raises(BlockingIOError):
            server.accept()


# ---- limits and noise ------------------------------------------------------------------------------------------------


def test_too_many_pages():
    with pytest.raises(DocumentError, match="has 12 pages, more than 10; split it"):
        load(pdf([["x"]] * 12), Limits(pages=10))
    with pytest.raises(DocumentError, match="has 12 chapter files, more than 10"):
        load(epub([(f"{at}.xhtml", "x") for at in range(12)]), Limits(pages=10))


@pytest.mark.parametrize("file", ["report.pdf", "book.epub", "report.docx", "page.html"])
def test_too_long_a_text(file):
    with pytest.raises(DocumentError, match="is too long: its text has more than 50 characters"):
        load(samples()[file], Limits(characters=50))


@pytest.mark.parametrize("file", samples())
def test_noise_in_a_file_gives_a_text_or_an_error_of_ours(file):
    """Loaders in this process, so that hundreds of damaged files take a second."""
    rng, data = random.Random(file), samples()[file]
    for _ in range(60):
        noisy = bytearray(data)
        for _ in range(rng.choice([1, 3, 30])):
            at = rng.randrange(len(noisy))
            noisy[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(4))
        noisy = bytes(noisy[: rng.randrange(len(noisy))] if rng.random() < 0.3 else noisy)
        with contextlib.suppress(DocumentError):
            document = loaders.load(noisy, file, Limits())
            assert document.parts[-1].end == len(document.text) > 0
