"""Small writers of the formats that the documents package reads, by hand: what they write is known to the byte.

Nothing of the app is imported, and no library that it reads with.

    pdf([["First line", "second line"], ["Page two"]], outline=[("Chapter", 2)])      # bytes
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape

MIMETYPE = "application/epub+zip"
_PASSWORD_PADDING = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")
_PERMISSIONS = -44


def archive(entries: Mapping[str, str | bytes], is_packed: bool = False) -> bytes:
    """A zip file with these entries, in this order; the same bytes every time unless packed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in entries.items():
            entry = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED if is_packed else zipfile.ZIP_STORED
            entry.create_system = 3
            file.writestr(entry, content.encode() if isinstance(content, str) else content)
    return out.getvalue()


# ---- PDF -----------------------------------------------------------------------------------------------------------


class Picture:
    """A page that is a picture, as a scanner makes it."""


class Packed(bytes):
    """A page's content stream, deflated twice: a gigabyte takes a few kilobytes."""


def pdf(
    pages: Sequence[Sequence[str] | Picture | Packed],
    outline: Sequence[tuple[str, int]] = (),
    password: str | None = None,
    leading: int = 14,
) -> bytes:
    """Pages of lines of Helvetica (Windows-1252); an empty sequence is an empty page.

    `outline`: (title, page number from 1). `password`: what one needs to open it; "" encrypts it as "printing only"
    PDFs are, which open without one.
    """
    n_fixed = 5  # catalog, page tree, font, picture, outline
    bodies: list[bytes] = []
    page_numbers, outline_numbers = [], []
    for lines in pages:
        page_numbers.append(n_fixed + len(bodies) + 1)
        content, filters = b"", b""
        if isinstance(lines, Packed):
            content, filters = zlib.compress(zlib.compress(lines, 9), 9), b"/Filter [/FlateDecode /FlateDecode]"
        elif isinstance(lines, Picture):
            content = _picture_content()
        elif lines:
            content = _text_content(lines, leading)
        bodies.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents %d 0 R "
            b"/Resources << /Font << /F1 3 0 R >> /XObject << /P1 4 0 R >> >> >>" % (page_numbers[-1] + 1)
        )
        bodies.append(_stream(content, filters))
    for number, (title, page) in enumerate(outline):
        this = n_fixed + len(bodies) + 1
        outline_numbers.append(this)
        links = b" /Prev %d 0 R" % (this - 1) if number else b""
        links += b" /Next %d 0 R" % (this + 1) if number + 1 < len(outline) else b""
        bodies.append(
            b"<< /Title (%b) /Parent 5 0 R /Dest [%d 0 R /Fit]%b >>" % (_string(title), page_numbers[page - 1], links)
        )
    ends = (outline_numbers[0], outline_numbers[-1], len(outline)) if outline else ()
    fixed = [
        b"<< /Type /Catalog /Pages 2 0 R%b >>" % (b" /Outlines 5 0 R" if outline else b""),
        b"<< /Type /Pages /Count %d /Kids [%b] >>" % (len(pages), b" ".join(b"%d 0 R" % at for at in page_numbers)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        _stream(
            bytes(8), b"/Type /XObject /Subtype /Image /Width 8 /Height 8 /BitsPerComponent 1 /ColorSpace /DeviceGray"
        ),
        b"<< /Type /Outlines /First %d 0 R /Last %d 0 R /Count %d >>" % ends if outline else b"<< >>",
    ]
    return _file(fixed + bodies, password)


def _file(bodies: list[bytes], password: str | None) -> bytes:
    """Objects 1, 2, ... with cross-reference table and trailer, encrypted (RC4, 40 bits) if there is a password."""
    trailer = b"/Root 1 0 R"
    if password is not None:
        identity = hashlib.md5(b"sample").digest()
        owner = _rc4(hashlib.md5(_padded("owner")).digest()[:5], _padded(password))
        seed = _padded(password) + owner + _PERMISSIONS.to_bytes(4, "little", signed=True) + identity
        key = hashlib.md5(seed).digest()[:5]
        bodies = [_encrypted(body, number, key) for number, body in enumerate(bodies, 1)]
        bodies.append(
            b"<< /Filter /Standard /V 1 /R 2 /O <%b> /U <%b> /P %d >>"
            % (owner.hex().encode(), _rc4(key, _PASSWORD_PADDING).hex().encode(), _PERMISSIONS)
        )
        trailer += b" /Encrypt %d 0 R /ID [<%b> <%b>]" % (len(bodies), *[identity.hex().encode()] * 2)
    out, places = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n", []
    pieces = [out]
    n_out = len(out)
    for number, body in enumerate(bodies, 1):
        places.append(n_out)
        pieces.append(b"%d 0 obj\n%b\nendobj\n" % (number, body))
        n_out += len(pieces[-1])
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    pieces.append(b"xref\n0 %d\n0000000000 65535 f \n%b" % (len(bodies) + 1, table))
    pieces.append(b"trailer\n<< /Size %d %b >>\nstartxref\n%d\n%%%%EOF\n" % (len(bodies) + 1, trailer, n_out))
    return b"".join(pieces)


def _text_content(lines: Sequence[str], leading: int) -> bytes:
    shown = b"\n".join(b"(%b) Tj T*" % _string(line) for line in lines)
    return b"BT /F1 11 Tf %d TL 56 786 Td\n%b\nET" % (leading, shown)


def _picture_content() -> bytes:
    return b"q 480 0 0 700 56 70 cm /P1 Do Q"


def _stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<< %b /Length %d >>\nstream\n%b\nendstream" % (entries, len(content), content)


def _string(text: str) -> bytes:
    data = text.encode("cp1252")
    return data.replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")


def _padded(password: str) -> bytes:
    return (password.encode("latin-1") + _PASSWORD_PADDING)[:32]


def _encrypted(body: bytes, number: int, key: bytes) -> bytes:
    """The object with its stream encrypted; strings are only in outlines, which encrypted samples do not have."""
    head, mark, rest = body.partition(b"\nstream\n")
    if not mark:
        return body
    content = rest.removesuffix(b"\nendstream")
    own = hashlib.md5(key + number.to_bytes(3, "little") + bytes(2)).digest()[:10]
    return head + mark + _rc4(own, content) + b"\nendstream"


def _rc4(key: bytes, data: bytes) -> bytes:
    state = list(range(256))
    j = 0
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


# ---- DOCX ----------------------------------------------------------------------------------------------------------

_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml"
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'


def docx(body: str, extra: Mapping[str, str | bytes] | None = None, links: str = "", is_packed: bool = False) -> bytes:
    """A Word document around `body`, the XML inside w:body (see `paragraph`); `links`: more relationships of it."""
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="{name.replace(" ", "")}"><w:name w:val="{name}"/></w:style>'
        for name in ("Title", "heading 1", "heading 2", "heading 3")
    )
    return archive(
        {
            "[Content_Types].xml": f'{_HEAD}<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
            '<Default Extension="xml" ContentType="application/xml"/>'
            f'<Override PartName="/word/document.xml" ContentType="{_WORD}.document.main+xml"/></Types>',
            "_rels/.rels": _relationships(
                f'<Relationship Id="r1" Type="{_OFFICE}/officeDocument" Target="word/document.xml"/>'
            ),
            "word/_rels/document.xml.rels": _relationships(
                f'<Relationship Id="s1" Type="{_OFFICE}/styles" Target="styles.xml"/>{links}'
            ),
            "word/styles.xml": f"{_HEAD}<w:styles {_W}>{styles}</w:styles>",
            "word/document.xml": f"{_HEAD}<w:document {_W}><w:body>{body}</w:body></w:document>",
            **(extra or {}),
        },
        is_packed,
    )


