"""Files that are no documents for us, named by their first bytes, each with a way out. Knows no loaders.

refuse_binary(b"\\x89PNG...", "scan.png")     # DocumentError: scan.png is a PNG image, ...; run OCR on it first ...
"""

from __future__ import annotations

from lacache_app.documents.limits import DocumentError

READABLE = "PDF, DOCX, EPUB, HTML, Markdown and plain text"
_TO_DOCX = "save it as DOCX or PDF, or run: soffice --headless --convert-to docx FILE"
_OCR = "if it shows text, run OCR on it first: tesseract FILE - | lacache summarize -"
_UNPACK = "unpack it first and give the files in it"

_MAGIC = (  # (offset, first bytes, what it is, remedy)
    (0, b"{\\rtf", "an RTF document", _TO_DOCX),
    (0, b"GGUF", "a GGUF model", "models are given with -m"),
    (0, b"\x89PNG", "a PNG image", _OCR),
    (0, b"\xff\xd8\xff", "a JPEG image", _OCR),
    (0, b"GIF8", "a GIF image", _OCR),
    (0, b"II*\0", "a TIFF image", _OCR),
    (0, b"MM\0*", "a TIFF image", _OCR),
    (8, b"WEBPVP8", "a WebP image", _OCR),
    (0, b"\x1f\x8b", "a gzip file", "unpack it first: zcat FILE | lacache summarize -"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", "unpack it first: zstdcat FILE | lacache summarize -"),
    (0, b"\xfd7zXZ\0", "an xz file", "unpack it first: xzcat FILE | lacache summarize -"),
    (0, b"BZh", "a bzip2 file", "unpack it first: bzcat FILE | lacache summarize -"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (60, b"BOOKMOBI", "a Mobipocket or Kindle book", "convert it to EPUB first, for example with Calibre"),
    (60, b"TEXtREAd", "a PalmDOC book", "convert it to EPUB first, for example with Calibre"),
    (0, b"ITSF", "a compiled HTML help file", "convert it to EPUB first, for example with Calibre"),
    (0, b"AT&TFORM", "a DjVu document", "run: djvutxt FILE | lacache summarize -"),
    (0, b"%!PS", "a PostScript file", "run: ps2pdf FILE file.pdf"),
    (0, b"\x7fELF", "a program", "give a document"),
    (0, b"MZ", "a Windows program", "give a document"),
    (0, b"SQLite format 3", "an SQLite database", "give a document"),
    (0, b"ID3", "a sound file", "only documents are read here"),
    (0, b"OggS", "a sound file", "only documents are read here"),
    (0, b"fLaC", "a sound file", "only documents are read here"),
    (4, b"ftyp", "a video or sound file", "only documents are read here"),
    (0, b"\x1aE\xdf\xa3", "a video file", "only documents are read here"),
)
_BINARY_FOLLOWS = {b"MZ", b"BZh", b"ID3", b"GIF8", b"ITSF", b"OggS", b"fLaC", b"ftyp", b"GGUF", b"AT&TFORM"}
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OLE_KINDS = (  # names of streams inside, in UTF-16
    ("EncryptedPackage", "a password-protected Office document", "open it with its password and save it without one"),
    ("WordDocument", "an old Word document (.doc)", _TO_DOCX),
    ("Workbook", "an old Excel workbook (.xls)", "save the sheets that matter as CSV or PDF"),
    ("PowerPoint Document", "an old PowerPoint presentation (.ppt)", "save it as PDF"),
    ("__substg1.0_", "an Outlook message (.msg)", "save it as text or HTML"),
)
_N_SNIFF = 1 << 16
_TEXT_CONTROLS = b"\t\n\r\f\b\x1b"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")


def refuse_binary(data: bytes, name: str) -> None:
    """Raises DocumentError, naming what it is, for everything that is no text."""
    if data.startswith(_OLE):
        what, remedy = "an old Office document", _TO_DOCX
        for stream, kind, way_out in _OLE_KINDS:
            if stream.encode("utf-16-le") in data:
                what, remedy = kind, way_out
                break
        _refuse(name, what, remedy)
    head = data[:_N_SNIFF]
    if b"\nMIME-Version:" in head[:4096] and b"multipart/related" in head[:4096]:
        _refuse(name, "a web archive (MHTML)", "save the page as HTML or PDF")
    for offset, magic, what, remedy in _MAGIC:
        if head[offset : offset + len(magic)] == magic and (magic not in _BINARY_FOLLOWS or _is_binary(head)):
            _refuse(name, what, remedy)
    if _is_binary(head) and not is_wide_text(head):
        raise DocumentError(
            f"{name} is binary data (it starts with bytes {data[:8].hex(' ')}); {READABLE} are read here"
        )


def is_wide_text(head: bytes) -> bool:
    """UTF-16 or UTF-32 text, which is full of zero bytes: by its mark, or as every second byte is zero."""
    if head.startswith(_WIDE_BOMS):
        return True
    if len(head) < 8:
        return False
    odd, even = head[1::2].count(0), head[0::2].count(0)
    return max(odd, even) >= 0.35 * len(head) and min(odd, even) <= 0.02 * len(head)


def _is_binary(head: bytes) -> bool:
    n_control = sum(head.count(byte) for byte in range(32) if byte not in _TEXT_CONTROLS)
    return b"\0" in head or n_control * 50 > len(head)


def _refuse(name: str, what: str, remedy: str) -> None:
    raise DocumentError(f"{name} is {what}, and {READABLE} are read here; {remedy.replace('FILE', name)}")
