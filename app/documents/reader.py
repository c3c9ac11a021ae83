"""A path -> a Document: open the file, look what it is, have it parsed. Knows no formats.

read_document("report.pdf").label_at(12_345)      # "p. 7"
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from lacache_app.documents.child import parse_in_child
from lacache_app.documents.document import Document
from lacache_app.documents.limits import DocumentError, Limits
from lacache_app.documents.loaders import is_safe_here, load

STDIN = "standard input"


def read_document(path: str | Path, limits: Limits | None = None, *, name: str = "") -> Document:
    """Read a document of any format in LOADERS; "-" is standard input.

    `name` is what it is called in messages and in Document.name, by default the path as given.
    What has a parser runs in a child process within `limits`; plain text and Markdown are decoded here.

    Raises DocumentError for everything that cannot be read: missing, unreadable, a directory, empty, no document,
    encrypted, damaged, scanned, or over a limit. The text names the file and says what to do.
    """
    limits = limits or Limits()
    name = name or (STDIN if str(path) == "-" else str(path))
    data = _bytes(path, name, limits)
    if not data.strip():
        raise DocumentError(f"{name} is empty; there is nothing to read")
    if is_safe_here(data):
        return load(data, name, limits)
    return parse_in_child(data, name, limits)


def _bytes(path: str | Path, name: str, limits: Limits) -> bytes:
    """At most limits.file_bytes of a regular file, a pipe or standard input."""
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(limits.file_bytes + 1)
        else:
            with open(Path(path).expanduser(), "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
                    raise DocumentError(f"{name} is a device, not a file; give a file")
                data = file.read(limits.file_bytes + 1)
    except FileNotFoundError:
        raise DocumentError(f"no file {name!r}; check the path") from None
    except IsADirectoryError:
        raise DocumentError(f"{name} is a directory; give the files in it") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", "") or error
        if os.path.isdir(path):  # Windows calls it "permission denied"
            raise DocumentError(f"{name} is a directory; give the files in it") from None
        raise DocumentError(f"cannot read {name}: {reason}; check the path and its permissions") from error
    if len(data) > limits.file_bytes:
        raise DocumentError(
            f"{name} is larger than {limits.file_bytes / 2**20:,.0f} MiB, which no document needs; "
            "split it, or save its text alone"
        )
    return data
