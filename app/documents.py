"""Text and Markdown files, and standard input, as text. Knows encodings; knows no models.

read_document("notes.md").text
"""

from __future__ import annotations

import codecs
import sys
from dataclasses import dataclass
from pathlib import Path

from lacache_gguf.errors import UsageError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BINARY = (
    (b"%PDF", "a PDF", "convert it first: pdftotext FILE - | lacache summarize -"),
    (b"PK\x03\x04", "a zip archive (DOCX, EPUB and ODT are such)", "save it as text or Markdown first"),
    (b"\xd0\xcf\x11\xe0", "an old Office document", "save it as text first"),
    (b"{\\rtf", "an RTF document", "save it as text first"),
    (b"GGUF", "a GGUF model", "models are given with -m"),
    (b"\x89PNG", "a PNG image", "give text"),
    (b"\xff\xd8\xff", "a JPEG image", "give text"),
    (b"GIF8", "a GIF image", "give text"),
    (b"\x1f\x8b", "a gzip file", "unpack it first: zcat FILE | lacache summarize -"),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "unpack it first: zstdcat FILE | lacache summarize -"),
    (b"\x7fELF", "a program", "give text"),
    (b"MZ", "a Windows program", "give text"),
    (b"SQLite format 3", "an SQLite database", "give text"),
)
_N_SNIFF = 1 << 16
_TEXT_CONTROLS = b"\t\n\r\f\b\x1b"


@dataclass(frozen=True)
class Document:
    """A document's text, a name for it, and a note where its bytes had to be interpreted ("" otherwise)."""

    name: str
    text: str
    note: str = ""


def read_document(path: str) -> Document:
    """Read a text or Markdown file; "-" is standard input.

    Raises UsageError for a missing or unreadable file, a directory, a binary file (naming what it is) or an empty one.
    """
    name = "standard input" if path == "-" else path
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).expanduser().read_bytes()
    except FileNotFoundError:
        raise UsageError(f"no file {path!r}; check the path") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a directory; give the files in it") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    text, note = decode(data, name)
    if not text.strip():
        raise UsageError(f"{name} is empty; there is nothing to read")
    return Document(name, text.replace("\r\n", "\n").replace("\r", "\n"), note)


def decode(data: bytes, name: str) -> tuple[str, str]:
    """(text, note): by byte order mark, else UTF-8, else Windows-1252 or Latin-1 with a note.

    Raises UsageError for binary data.
    """
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            try:
                return data.decode(encoding), "" if encoding == "utf-8-sig" else f"{name}: read as {encoding.upper()}"
            except UnicodeDecodeError as error:
                raise UsageError(f"{name} starts like {encoding.upper()} text but is not: {error.reason}") from error
    _refuse_binary(data, name)
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        where = error.start
    for encoding, shown in (("cp1252", "Windows-1252"), ("latin-1", "Latin-1")):
        try:
            return data.decode(encoding), f"{name}: byte {where:,} is not UTF-8; read as {shown}"
        except UnicodeDecodeError:
            continue
    raise AssertionError("latin-1 decodes everything")


def _refuse_binary(data: bytes, name: str) -> None:
    for magic, what, remedy in _BINARY:
        if data.startswith(magic) and (magic != b"MZ" or b"\0" in data[:_N_SNIFF]):
            raise UsageError(
                f"{name} is {what}, and only text and Markdown are read here; {remedy.replace('FILE', name)}"
            )
    head = data[:_N_SNIFF]
    n_control = sum(head.count(byte) for byte in range(32) if byte not in _TEXT_CONTROLS)
    if b"\0" in head or n_control * 50 > len(head):
        raise UsageError(
            f"{name} is binary data (it starts with bytes {data[:8].hex(' ')}); give a text or Markdown file"
        )
