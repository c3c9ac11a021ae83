"""Documents that tests write into a file and let the app read: in a process of its own."""

from __future__ import annotations

from lacache_app.documents import read_document


def read(tmp_path, data, limits=None, name="f"):
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_document(tmp_path / name, limits, name=name)
