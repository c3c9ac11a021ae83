"""Works whose events a test lets through one by one, and what their readers get."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, ClassVar

from lacache_app.run import Run

WAIT_S = 30  # nothing takes this long, unless it hangs


class Gate:
    """A work whose every event waits for the test: `let(event)` gives one, `let(Gate.end)` ends it."""

    made: ClassVar[list[Gate]] = []

    def __init__(self) -> None:
        self.made.append(self)
        self._changed = threading.Condition()
        self._events: list[Any] = []
        self.started, self.closed = threading.Event(), threading.Event()
        self.n_given = 0
        self.thread: threading.Thread | None = None

    def let(self, *events: Any) -> None:
        with self._changed:
            self._events += events
            self._changed.notify_all()

    end = object()

    @classmethod
    def end_all(cls) -> None:
        for gate in cls.made:
            gate.let(cls.end)
        cls.made.clear()

    def __call__(self, engine: Any) -> Iterator[Any]:
        self.engine, self.thread = engine, threading.current_thread()
        self.started.set()
        try:
            while True:
                with self._changed:
                    assert self._changed.wait_for(lambda: self._events, WAIT_S)
                    event = self._events.pop(0)
                if event is self.end:
                    return
                if isinstance(event, Exception):
                    raise event
                self.n_given += 1
                yield event
        finally:
            self.closed.set()


def events(run: Run[Any]) -> list[Any]:
    return [event for batch in run.batches(0.01) for event in batch]


def numbers(n: int):
    return lambda _engine: iter(range(n))


def first_full(batches: Iterator[list[Any]]) -> list[Any]:
    return next(batch for batch in batches if batch)
