"""Results of a run as lines of JSON, one for each finished item: what a later run need not do again.

What it is: `ResultLog`, which appends a line as soon as an item is done, and `provenance`, what ran and where.
What it does not know: what is measured. An item is told from another by its `identity`, plain values that decide its
result; commit and machine are written beside it and are no part of that.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from lacache_gguf.errors import StorageError, UsageError

FORMAT = 1
"""Changes when a line of an older version would be misread."""


class ResultLog:
    """The lines of one file, or of none (`path` None), in memory and on disk.

    resume: lines that are there are kept and found again; without it a file that exists is refused.
    Raises UsageError for a file that is no results file, StorageError if it cannot be written.
    """

    def __init__(self, path: Path | None, resume: bool, provenance: dict[str, Any]) -> None:
        self.path, self.provenance = path, provenance
        self.rows: dict[str, dict[str, Any]] = {}
        self.n_found = 0
        if path is None:
            return
        if path.exists() and path.stat().st_size:
            if not resume:
                raise UsageError(f"{path} exists; --resume goes on with it, or give another file")
            self._read(path)
            self.n_found = len(self.rows)
        self._append(b"")

    def find(self, identity: dict[str, Any]) -> dict[str, Any] | None:
        """The stored row of an item, or None."""
        return self.rows.get(item_id(identity))

    def add(self, identity: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
        """Store an item's values and return its row, at once and for good."""
        row = {"format": FORMAT, "id": item_id(identity), **identity, **values, "run": self.provenance}
        text = json.dumps(row, ensure_ascii=False, allow_nan=False)
        row = json.loads(text)  # exactly what a later run will find
        self._append(text.encode("utf-8") + b"\n")
        self.rows[row["id"]] = row
        return row

    def _append(self, line: bytes) -> None:
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _read(self, path: Path) -> None:
        """All whole lines; half a line at the end, of a run that was killed, is cut off."""
        try:
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):
                with path.open("r+b") as file:
                    file.truncate(len(whole))
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
        self.rows = rows_of(whole, str(path))


def rows_of(data: bytes, name: str) -> dict[str, dict[str, Any]]:
    """The rows of a results file by their ids. Raises UsageError, which calls the file `name`, if a line is none."""
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(data.splitlines(), 1):
        try:
            row = json.loads(line)
            rows[row["id"]] = row
            is_ours = row["format"] == FORMAT
        except (ValueError, KeyError, TypeError):
            is_ours = False
        if not is_ours:
            raise UsageError(f"{name}, line {number}, is no result of this version; give another file")
    return rows


def item_id(identity: dict[str, Any]) -> str:
    """Short name of an identity: the same values give the same."""
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:20]


def provenance() -> dict[str, Any]:
    """What runs, and where: versions, the commit of a checkout, the processor. No names of people or folders."""
    import numpy as np

    import lacache_gguf
    from lacache_gguf import native

    root = Path(lacache_gguf.__file__).resolve().parents[1]
    is_checkout = (root / ".git").exists() and (root / "patches" / "BASE").exists()
    commit = _git(root, "rev-parse", "HEAD") if is_checkout else ""
    is_changed = _git(root, "status", "--porcelain", "--", "lacache_gguf", "patches") if is_checkout else ""
    try:
        library = native.system_info().strip()
    except Exception:  # the unit tests have no library
        library = ""
    return {
        "version": lacache_gguf.__version__,
        "commit": commit or None,
        "changed": bool(is_changed),
        "library": library,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def _git(root: Path, *words: str) -> str:
    try:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
