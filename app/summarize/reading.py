"""A summary that an app shows while it is made: what to paint, from waiting to the end. Knows no gradio, no HTML.

reading = Reading(document, Task(mode="parts"), job=job).start(host)
for view in reading.views():          # closing this iterator stops it
    view.state, view.fraction, view.text
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lacache_app.summarize.events import Note, Place, Result, Stage
from lacache_app.summarize.meter import Meter
from lacache_app.summarize.task import SAMPLING, Task
from lacache_app.summarize.work import resume, summarize

from lacache_gguf.errors import LacacheError

if TYPE_CHECKING:
    from lacache_app.documents import Document
    from lacache_app.host import EngineHost
    from lacache_app.run import Run
    from lacache_app.summarize.job import Job

    from lacache_gguf.engine import Engine

SHOW_EVERY_S = 0.25


@dataclass(frozen=True)
class View:
    """What to show now. `state`: waiting | loading | reading | writing | done | stopped | failed."""

    state: str
    place: int = 0  # others that come first
    title: str = ""
    index: int = 0
    n_stages: int = 1
    fraction: float = 0.0
    tokens_per_s: float = 0.0
    eta_s: float | None = None
    text: str = ""  # Markdown so far
    note: str = ""
    error: str = ""
    result: Result | None = None

    @property
    def is_over(self) -> bool:
        """Whether this is the last one."""
        return self.state in ("done", "stopped", "failed")


class Reading:
    """One summary on the host's engine, for one reader. Without a document it goes on with the job."""

    def __init__(self, document: Document | None, task: Task, job: Job | None = None) -> None:
        self.document, self.task, self.job = document, task, job
        self.meter = Meter(task)
        self.run: Run[Any] | None = None
        self.fingerprint = b""  # of the tokens in the memory at the end
        self.chars_per_token = 0.0
        self._is_final = True
        self._places: list[Place] = []
        self._text = self._note = ""
        self._result: Result | None = None

    def start(self, host: EngineHost) -> Reading:
        """Queue it; returns itself."""
        self.run = host.start(self.work)
        return self

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.run is not None and self.run.is_over

    def stop(self) -> None:
        """End it behind the current ubatch or token; what was read is kept in the job. Returns at once."""
        if self.run:
            self.run.stop()

    def work(self, engine: Engine) -> Iterator[Any]:
        """For the host's thread: the events of the summary."""
        if self.document is None and self.job is not None:
            events = resume(engine, self.job)
        else:
            assert self.document is not None
            events = summarize(engine, self.document, self.task, job=self.job, **SAMPLING)
        try:
            for event in events:
                if isinstance(event, Result):
                    self.fingerprint = fingerprint(engine)
                yield event
        finally:
            events.close()

    def views(self, interval_s: float = SHOW_EVERY_S) -> Iterator[View]:
        """What to show, from now to the end. Errors are views. Closing it stops the reading."""
        assert self.run is not None, "start() it first"
        error = ""
        try:
            for batch in self.run.batches(interval_s):
                for event in batch:
                    self._take(event)
                if not self.run.is_over:
                    yield self._view(self._state())
        except LacacheError as reason:
            error = str(reason)
        except Exception as reason:  # a bug; the page says so and the app goes on
            error = f"internal error: {type(reason).__name__}: {reason}"
        yield self._view("failed" if error else self.run.state, error)

    def _take(self, event: Any) -> None:
        self.meter.update(event)
        if isinstance(event, Stage):
            self._is_final, self._text = event.is_final, ""
        elif isinstance(event, Place):
            self._places.append(event)
            self._text = ""
        elif isinstance(event, Note):
            self._note = event.text
        elif isinstance(event, Result):
            self._result = event
        elif hasattr(event, "token"):
            self._text += event.text
        elif self.document is not None and event.n_total > 256 and self.task.mode == "whole":
            self.chars_per_token = len(self.document.text) / event.n_total

    def _state(self) -> str:
        state = self.run.state if self.run else "waiting"
        if state == "running":
            return "writing" if self.meter.is_writing else "reading"
        return state

    def _view(self, state: str, error: str = "") -> View:
        meter = self.meter
        return View(
            state, self.run.place if self.run else 0, meter.title, meter.index, meter.n_stages, meter.fraction,
            meter.tokens_per_s, meter.eta_s, self._markdown(), self._note, error, self._result,
        )  # fmt: skip

    def _markdown(self) -> str:
        if self._result is not None:
            return self._result.text
        rows = [f"- **{place.name}:** {place.text}" for place in self._places]
        if self._is_final:
            return "\n\n".join(block for block in (self._text.strip(), "\n".join(rows)) if block)
        if self._text.strip():
            rows.append(f"- **{self.meter.title}:** {' '.join(self._text.split())} …")
        return "\n".join(rows)


def fingerprint(engine: Engine) -> bytes:
    """Of all tokens that the engine was fed: the same for the same memory."""
    return hashlib.sha256(engine.seen.tobytes()).digest()
