"""Where the app keeps what must last: one folder that only its owner can read.

What it is: `data_dir`, the platform's place for it or the one that was asked for, and `move_aside` for what is damaged.
What it does not know: what lies in it. Chats are `chats.sqlite3`, reading jobs `jobs/`, settings `settings.json`,
uploads that are being worked on `uploads/`.

    folder = data_dir()                # ~/.local/share/lacache on Linux; LACACHE_DATA_DIR wins
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from lacache_gguf.errors import UsageError


def data_dir(chosen: str | Path | None = None) -> Path:
    """The app's folder, made with mode 0700 if it is not there: `chosen`, else LACACHE_DATA_DIR, else the platform's.

    Raises UsageError if it cannot be made or written to.
    """
    path = Path(chosen or os.environ.get("LACACHE_DATA_DIR") or _platform_dir()).expanduser().absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the data folder {path} cannot be made ({error}); choose another with --data-dir") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UsageError(f"the data folder {path} cannot be written to; choose another with --data-dir")
    return path


def move_aside(path: Path, *sides: str) -> Path:
    """Keep a damaged file, and those beside it whose names end in `sides`, under a name that is free; that name."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    names = (f"{path.stem}.damaged-{stamp}{n}{path.suffix}" for n in ("", *(f"-{i}" for i in range(1, 1000))))
    aside = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    for side in ("", *sides):
        old = path.with_name(path.name + side)
        if old.exists():
            old.rename(aside.with_name(aside.name + side))
    return aside


def _platform_dir() -> Path:
    from platformdirs import user_data_dir

    return Path(user_data_dir("lacache", appauthor=False))
