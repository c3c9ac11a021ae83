"""Items one after the other: what is stored is not run again, what is done is stored at once, Ctrl-C ends it cleanly.

What it is: `Item` (an identity and a function that measures it) and `run`. Items that share work, such as one full
cache that several memories are compared with, have a `batch` in common and are measured together.
What it does not know: what is measured, screens, files.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from lacache_app.evaluate.results import ResultLog, item_id

from lacache_gguf.errors import LacacheError
from lacache_gguf.events import Progress

if TYPE_CHECKING:
    from lacache_gguf.engine import Engine

Tick = Callable[[int, "Engine"], None]
"""Called with so many more tokens done, and the engine that did them; raises Stopped when it shall end."""


class Stopped(Exception):
    """The user wants to end the run."""


class Batch(Protocol):
    """Measures some of its items together: values for each, or why it cannot be. One object for all of them."""

    def __call__(self, items: Sequence[Item], tick: Tick) -> list[dict[str, Any] | LacacheError]: ...


@dataclass(frozen=True)
class Item:
    """One measurement: `identity` are the plain values that decide its result, `n_tokens` what it has to read.

    Exactly one of `measure` and `batch` is set.
    """

    title: str
    identity: dict[str, Any]
    n_tokens: int
    measure: Callable[[Tick], dict[str, Any]] | None = field(default=None, compare=False)
    batch: Batch | None = field(default=None, compare=False)

    @property
    def id(self) -> str:
        """Short name of the identity."""
        return item_id(self.identity)


@dataclass
class Run:
    """What came out: rows by item id, why others were refused, and whether the user ended it."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    is_stopped: bool = False


def run(
    items: Sequence[Item],
    log: ResultLog,
    on_progress: Callable[[Progress, str], None] = lambda progress, title: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Run:
    """Measure what is not stored yet. What an item refuses (a LacacheError) is told, and the next one has its turn."""
    result, todo = Run(), []
    for item in {item.id: item for item in items}.values():
        if (row := log.find(item.identity)) is None:
            todo.append(item)
        else:
            result.rows[item.id] = row
    meter = _Meter(todo, on_progress, is_stopped)
    for _, group in itertools.groupby(todo, lambda item: id(item.batch) if item.batch else item.id):
        items = list(group)
        begin = time.monotonic()
        try:
            meter.begin(items)
            values = _measure(items, meter.tick)
        except Stopped:
            result.is_stopped = True
            break
        seconds = round(time.monotonic() - begin, 2)
        for item, value in zip(items, values, strict=True):
            if isinstance(value, LacacheError):
                result.refused[item.id] = str(value)
            else:
                result.rows[item.id] = log.add(item.identity, {**value, "seconds": seconds})
    return result


def _measure(items: Sequence[Item], tick: Tick) -> list[dict[str, Any] | LacacheError]:
    try:
        if items[0].batch is not None:
            return items[0].batch(items, tick)
        return [items[0].measure(tick)]  # type: ignore[misc]
    except LacacheError as error:
        return [error] * len(items)


class _Meter:
    """Progress over all items, in tokens."""

    def __init__(
        self, items: Sequence[Item], on_progress: Callable[[Progress, str], None], is_stopped: Callable[[], bool]
    ) -> None:
        self._items, self._on_progress, self._is_stopped = items, on_progress, is_stopped
        self._n_total, self._start = sum(item.n_tokens for item in items), time.monotonic()
        self._number = self._n_before = self._n_item = self._n_now = 0
        self._title = ""

    def begin(self, items: Sequence[Item]) -> None:
        """The next items' turn. Raises Stopped."""
        if self._is_stopped():
            raise Stopped
        self._n_before += self._n_now
        self._number += len(items)
        self._n_item, self._n_now = 0, sum(item.n_tokens for item in items)
        self._title = f"{self._number}/{len(self._items)} {items[0].title}"

    def tick(self, n_new: int, engine: Engine) -> None:
        """So many more tokens of these items are done. Raises Stopped."""
        self._n_item += n_new
        stats = engine.stats
        n_done = self._n_before + min(self._n_item, self._n_now)
        seconds = time.monotonic() - self._start
        progress = Progress(n_done, self._n_total, stats.n_cells, stats.n_ctx, stats.n_compactions, seconds)
        self._on_progress(progress, self._title)
        if self._is_stopped():
            raise Stopped
