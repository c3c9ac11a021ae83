"""What is prepared before Gradio is imported: a folder for uploads that a killed app does not fill for ever."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lacache_app.environment import UPLOAD_MAX_S, _remove_old


def test_uploads_of_a_killed_app_go_after_a_day(tmp_path: Path) -> None:
    old = time.time() - UPLOAD_MAX_S - 60
    elsewhere = tmp_path / "elsewhere"
    uploads = tmp_path / "uploads"
    for folder in (uploads / "old", uploads / "new", elsewhere):
        folder.mkdir(parents=True)
        (folder / "book.pdf").write_text("x")
    (uploads / "link").symlink_to(elsewhere)
    for path in (uploads / "old", elsewhere):
        os.utime(path, (old, old))
    _remove_old(uploads)
    assert sorted(path.name for path in uploads.iterdir()) == ["link", "new"]
    assert (elsewhere / "book.pdf").exists()
