"""documents: reading text files, what is refused by its name, and several files as one."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lacache_app import documents
from lacache_app.documents import SUFFIXES, Document, DocumentError, Limits, Part, decode, join, read_document
from lacache_app.documents.encodings import clean

from lacache_gguf.errors import UsageError

TEXT = "Zürich, “naïve” café… 12 €\n"


# ---- encodings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "note"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("utf-16", "x: read as UTF-16"),
        ("utf-32", "x: read as UTF-32"),
        ("cp1252", "x: byte 1 is not UTF-8; read as Windows-1252"),
    ],
)
def test_encodings(encoding, note):
    assert decode(TEXT.encode(encoding), "x") == (TEXT, note)


def test_utf16_of_the_other_byte_order():
    assert decode(b"\xfe\xff" + TEXT.encode("utf-16-be"), "x")[0] == TEXT


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes(TEXT.encode(encoding))
    document = read_document(tmp_path / "a.txt", name="a")
    assert (document.text, document.note) == (TEXT, "a: read as UTF-16")


def test_latin1_where_windows_has_no_character():
    assert decode(b"caf\xe9 \x81", "x") == ("caf\xe9 \x81", "x: byte 3 is not UTF-8; read as Latin-1")


def test_a_byte_order_mark_that_lies_is_refused():
    with pytest.raises(UsageError, match="starts like UTF-16 text but is not"):
        decode(b"\xff\xfea", "x")


@pytest.mark.parametrize(
    ("encodings", "text"),
    [
        (
            "cp1252 latin-1",
            "Die Männer gingen über die Straße und grüßten höflich; später aßen sie Käse. Schöne Grüße.",
        ),
        ("cp1252", "L’été, nous avons mangé des crêpes à la fenêtre; où était le garçon? Très déçu, il était allé."),
        ("cp1252", "Todos nacen libres; el niño añadió: ¿dónde está la razón? Mañana será también así, según él."),
        ("cp1250 iso8859-2", "Zażółć gęślą jaźń. Wszyscy ludzie rodzą się wolni i równi pod względem swej godności."),
        ("cp1250 iso8859-2", "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti. Příliš žluťoučký kůň."),
        ("cp1254", "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler."),
        ("cp1251 koi8-r cp866", "Все люди рождаются свободными и равными в своем достоинстве и правах."),
        ("cp1253", "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα."),
        ("shift_jis euc_jp", "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。"),
        ("gb18030 big5", "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。"),
        ("euc_kr", "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다."),
    ],
)
def test_old_encodings_of_many_languages(encodings, text):
    for encoding in encodings.split():
        data = (text * 4).encode(encoding, "ignore")
        read, note = decode(data, "x")
        assert read == data.decode(encoding), encoding
        assert "is not UTF-8; read as" in note


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1))
def test_any_utf8_text_is_read_as_it_is(text):
    if text[0] != "\ufeff":
        assert decode(text.encode(), "x") == (text, "")


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(data):
    try:
        text, _ = decode(data, "x")
    except DocumentError:
        return
    clean(text).encode()  # no halves of surrogate pairs, no exception


def test_terminal_codes_are_removed():
    assert clean("\x1b[1;31mred\x1b[0m B\x08Bo\x08old \x00\x07bell\x85") == "red Bold bell\x85"


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"%PDF-1.7\n%\xe2\xe3", r"damaged: it begins like a PDF .* qpdf f\.bin repaired\.pdf"),
        (b"PK\x03\x04\x14\x00", "damaged: it begins like a zip file"),
        (b"GGUF\x03\x00", "a GGUF model"),
        (b"\x89PNG\r\n\x1a\n", r"a PNG image.* tesseract f\.bin - \| lacache summarize -"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"\x1f\x8b\x08\x00", r"a gzip file.* zcat f\.bin \| lacache summarize -"),
        (b"\x7fELF\x02\x01", "a program"),
        (b"MZ\x90\x00\x03", "a Windows program"),
        (b"{\\rtf1\\ansi", r"an RTF document.* soffice --headless --convert-to docx f\.bin"),
        (b"%!PS-Adobe-3.0\n", "a PostScript file"),
        (bytes(60) + b"BOOKMOBI" + bytes(9), "a Mobipocket or Kindle book.* EPUB"),
        (b"a.txt" + bytes(252) + b"ustar\x0000", "a tar archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(64), "an old Office document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "WordDocument".encode("utf-16-le"), r"an old Word document \(\.doc\)"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "Workbook".encode("utf-16-le"), r"an old Excel workbook.* CSV"),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"),
            "a password-protected Office document.* save it without one",
        ),
        (b"From: <Saved by x>\nMIME-Version: 1.0\nContent-Type: multipart/related;\n", r"a web archive \(MHTML\)"),
        (b"plain \x00 not", "binary data .it starts with bytes 70 6c 61 69"),
        (bytes(range(1, 9)) * 20, "binary data"),
    ],
)
def test_binary_files_are_named(tmp_path, monkeypatch, data, what):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.bin").write_bytes(data)
    with pytest.raises(DocumentError, match=what):
        read_document("f.bin")


@pytest.mark.parametrize(
    "text", ["MZ is two letters", "GGUF is a format", "ID3 tags", "PK is no zip", "A %PDF-1.7 file begins so", "BZh"]
)
def test_words_that_begin_like_something_binary_are_text(tmp_path, text):
    (tmp_path / "a.pdf").write_text(text)
    assert read_document(tmp_path / "a.pdf").text == text


def test_line_ends_are_made_one_kind(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\rthree\n")
    assert read_document(str(tmp_path / "a.txt")).text == "one\ntwo\nthree\n"


@pytest.mark.parametrize("data", [b"", b" \n\t ", b"\xef\xbb\xbf", b"\x1b[0m\n"])
def test_empty_files(tmp_path, data):
    (tmp_path / "empty.txt").write_bytes(data)
    with pytest.raises(DocumentError, match=r"empty\.txt is empty; there is nothing to read"):
        read_document(str(tmp_path / "empty.txt"))


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(DocumentError, match=r"no file .*nothing\.txt'; check the path"):
        read_document(str(tmp_path / "nothing.txt"))
    with pytest.raises(DocumentError, match="is a directory; give the files in it"):
        read_document(str(tmp_path))
    with pytest.raises(DocumentError, match="cannot read"):
        read_document(str(tmp_path / ("n" * 300)))
    with pytest.raises(DocumentError, match="cannot read"):
        read_document("null\0byte")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_a_device_is_refused():
    with pytest.raises(DocumentError, match="is a device, not a file"):
        read_document("/dev/zero")


def test_too_large_a_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"word " * 300_000)
    with pytest.raises(DocumentError, match=r"a\.txt is larger than 1 MiB.*split it"):
        read_document(tmp_path / "a.txt", Limits(file_bytes=1 << 20))
    with pytest.raises(DocumentError, match="more than 1,000 characters; split it"):
        read_document(tmp_path / "a.txt", Limits(characters=1000))


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    document = read_document("-")
    assert (document.name, document.text) == ("standard input", TEXT)


def test_a_file_name_that_is_no_utf8(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.html")
    try:
        Path(path).write_text("<html><body><p>é 漢")
    except OSError:
        pytest.skip("this file system takes no such names")
    assert (read_document(path).name, read_document(path).text) == (path, "é 漢")
    Path(path).write_text("<html>")
    with pytest.raises(DocumentError, match="shows no text"):
        read_document(path)


def test_a_name_of_ones_own(tmp_path):
    (tmp_path / "x").write_bytes(b"caf\xe9")
    document = read_document(tmp_path / "x", name="menu.txt")
    assert (document.name, document.note[:9]) == ("menu.txt", "menu.txt:")
    assert read_document(tmp_path / "x").name == str(tmp_path / "x")


def test_plain_text_starts_no_process(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    for content in ("plain", "# A heading\n\ntext"):
        (tmp_path / "a").write_text(content)
        assert read_document(tmp_path / "a").text == content


def test_large_text_is_read_in_the_child(tmp_path, monkeypatch):
    monkeypatch.setattr(documents.loaders, "_N_HERE", 1000)
    (tmp_path / "a.txt").write_text("A line of words.\n" * 100)
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: started.append(1) or popen(*args, **kwargs))
    assert read_document(tmp_path / "a.txt").text == "A line of words.\n" * 100
    assert started


# ---- parts -----------------------------------------------------------------------------------------------------------

PAGES = Document(
    "dir/a.pdf", "one two three", "pdf", (Part("p. 1", "", 0, 4), Part("p. 2", "Two", 4, 8), Part("p. 3", "", 8, 13))
)


def test_labels_by_offset():
    labels = [PAGES.label_at(offset) for offset in (-1, 0, 3, 4, 7, 8, 12, 13, 99)]
    assert labels == ["p. 1", "p. 1", "p. 1", "p. 2", "p. 2", "p. 3", "p. 3", "p. 3", "p. 3"]
    assert PAGES.part_at(5).title == "Two"


def test_an_empty_page_has_no_characters_of_its_own():
    document = Document("x", "ab", "pdf", (Part("p. 1", "", 0, 1), Part("p. 2", "", 1, 1), Part("p. 3", "", 1, 2)))
    assert [document.label_at(offset) for offset in (0, 1)] == ["p. 1", "p. 3"]


def test_a_text_without_headings_is_one_part_without_label():
    assert Document("x", "words").parts == (Part("", "", 0, 5),)


def test_join_of_one_is_itself_and_of_none_an_error():
    assert join([PAGES]) is PAGES
    with pytest.raises(ValueError, match="no documents"):
        join([])


def test_a_joined_text_is_text_whatever_the_files_are_called():
    both = join([Document("caf\udce9.txt", "x"), PAGES])
    assert both.text.encode().startswith(b"File: caf?.txt")
    both.parts[0].label.encode(), both.parts[0].title.encode()


def test_join_keeps_parts_and_says_which_file():
    other = Document("b.txt", "four", note="b.txt: read as UTF-16")
    both = join([PAGES, other])
    assert both.text == "File: dir/a.pdf\n\none two three\n\nFile: b.txt\n\nfour"
    assert [part.label for part in both.parts] == ["a.pdf, p. 1", "a.pdf, p. 2", "a.pdf, p. 3", "b.txt"]
    assert [both.text[part.start : part.end] for part in both.parts] == [
        "File: dir/a.pdf\n\none ",
        "two ",
        "three\n\n",
        "File: b.txt\n\nfour",
    ]
    assert [part.title for part in both.parts] == ["a.pdf", "Two", "", "b.txt"], "a file begins like a chapter"
    assert both.label_at(both.text.index("four")) == "b.txt"
    assert (both.kind, both.name, both.note) == ("text", "dir/a.pdf, b.txt", "b.txt: read as UTF-16")
    assert join([PAGES, PAGES]).kind == "pdf"


def test_suffixes():
    assert {".pdf", ".docx", ".epub", ".html", ".md", ".txt"} <= set(SUFFIXES)
    assert len(set(SUFFIXES)) == len(SUFFIXES)


# ---- manners ---------------------------------------------------------------------------------------------------------


def test_nothing_of_the_page_is_imported_and_nothing_heavy_before_it_is_needed():
    code = (
        "import sys, lacache_app.documents; "
        "print([m for m in ('gradio', 'numpy', 'pypdfium2', 'mammoth', 'bs4', 'markdownify', 'charset_normalizer') "
        "if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
    for path in Path(documents.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith(("gradio", "lacache_app.ui"))], path.name


def test_files_are_read_from_several_threads_at_once(tmp_path):
    found: dict[int, str] = {}
    for number in range(4):
        (tmp_path / f"{number}").write_text(f"<html><body><p>Page {number}</p></body></html>")
    threads = [
        threading.Thread(target=lambda n=number: found.update({n: read_document(tmp_path / f"{n}").text}))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: f"Page {number}" for number in range(4)}
