"""What must be said to Gradio and huggingface_hub before they are imported: no telemetry, nothing shared, our folder.

What it is: `prepare(data_dir)`, called once by `lacache app` and by tests that build the app.
What it does not know: the app. Importing this imports nothing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


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
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)
