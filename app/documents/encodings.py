"""Bytes -> text: by byte order mark, else UTF-8, else a guess that the user is told of. Knows no formats.

decode(b"caf\xe9", "menu.txt")        # ("café", "menu.txt: byte 3 is not UTF-8; read as Windows-1252")
"""

from __future__ import annotations

import codecs
import re

from lacache_app.documents.limits import DocumentError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SHOWN = {f"cp{number}": f"Windows-{number}" for number in range(1250, 1259)}
_SHOWN |= {"iso8859_2": "Latin-2", "cp932": "Shift-JIS", "cp949": "Korean (CP949)", "cp866": "DOS (CP866)"}
_QUOTES = "„“”‘’«»‚–—…"
_LATIN = {  # letters that are frequent in the languages written with it; of equals the first wins
    "cp1252": "äöüÄÖÜßéèêëÉàâáçñíìîïóòôúùûæøåœõã¿¡€°§" + _QUOTES,
    "cp1250": "ąćęłńóśźżĄĆĘŁŃŚŹŻáčďéěíňřšťúůýžČŘŠŽőűäöüßâîșşţț" + _QUOTES,
    "cp1254": "çğıöşüÇĞİÖŞÜâîû" + _QUOTES,
    "iso8859_2": "ąćęłńóśźżĄĆĘŁŃŚŹŻáčďéěíňřšťúůýžČŘŠŽőűäöüßâîşţ",
}
_OTHER = (
    "cp1251", "koi8_r", "cp866", "cp1253", "cp1255", "cp1256", "cp932", "euc_jp", "gb18030", "big5", "cp949"
)  # fmt: skip
_TERMINAL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[^\n]\x08")  # colours, and letters struck over as in manual pages
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff\ufeff\ufffe\uffff]")


def decode(data: bytes, name: str, declared: str = "") -> tuple[str, str]:
    """(text, note) of bytes that are text; `declared` is an encoding that the file itself names, tried after UTF-8.

    The note says what was assumed, "" if nothing. Raises DocumentError for a byte order mark that lies.
    """
    encoding = encoding_of_bom(data)
    if encoding:
        try:
            return data.decode(encoding), "" if encoding == "utf-8-sig" else f"{name}: read as {encoding.upper()}"
        except UnicodeDecodeError as error:
            raise DocumentError(
                f"{name} starts like {encoding.upper()} text but is not ({error.reason}); save it as UTF-8"
            ) from error
    encoding = _utf16_without_bom(data)
    if encoding:
        return data.decode(encoding), f"{name}: read as UTF-16"
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        where = error.start
    if declared and is_encoding(declared):
        return data.decode(declared, "replace"), ""
    for encoding in (_guess(data, where), "cp1252"):
        try:
            text = data.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
        shown = _SHOWN.get(encoding, encoding.upper().replace("_", "-"))
        return text, f"{name}: byte {where:,} is not UTF-8; read as {shown}"
    return data.decode("latin-1"), f"{name}: byte {where:,} is not UTF-8; read as Latin-1"


def encoding_of_bom(data: bytes) -> str:
    """The encoding of the byte order mark with which `data` begins, or ""."""
    return next((encoding for bom, encoding in _BOMS if data.startswith(bom)), "")


def is_encoding(name: str) -> bool:
    """Whether Python knows a text encoding of this name."""
    try:
        return codecs.lookup(name)._is_text_encoding
    except (LookupError, ValueError):
        return False


def clean(text: str) -> str:
    """Line ends as \\n, without control characters and halves of surrogate pairs, which no tokenizer wants."""
    return _NOT_TEXT.sub("", _TERMINAL.sub("", text).replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n\n"))


def _utf16_without_bom(data: bytes) -> str:
    """UTF-16 as some Windows programs write it: every second byte of Western text is zero, and it decodes."""
    head = data[: 1 << 12]
    if len(head) < 8 or len(data) % 2:
        return ""
    odd, even = head[1::2].count(0), head[0::2].count(0)
    if max(odd, even) < 0.7 * len(head) / 2 or min(odd, even) > 0.02 * len(head):
        return ""
    encoding = "utf-16-le" if odd > even else "utf-16-be"
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return ""
    return encoding


def _guess(data: bytes, where: int) -> str:
    """A guess from 64 KiB around the first byte that is no UTF-8.

    charset-normalizer tells the scripts apart. Among the Latin encodings, which it confuses on short texts, the one
    wins whose letters are letters of its languages; a handful of bytes is no evidence and is Windows-1252.
    """
    sample = data[max(0, where - 1024) : where + (1 << 16)]
    foreign = sample.translate(None, bytes(range(128)))
    if len(foreign) >= 24:
        from charset_normalizer import from_bytes

        best = from_bytes(sample, cp_isolation=[*_LATIN, *_OTHER]).best()
        if best and best.encoding in _OTHER:
            return best.encoding
    return max(_LATIN, key=lambda encoding: sum(map(_LATIN[encoding].count, foreign.decode(encoding, "ignore"))))
