"""Zip containers (DOCX, EPUB): opened only when they are honest about their size, and read entry by entry.

What is a zip but neither DOCX nor EPUB is refused by the name of what it is. Knows no XML.
"""

from __future__ import annotations

import io
import zipfile
import zlib

from lacache_app.documents.limits import DocumentError, Limits
from lacache_app.documents.refusals import READABLE

_MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_TEXT_SUFFIXES = (".xml", ".xhtml", ".html", ".htm", ".opf", ".ncx", ".rels")
_LARGE = 1 << 20
_KINDS = (  # (an entry or the beginning of the entry "mimetype", what it is, remedy)
    ("application/vnd.oasis.opendocument.text", "an OpenDocument text (ODT)", "save it as DOCX or PDF, or run: "
     "soffice --headless --convert-to docx FILE"),
    ("application/vnd.oasis.opendocument", "an OpenDocument file", "save it as PDF"),
    ("xl/workbook.xml", "an Excel workbook (XLSX)", "save the sheets that matter as CSV or PDF"),
    ("xl/workbook.bin", "an Excel workbook (XLSB)", "save the sheets that matter as CSV or PDF"),
    ("ppt/presentation.xml", "a PowerPoint presentation (PPTX)", "save it as PDF"),
    ("Index/Document.iwa", "an Apple Pages, Numbers or Keynote file", "export it as DOCX, PDF or EPUB"),
    ("AndroidManifest.xml", "an Android program", "give a document"),
    ("META-INF/MANIFEST.MF", "a Java archive", "give a document"),
)  # fmt: skip


def is_zip(data: bytes) -> bool:
    """Whether it begins like a zip file."""
    return data.startswith(_MAGIC)


def names(data: bytes) -> set[str]:
    """The entries of a zip file; none if it is none or is damaged."""
    if not is_zip(data):
        return set()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return set(archive.namelist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return set()


def open_archive(data: bytes, name: str, limits: Limits) -> zipfile.ZipFile:
    """The container, after a look at what its directory promises. zipfile unpacks no entry beyond that promise.

    Raises DocumentError for a damaged, encrypted or exploding one.
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise DocumentError(
            f"{name} is damaged: it begins like a zip file but is none ({error}); get it again"
        ) from error
    entries = archive.infolist()
    if len(entries) > limits.entries:
        raise DocumentError(
            f"{name} holds {len(entries):,} files, more than {limits.entries:,}: it may be made to do harm"
        )
    for entry in entries:
        if entry.flag_bits & 1:
            raise DocumentError(f"{name} is encrypted; save it without a password")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DocumentError(
                f"{name} is packed in a way that DOCX and EPUB do not allow; unpack it and pack it again"
            )
        if entry.file_size > _LARGE and entry.file_size > limits.ratio * max(1, entry.compress_size):
            raise DocumentError(
                f"{name} is a zip bomb: {entry.filename[:80]!r} unpacks from {entry.compress_size:,} "
                f"to {entry.file_size:,} bytes"
            )
    total = sum(entry.file_size for entry in entries if entry.filename.lower().endswith(_TEXT_SUFFIXES))
    if total > limits.unpacked_bytes:
        raise DocumentError(
            f"{name} unpacks to {total / 2**20:,.0f} MiB of text, more than {limits.unpacked_bytes / 2**20:,.0f}: "
            "it may be a zip bomb; split it into several files"
        )
    return archive


def read_entry(archive: zipfile.ZipFile, entry: str, name: str) -> bytes:
    """One entry's bytes. Raises DocumentError if it is missing or damaged."""
    try:
        return archive.read(entry)
    except KeyError:
        raise DocumentError(f"{name} is damaged: it has no {entry!r}; get it again") from None
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, NotImplementedError, zlib.error) as error:
        raise DocumentError(f"{name} is damaged: {entry!r} cannot be unpacked ({error}); get it again") from error


def refuse_archive(data: bytes, name: str, limits: Limits) -> None:
    """Raises DocumentError for a zip file that no loader knows, naming what it is."""
    with open_archive(data, name, limits) as archive:
        entries = archive.namelist()
        mimetype = (
            read_entry(archive, "mimetype", name)[:100].decode("ascii", "replace") if "mimetype" in entries else ""
        )
    for mark, what, remedy in _KINDS:
        if mark in entries or mimetype.startswith(mark):
            raise DocumentError(f"{name} is {what}, and {READABLE} are read here; {remedy.replace('FILE', name)}")
    shown = ", ".join(entries[:3]) + (", ..." if len(entries) > 3 else "")
    raise DocumentError(
        f"{name} is a zip archive with {len(entries):,} file{'s' * (len(entries) != 1)} ({shown}), neither DOCX nor "
        "EPUB; unpack it first and give the files in it"
    )
