"""How far a summary is and how long it will take: events in, numbers out. Knows no screen.

meter = Meter(task)
for event in summarize(...):
    meter.update(event)
    meter.fraction, meter.tokens_per_s, meter.eta_s, meter.title
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lacache_app.summarize.events import Place, Result, Stage
from lacache_app.summarize.task import N_READ_MAX, Task

_SMOOTH = 0.3  # weight of the newest measurement of a writing speed


class Meter:
    """Running totals over all stages. Every text is expected to be as long as the task allows."""

    def __init__(self, task: Task, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._task = clock, task
        self.title, self.index, self.n_stages, self.is_writing = "", 0, 1, False
        self.n_total = self.n_before = self.n_done = self.n_written = 0
        self.tokens_per_s = 0.0  # reading, new tokens only
        self.write_s = 0.0  # seconds that writing a token takes
        self._read_s, self._n_read = 0.0, 0
        self._stage_read: tuple[float, int] = (0.0, 0)
        self._n_stage = 0
        self._wrote_at: float | None = None

    def update(self, event: Any) -> None:
        """Take an event of `summarize` into account; what it does not know it ignores."""
        if isinstance(event, Stage):
            self._close_stage()
            self.title, self.index, self.n_stages = event.title, event.index, event.n_stages
            self.n_before, self.n_total, self.n_done, self.n_written = event.n_before, event.n_total, 0, 0
            self._n_stage = event.n_tokens
            self.is_writing, self._wrote_at = False, None
        elif isinstance(event, Result):
            self._close_stage()
            self.n_done, self.n_before, self.index = 0, self.n_total, self.n_stages
        elif hasattr(event, "n_done"):
            n_new = event.n_done - getattr(event, "n_before", 0)
            self.n_done, self._stage_read = event.n_done, (event.seconds, n_new)
            if self.n_stages == 1:
                self.n_total = event.n_total
            else:  # a stage counts what is in its text; the instructions around it and the template come on top
                self.n_done = round(self._n_stage * event.n_done / max(1, event.n_total))
            seconds, n_read = self._read_s + event.seconds, self._n_read + n_new
            self.tokens_per_s = n_read / seconds if seconds > 0 else 0.0
        elif hasattr(event, "token"):
            now = self._clock()
            if self._wrote_at is not None:
                spent = now - self._wrote_at
                known = self.write_s
                self.write_s = spent if not known else known + _SMOOTH * (spent - known)
            self.is_writing, self._wrote_at, self.n_written = True, now, self.n_written + 1
        elif isinstance(event, Place):
            self.n_written = 0

    def _close_stage(self) -> None:
        seconds, n_new = self._stage_read
        self._read_s, self._n_read, self._stage_read = self._read_s + seconds, self._n_read + n_new, (0.0, 0)

    @property
    def fraction(self) -> float:
        """Share of all text that was read, 0 .. 1."""
        return min(1.0, (self.n_before + self.n_done) / self.n_total) if self.n_total else 0.0

    @staticmethod
    def expected_s(n_tokens: float, task: Task, n_ctx: int, tokens_per_s: float, write_s: float) -> float:
        """About how many seconds a document of so many tokens will take at these speeds."""
        n_parts = 0.0
        if task.mode == "parts" and n_tokens > n_ctx / 2:
            n_parts = 1.25 * n_tokens / min(n_ctx / 2, N_READ_MAX)  # with the summaries of summaries
        return n_tokens / tokens_per_s + (n_parts * task.n_part + task.n_final) * write_s

    @property
    def eta_s(self) -> float | None:
        """Seconds left, reading and writing; None before anything was measured."""
        if self.tokens_per_s <= 0:
            return None
        n_left = max(0, self.n_total - self.n_before - self.n_done)
        n_texts = max(0, self.n_stages - self.index)
        n_all = (n_texts - 1) * self._task.n_part + self._task.n_final if n_texts else 0
        n_to_write = max(0, n_all - self.n_written)
        return n_left / self.tokens_per_s + n_to_write * self.write_s
