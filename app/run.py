"""One work in the queue of the engine's host: where it stands, its events, and the way to stop it.

What it is: `Run`, made by `EngineHost.start`. The host's thread puts events in, one reader takes them out in batches.
What it does not know: engines, what an event is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from lacache_app.host import EngineHost, EngineSettings

    from lacache_gguf.engine import Engine

T = TypeVar("T")
_SILENT_INTERVALS = 5  # a run without news gives an empty batch this rarely, so that its reader can be closed


class Run(Generic[T]):
    """One work in the queue: where it stands, its events, and the way to stop it. Made by `EngineHost.start`."""

    def __init__(
        self, host: EngineHost, work: Callable[[Engine], Iterator[T]], settings: EngineSettings | None
    ) -> None:
        self.work, self.settings = work, settings
        self.state = "waiting"  # waiting | loading | running | done | stopped | failed
        self.error: BaseException | None = None
        self._host = host
        self._changed = threading.Condition()
        self._events: list[T] = []
        self._last_type: type | None = None
        self._is_urgent = False
        self._stop = threading.Event()

    @property
    def place(self) -> int:
        """Runs before this one; 0 = it is its turn, or it is over."""
        return self._host._place(self)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ("done", "stopped", "failed")

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called; a work that does long steps of its own may look at it."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask the work to end; returns at once. It ends behind the current ubatch or token, or before it began."""
        self._stop.set()
        self._host._drop_waiting(self)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the run is over; False if it was not within the timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self.is_over, timeout_s)

    def batches(self, interval_s: float = 0.1) -> Iterator[list[T]]:
        """The events since the last batch, until the work is over.

        The first event, and the first of another type than the one before, comes at once; later ones are gathered for
        `interval_s`, so that drawing them does not slow the engine. When the state changes, and rarely while there is
        no news, the batch is empty. Raises the work's error. Closing the iterator stops the run.
        """
        try:
            next_at, shown = time.monotonic() + interval_s, self.state
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._is_urgent or self.is_over, max(0.0, next_at - time.monotonic())
                    )
                    is_over, state = self.is_over, self.state
                    events, self._events, self._is_urgent = self._events, [], False
                next_at = time.monotonic() + interval_s
                if not events and state == shown and not is_over:
                    with self._changed:
                        has_news = self._changed.wait_for(
                            lambda old=shown: self._events or self.state != old, (_SILENT_INTERVALS - 1) * interval_s
                        )
                        if has_news:
                            next_at = 0.0
                            continue
                shown = state
                if events or not is_over:
                    yield events
                if is_over:
                    break
            if self.error is not None:
                raise self.error
        finally:
            if not self.is_over:
                self.stop()

    # ---- called by the host's thread -------------------------------------------------------------------------------

    def _set(self, state: str, error: BaseException | None = None) -> None:
        with self._changed:
            self.state, self.error = state, error
            self._changed.notify_all()

    def _push(self, event: T) -> None:
        with self._changed:
            self._events.append(event)
            if type(event) is not self._last_type:
                self._last_type, self._is_urgent = type(event), True
            if self._is_urgent or len(self._events) == 1:
                self._changed.notify_all()
