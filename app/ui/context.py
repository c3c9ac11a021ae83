"""What every tab gets: the host of the engine, the stores, and the runs of every visitor.

What it is: values that are made once at the start (`make_context`) and passed on; nothing in the UI is global.
What it does not know: components. `Shared` in lacache_app.ui has those that tabs share.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacache_app.host import EngineHost, EngineSettings
from lacache_app.run import Run

if TYPE_CHECKING:
    from lacache_app.downloads import Downloads
    from lacache_app.memory_map import MemoryMap
    from lacache_app.store import Store


class Runs:
    """The run that each visitor started last in each tab, for the Stop buttons; safe from any thread.

    A visitor is a `gr.Request.session_hash`, a tab its ID; both are texts. Runs that are over are forgotten.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[tuple[str, str], Run[Any]] = {}

    def set(self, session: str | None, run: Run[Any], kind: str = "") -> None:
        """Remember the run that this visitor started."""
        with self._lock:
            self._runs = {key: other for key, other in self._runs.items() if not other.is_over}
            self._runs[session or "", kind] = run

    def get(self, session: str | None, kind: str = "") -> Run[Any] | None:
        """The run that this visitor started last there, None if it is over."""
        with self._lock:
            run = self._runs.get((session or "", kind))
        return None if run is None or run.is_over else run

    def stop(self, session: str | None, kind: str | None = None) -> bool:
        """Stop this visitor's run of that kind, None = all of them. Returns at once; whether there was one to stop."""
        with self._lock:
            keys = [key for key in self._runs if key[0] == (session or "") and kind in (None, key[1])]
            runs = [self._runs.pop(key) for key in keys]
        for run in runs:
            run.stop()
        return any(not run.is_over for run in runs)

    def __setitem__(self, session: str | None, run: Run[Any]) -> None:
        self.set(session, run)

    def __getitem__(self, session: str | None) -> Run[Any]:
        run = self.get(session)
        if run is None:
            raise KeyError(session)
        return run

    def __iter__(self) -> Iterator[Run[Any]]:
        with self._lock:
            return iter(list(self._runs.values()))


@dataclass(frozen=True)
class Context:
    """Everything a tab may use."""

    host: EngineHost
    store: Store
    data_dir: Path
    memory_map: MemoryMap
    downloads: Downloads
    runs: Runs = field(default_factory=Runs)

    def close(self) -> None:
        """The end of the program: free the engine, pause the downloads, close the store."""
        self.host.shutdown()
        self.downloads.close()
        self.store.close()


def make_context(settings: EngineSettings, data_dir: Path) -> Context:
    """Open the stores in `data_dir` and make a host for an engine with these settings; nothing is loaded yet."""
    from lacache_app.downloads import Downloads
    from lacache_app.memory_map import MemoryMap
    from lacache_app.store import Store

    memory_map = MemoryMap()
    host = EngineHost(settings, observe=memory_map.observe)
    return Context(host, Store(data_dir / "chats.sqlite3"), data_dir, memory_map, Downloads(data_dir))
