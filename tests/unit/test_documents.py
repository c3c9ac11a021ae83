"""documents: every usual encoding is read, and everything that is no text is refused by its name."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lacache_app.documents import decode, read_document

from lacache_gguf.errors import UsageError

TEXT = "Zürich, “naïve” café… 12 €\n"


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


def test_latin1_where_windows_has_no_character():
    assert decode(b"caf\xe9 \x81", "x") == ("caf\xe9 \x81", "x: byte 3 is not UTF-8; read as Latin-1")


def test_a_byte_order_mark_that_lies_is_refused():
    with pytest.raises(UsageError, match="starts like UTF-16 text but is not"):
        decode(b"\xff\xfea", "x")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"%PDF-1.7\n%\xe2\xe3", r"damaged: it begins like a PDF .* qpdf f\.bin repaired\.pdf"),
        (b"PK\x03\x04\x14\x00", "damaged: it begins like a zip file"),
        (b"GGUF\x03\x00", "a GGUF model"),
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"\x1f\x8b\x08\x00", "a gzip file"),
        (b"\x7fELF\x02\x01", "a program"),
        (b"{\\rtf1\\ansi", "an RTF document"),
        (b"plain \x00 not", "binary data .it starts with bytes 70 6c 61 69"),
        (bytes(range(1, 9)) * 20, "binary data"),
    ],
)
def test_binary_files_are_named(tmp_path, monkeypatch, data, what):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.bin").write_bytes(data)
    with pytest.raises(UsageError, match=what):
        read_document("f.bin")


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1))
def test_any_utf8_text_is_read_as_it_is(text):
    if text[0] != "\ufeff" and not text.startswith(("PK", "GGUF", "GIF8", "{\\rtf", "%PDF", "SQLite")):
        assert decode(text.encode(), "x") == (text, "")


def test_words_that_begin_like_a_program_are_text():
    assert decode(b"MZ is two letters", "x")[0] == "MZ is two letters"


def test_line_ends_are_made_one_kind(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\rthree\n")
    assert read_document(str(tmp_path / "a.txt")).text == "one\ntwo\nthree\n"


@pytest.mark.parametrize("data", [b"", b" \n\t ", b"\xef\xbb\xbf"])
def test_empty_files(tmp_path, data):
    (tmp_path / "empty.txt").write_bytes(data)
    with pytest.raises(UsageError, match=r"empty\.txt is empty"):
        read_document(str(tmp_path / "empty.txt"))


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(UsageError, match=r"no file .*nothing\.txt'; check the path"):
        read_document(str(tmp_path / "nothing.txt"))
    with pytest.raises(UsageError, match="is a directory"):
        read_document(str(tmp_path))
    with pytest.raises(UsageError, match="cannot read"):
        read_document(str(tmp_path / ("n" * 300)))


def test_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    document = read_document("-")
    assert (document.name, document.text) == ("standard input", TEXT)
