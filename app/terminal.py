"""What the commands print: results on stdout, notes and bars on stderr; plain lines where stderr is no terminal.

What it is: `Terminal` (bars, streamed text, tables) and `stop_on_ctrl_c`. rich is imported when a bar is drawn.
What it does not know: models, engines, documents.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from lacache_app.wrap import WordWrap

if TYPE_CHECKING:
    from lacache_gguf.events import Progress

_LINE_EVERY_S = 10.0  # without a terminal: a line of progress as often as this
_N_BAR = 13  # columns that a reading bar needs at least
_N_TITLE = 28  # columns of what is being read
_BRIEF_S = 1.0  # reads that take less get no bar in a chat


class Terminal:
    """Output of one command. `out` carries results, `err` everything else."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.out, self.err = out or sys.stdout, err or sys.stderr
        self.is_tty = self.err.isatty() and os.environ.get("TERM") != "dumb"
        self._wrap = WordWrap(shutil.get_terminal_size().columns) if self.out.isatty() else None

    def note(self, text: str) -> None:
        """A line for the user that is no result."""
        print(text, file=self.err, flush=True)

    def write(self, text: str) -> None:
        """Part of the result, shown at once."""
        self.out.write(text)
        self.out.flush()

    def stream(self, text: str) -> None:
        """A piece of running text, shown at once; a terminal gets it broken between words."""
        self.write(self._wrap.push(text) if self._wrap else text)

    def end_stream(self) -> None:
        """The running text is over."""
        self.write((self._wrap.flush() if self._wrap else "") + "\n")

    def table(self, rows: Sequence[tuple[str, str]]) -> None:
        """Two aligned columns."""
        width = max(len(name) for name, _ in rows)
        self.write("".join(f"  {name:<{width}}  {value}\n" for name, value in rows))

    @contextmanager
    def reading(self, *, is_brief: bool = False) -> Iterator[Callable[..., None]]:
        """Progress of a read: yields a function to call with every Progress. The bar ends with the block or the read.

        Its second argument says what is being read; the default is "Reading".

        A brief one appears only if there is more than a second of reading to do, and disappears when it is done.
        """
        bar = _ReadingBar(self.err, is_brief) if self.is_tty else _ReadingLines(self.note)
        try:
            yield bar.update
        finally:
            bar.close()

    @contextmanager
    def downloading(self) -> Iterator[Callable[[str, int, int], None]]:
        """Progress of a download; shows nothing until the first bytes arrive."""
        bar = _DownloadBar(self.err) if self.is_tty else _DownloadLines(self.note)
        try:
            yield bar.update
        finally:
            bar.close()

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """A line such as "loading ..." that disappears when the block ends; nothing without a terminal."""
        if self.is_tty:
            self.err.write(text)
            self.err.flush()
        try:
            yield
        finally:
            if self.is_tty:
                self.err.write("\r\x1b[K")
                self.err.flush()


class _ReadingBar:
    """rich bar: tokens, speed, cells, compactions, time left."""

    def __init__(self, err: TextIO, is_brief: bool) -> None:
        self.err, self.is_brief, self.rich, self.task = err, is_brief, None, None
        if not is_brief:
            self._start()

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        numbers = TextColumn("{task.fields[numbers]}", style="none")
        columns = TextColumn("{task.description}"), BarColumn(bar_width=None), numbers
        console = Console(file=self.err)
        self.rich = Progress(*columns, console=console, expand=True, transient=self.is_brief)
        self.task = self.rich.add_task("Reading", total=None, numbers="")
        self.rich.start()

    def update(self, progress: Progress, title: str = "Reading") -> None:
        from rich.markup import escape

        if self.rich is None:
            if progress.n_done >= progress.n_total or progress.n_total < _BRIEF_S * progress.tokens_per_s:
                return
            self._start()
        title = title if len(title) <= _N_TITLE else f"{title[: _N_TITLE - 3]}..."
        numbers = _numbers(progress, self.rich.console.width - len(title))
        state = {"completed": progress.n_done, "total": progress.n_total, "numbers": numbers}
        self.rich.update(self.task, description=escape(title), **state)
        if progress.n_done >= progress.n_total:
            self.close()

    def close(self) -> None:
        if self.rich is not None:
            self.rich.stop()


class _ReadingLines:
    """The same as lines of text: one every few seconds, and one at the end of a read that took longer than that."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note, self.shown_at, self.n_shown = note, time.monotonic(), 0

    def update(self, progress: Progress, title: str = "Reading") -> None:
        is_due = time.monotonic() - self.shown_at >= _LINE_EVERY_S
        if is_due or (self.n_shown and progress.n_done >= progress.n_total):
            self.shown_at, self.n_shown = time.monotonic(), self.n_shown + 1
            self.note(f"{title}: {_numbers(progress)}")

    def close(self) -> None:
        pass


class _DownloadBar:
    def __init__(self, err: TextIO) -> None:
        self.err, self.rich, self.task = err, None, None

    def update(self, name: str, done: int, total: int) -> None:
        if self.rich is None:
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

            self.rich = Progress(
                "{task.description}", BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(),
                TimeRemainingColumn(), console=Console(file=self.err),
            )  # fmt: skip
            self.task = self.rich.add_task("", total=total)
            self.rich.start()
        self.rich.update(self.task, description=name.rpartition("/")[2], completed=done, total=total)

    def close(self) -> None:
        if self.rich is not None:
            self.rich.stop()


class _DownloadLines:
    def __init__(self, note: Callable[[str], None]) -> None:
        self.note, self.n_tenths = note, -1

    def update(self, name: str, done: int, total: int) -> None:
        n_tenths = 10 * done // total if total else 10
        if n_tenths > self.n_tenths:
            self.n_tenths = n_tenths
            self.note(f"downloading {name}: {mib(done)} of {mib(total)} ({10 * n_tenths} %)")

    def close(self) -> None:
        pass


def _numbers(progress: Progress, width: int = 200) -> str:
    """The counters beside a reading bar; the less important ones go first where the terminal is narrow."""
    speed = progress.tokens_per_s
    left = progress.eta_s
    parts = [
        f"{progress.n_done:,}/{progress.n_total:,} tokens",
        f"{speed:,.0f}/s",
        f"{progress.n_cells:,}/{progress.n_ctx:,} cells",
        f"{progress.n_compactions:,} compactions",
        f"{duration(left)} left",
    ]
    for least in (3, 2, 1):
        if len("  ".join(parts)) + _N_BAR <= width:
            break
        del parts[least]
    return "  ".join(parts)


def mib(n_bytes: float) -> str:
    """Bytes as MiB or GiB, three digits or so."""
    return f"{n_bytes / 2**30:,.2f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:,.1f} MiB"


def duration(seconds: float) -> str:
    """m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


class Stop:
    """`requested` becomes True when the user presses Ctrl-C."""

    requested = False


@contextmanager
def stop_on_ctrl_c() -> Iterator[Stop]:
    """In the block the first Ctrl-C only sets `requested`, so that work ends at a clean point; the next interrupts."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    previous = signal.signal(signal.SIGINT, on_signal)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
