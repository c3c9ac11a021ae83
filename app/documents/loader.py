"""What a format has to bring. Knows no format.

PDF = Loader("pdf", (".pdf",), claims, load)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lacache_app.documents.document import Document
from lacache_app.documents.limits import Limits


@dataclass(frozen=True)
class Loader:
    """One format."""

    kind: str
    """What Document.kind says."""
    suffixes: tuple[str, ...]
    """Endings for file dialogs, nothing else."""
    claims: Callable[[bytes], bool]
    """Whether a file is of this format: a cheap look at its first bytes (or a zip file's list) that never raises."""
    load: Callable[[bytes, str, Limits], Document]
    """(data, name, limits) -> its Document, or DocumentError. Imports its heavy libraries when called."""
    is_safe: bool = False
    """Whether `load` may run in the app's own process: say why. The others run in a child process within limits."""
