"""Documents that tests write into a file and let the app read, in a process of its own; what holds of each."""

from __future__ import annotations

import itertools

from lacache_app.documents import Document, read_document


def read(tmp_path, data, limits=None, name="f"):
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_document(tmp_path / name, limits, name=name)


def assert_parts_cover(document: Document) -> None:
    """The parts of a document follow each other without a gap, from its first character to its last."""
    assert document.parts[0].start == 0
    assert document.parts[-1].end == len(document.text)
    assert all(before.end == after.start for before, after in itertools.pairwise(document.parts))
