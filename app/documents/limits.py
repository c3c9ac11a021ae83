"""How much a document may cost, and the error that says it costs too much. Knows no formats.

read_document("book.epub", Limits(seconds=10))
"""

from __future__ import annotations

from dataclasses import dataclass

from lacache_gguf.errors import UsageError


class DocumentError(UsageError):
    """A file that cannot be read as a document; the text names the file, says why and what to do."""


@dataclass(frozen=True)
class Limits:
    """What reading one file may take. All are far above honest documents and far below what hurts.

    A 600-page book is about 5 MB as a file, 1.5 million characters, and takes a few seconds.
    """

    seconds: float = 120.0
    """Wall-clock time of the reading process; its processor time is limited to the same."""
    memory_bytes: int = 2 << 30
    """Memory of the reading process."""
    file_bytes: int = 256 << 20
    """Size of the file."""
    unpacked_bytes: int = 256 << 20
    """What the texts in a zip container (DOCX, EPUB) may unpack to, together."""
    ratio: int = 250
    """How many times larger than packed one entry above 1 MiB may unpack (text packs about 4 to 20 times)."""
    entries: int = 20_000
    """Files in a zip container."""
    pages: int = 20_000
    """Pages of a PDF, or chapter files of an EPUB."""
    nesting: int = 200
    """Elements inside elements: refused beyond it in XML; in HTML the tags beyond it are ignored, not the text."""
    characters: int = 20_000_000
    """Length of the text, about 12,000 pages."""


def check_length(n_characters: int, name: str, limits: Limits) -> None:
    """Raises DocumentError for a text over `limits.characters`."""
    if n_characters > limits.characters:
        raise DocumentError(
            f"{name} is too long: its text has more than {limits.characters:,} characters; split it into several files"
        )