def paragraph(text: str, style: str = "") -> str:
    """A paragraph of a Word document."""
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f'<w:p>{properties}<w:r><w:t xml:space="preserve">{escape(text)}</w:t></w:r></w:p>'


def table(rows: Iterable[Iterable[str]]) -> str:
    """A table of a Word document."""
    cells = ("".join(f"<w:tc>{paragraph(cell)}</w:tc>" for cell in row) for row in rows)
    return f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in cells)}</w:tbl>"


def _relationships(inside: str) -> str:
    return f'{_HEAD}<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{inside}</Relationships>'


# ---- EPUB ----------------------------------------------------------------------------------------------------------


def epub(
    chapters: Sequence[tuple[str, str]],
    contents: Sequence[tuple[str, str]] = (),
    version: int = 3,
    extra: Mapping[str, str | bytes] | None = None,
    is_packed: bool = False,
) -> bytes:
    """A book of (file name, XHTML inside body); `contents`: (title, file name with #fragment).

    Version 3 has its table of contents in nav.xhtml, version 2 in toc.ncx.
    """
    items = "".join(
        f'<item id="c{at}" href="{name}" media-type="application/xhtml+xml"/>' for at, (name, _) in enumerate(chapters)
    )
    if version == 3:
        items += '<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
        lines = "".join(f'<li><a href="{link}">{escape(title)}</a></li>' for title, link in contents)
        toc = {
            "OPS/nav.xhtml": xhtml(
                f'<nav xmlns:epub="http://www.idpf.org/2007/ops" epub:type="toc"><ol>{lines}</ol></nav>'
            )
        }
    else:
        items += '<item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>'
        points = "".join(
            f"<navPoint><navLabel><text>{escape(title)}</text></navLabel><content src={link!r}/></navPoint>"
            for title, link in contents
        )
        doctype = '<!DOCTYPE ncx PUBLIC "-//NISO//DTD ncx 2005-1//EN" "http://www.daisy.org/z3986/2005/ncx-2005-1.dtd">'
        ncx = "http://www.daisy.org/z3986/2005/ncx/"
        toc = {"OPS/toc.ncx": f'<?xml version="1.0"?>{doctype}<ncx xmlns="{ncx}"><navMap>{points}</navMap></ncx>'}
    spine = "".join(f'<itemref idref="c{at}"/>' for at in range(len(chapters)))
    return archive(
        {
            "mimetype": MIMETYPE,
            "META-INF/container.xml": '<?xml version="1.0"?>'
            '<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>',
            "OPS/book.opf": f'<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="{version}.0">'
            f"<manifest>{items}</manifest><spine>{spine}</spine></package>",
            **toc,
            **{f"OPS/{name}": xhtml(body) for name, body in chapters},
            **(extra or {}),
        },
        is_packed,
    )


def xhtml(body: str) -> str:
    """A chapter file."""
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<html xmlns="http://www.w3.org/1999/xhtml"><head><title>T</title>'
        f"<style>p {{ margin: 0 }}</style></head><body>{body}</body></html>"
    )
