"""What must be said to Gradio and huggingface_hub before they are imported: no telemetry, nothing shared, our folder.

What it is: `prepare(data_dir)`, called once by `lacache app` and by tests that build the app.
What it does not know: the app. Importing this imports nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

UPLOAD_MAX_S = 24 * 3600
"""How long an uploaded file is kept: Gradio deletes those of a program that runs, `prepare` those of one that was
killed."""


def prepare(data_dir: Path) -> None:
    """What Gradio and huggingface_hub read from the environment when they are imported: no telemetry, our folder.

    Raises RuntimeError if Gradio is imported already: it would not see this.
    """
    if "gradio" in sys.modules:
        raise RuntimeError("gradio was imported before its environment was prepared")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["DO_NOT_TRACK"] = "1"
    os.environ["GRADIO_SSR_MODE"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    os.environ["GRADIO_MCP_SERVER"] = "False"
    os.environ["GRADIO_SHARE"] = "False"
    os.environ.pop("GRADIO_ALLOWED_PATHS", None)
    os.environ.pop("GRADIO_LOCAL_DEV_MODE", None)
    uploads = data_dir / "uploads"
    uploads.mkdir(mode=0o700, exist_ok=True)
    _remove_old(uploads)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)


def _remove_old(uploads: Path) -> None:
    """Delete what was uploaded more than a day ago; what cannot be deleted stays."""
    for path in uploads.iterdir():
        try:
            is_old = time.time() - path.lstat().st_mtime > UPLOAD_MAX_S
        except OSError:
            continue
        if is_old and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
