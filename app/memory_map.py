"""The memory map: which layers still hold which part of what was seen, taken from the engine's real cells.

What it is: `MemoryMap.observe(engine)`, called on the thread of the engine, makes an immutable `Snapshot` at most every
200 ms and never spends more than 2 % of the time on it; `snapshot`, `text` and `close_up` may be called from any
thread, also after the engine was closed. No policy's formula is used: every number is counted in `engine.held`.
What it does not know: gradio, HTTP, colours.

    memory_map = MemoryMap()
    for _ in engine.read(tokens):
        memory_map.observe(engine)
    snapshot = memory_map.snapshot()
    snapshot.overview.share         # uint8 [n_layer, n_bins], 255 = every token of the bin is held
    memory_map.text(1000, 1040)     # what stood there
"""

from __future__ import annotations

import codecs
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from lacache_app.memory_strips import (
    Strip,
    distinct_rows,
    n_traced,
    overview_bin_size,
    recent_strip,
    strip,
    whole_ends,
)

if TYPE_CHECKING:
    from lacache_gguf.engine import Engine
    from lacache_gguf.events import Stats

N_TEXT_TOKENS = 256
"""Most tokens that `text` and `close_up` look at."""
_N_TEXT_CHARS = 600
_INTERVAL_S = 0.2
_SHARE = 50  # at most 1/50 of the time goes into observing
_SPEED_WINDOW_S = 2.0


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One look at the memory. Counts are tokens (n_seen, n_first_whole, ...), cells (n_cells, n_ctx) or bytes.

    n_first_whole    first tokens that every layer still holds without a gap: what is pinned, and sinks
    n_newest_whole   newest tokens that every layer still holds without a gap
    n_traced         tokens of which at least one layer holds a cell
    """

    revision: int
    model: str
    policy: str
    n_layer: int
    n_ctx: int
    n_cells: int
    n_seen: int
    n_evicted: int
    n_compactions: int
    kv_bytes: int
    kv_bytes_used: int
    kv_bytes_full: int
    tokens_per_s: float
    n_first_whole: int
    n_newest_whole: int
    n_traced: int
    overview: Strip
    recent: Strip
    held: np.ndarray = field(repr=False)  # int32 [n_distinct, n_cells], a copy
    rows_of: np.ndarray = field(repr=False)  # intp [n_layer, n_head]: the row of `held` of every head
    seen: np.ndarray = field(repr=False)  # int32 [n_seen]

    @property
    def n_head(self) -> int:
        """KV heads of a layer that keep cells of their own; 1 where they go together."""
        return self.rows_of.shape[1]

    @property
    def share(self) -> np.ndarray:
        """uint8 [n_layer, n_bins] of the overview."""
        return self.overview.share

    @property
    def row_of(self) -> np.ndarray:
        """intp [n_layer]: the row of every layer in the strips."""
        return self.overview.row_of

    @property
    def n_bins(self) -> int:
        """Columns of `share`."""
        return self.overview.n_bins


@dataclass(frozen=True, eq=False)
class CloseUp:
    """Single tokens: pieces[i] is the text of token first + i ("" while a character is incomplete), n_kept uint8
    [n_layer, n] says how many of a layer's `Snapshot.n_head` heads hold it."""

    first: int
    pieces: tuple[str, ...]
    n_kept: np.ndarray


class MemoryMap:
    """Looks at an engine now and then, and remembers the latest look. See the module's docstring for threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._pieces: dict[int, bytes] = {}
        self._is_known = np.zeros(0, dtype=bool)  # [n_vocab so far]: whose piece is in the table
        self._model: str | None = None
        self._due = -float("inf")
        self._state: tuple[Any, ...] | None = None  # counters at the last call
        self._looked_at: tuple[Any, ...] | None = None  # ... and at the last look
        self._only: Engine | None = None
        self._speed: deque[tuple[float, int]] = deque()
        # grows over restarts of the program too: a page that was left open never mistakes new for known
        self._revision = int(time.time()) * 1000
        self.seconds = 0.0  # spent in observations so far
        self.n_observations = 0

    def observe(self, engine: Engine, force: bool = False) -> bool:
        """Look at `engine` if it is time to (or `force`); True if it did. On the thread that runs the engine.

        When nothing was fed since the last call, the work is over or a message begins: then what was left out meanwhile
        is caught up with, so that the latest look is never older than the last step.
        """
        if self._only is not None and engine is not self._only:
            return False
        now, stats = self._clock(), engine.stats
        state = (engine.model.name, engine.policy.name, stats.n_ctx, stats.n_seen, stats.n_cells, stats.n_compactions)
        is_pausing, self._state = state == self._state, state
        if not force and (state == self._looked_at or (now < self._due and not is_pausing)):
            return False
        start = time.perf_counter()
        snapshot, pieces = self._look(engine, stats, now)
        with self._lock:
            self._snapshot, self._pieces = snapshot, pieces
        self._looked_at = state
        spent = time.perf_counter() - start
        self._due = now + max(_INTERVAL_S, _SHARE * spent)
        self.seconds += spent
        self.n_observations += 1
        return True

    @contextmanager
    def watching(self, engine: Engine) -> Iterator[None]:
        """In the block only `engine` is looked at: another one that works beside the usual one."""
        self._only, self._due = engine, -float("inf")
        try:
            yield
        finally:
            self._only, self._due = None, -float("inf")

    def snapshot(self) -> Snapshot | None:
        """The latest look; None before the first one."""
        return self._snapshot

    def text(self, first: int, last: int) -> str:
        """The text of tokens first .. last - 1, a few hundred characters of it at most; "" outside of what was seen."""
        close_up = self.close_up(first, last)
        return "".join(close_up.pieces)[:_N_TEXT_CHARS] if close_up else ""

    def close_up(self, first: int, last: int) -> CloseUp | None:
        """Tokens first .. last - 1, `N_TEXT_TOKENS` of them at most, one by one; None if nothing was seen there."""
        with self._lock:
            snapshot, pieces = self._snapshot, self._pieces
        if snapshot is None:
            return None
        first = max(0, first)
        last = min(last, first + N_TEXT_TOKENS, snapshot.n_seen)
        if first >= last:
            return None
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        tokens = snapshot.seen[first:last].tolist()
        texts = tuple(decode(pieces.get(token, b""), i + 1 == len(tokens)) for i, token in enumerate(tokens))
        kept = np.zeros((len(snapshot.held), last - first), dtype=bool)
        for row, to in zip(snapshot.held, kept, strict=True):
            begin, end = np.searchsorted(row, (first, last))
            to[row[begin:end] - first] = True
        return CloseUp(first, texts, kept[snapshot.rows_of].sum(axis=1, dtype=np.uint8))

    # ---- on the engine's thread --------------------------------------------------------------------------------

    def _look(self, engine: Any, stats: Stats, now: float) -> tuple[Snapshot, dict[int, bytes]]:
        held, row_of = distinct_rows(engine.held)
        rows_of = row_of.reshape(engine.n_layer, -1)
        seen = np.asarray(engine.seen, dtype=np.int32)
        n_seen, n_cells = len(seen), held.shape[1]
        model = str(engine.model.name)
        pieces = self._learn(engine, model, seen)
        n_first, n_newest = whole_ends(held, n_seen)
        self._revision += 1
        snapshot = Snapshot(
            revision=self._revision,
            model=model,
            policy=engine.policy.name,
            n_layer=len(rows_of),
            n_ctx=stats.n_ctx,
            n_cells=n_cells,
            n_seen=n_seen,
            n_evicted=stats.n_evicted,
            n_compactions=stats.n_compactions,
            kv_bytes=stats.kv_bytes,
            kv_bytes_used=round(stats.kv_bytes * min(1.0, n_cells / stats.n_ctx)),
            kv_bytes_full=stats.kv_bytes_full,
            tokens_per_s=self._tokens_per_s(now, n_seen),
            n_first_whole=n_first,
            n_newest_whole=n_newest,
            n_traced=n_traced(held, n_seen),
            overview=strip(held, rows_of, 0, n_seen, overview_bin_size(n_seen)),
            recent=recent_strip(held, rows_of, n_seen, stats.n_ctx),
            held=held,
            rows_of=rows_of,
            seen=seen,
        )
        return snapshot, pieces

    def _learn(self, engine: Any, model: str, seen: np.ndarray) -> dict[int, bytes]:
        """Bytes of every token in `seen`: only tokens never met before cost a call into the library. While the model
        stays, the table is only added to, so other threads may read it meanwhile."""
        pieces = self._pieces
        if model != self._model:
            self._model, self._is_known, pieces = model, np.zeros(0, dtype=bool), {}
        n_vocab = int(seen.max()) + 1 if len(seen) else 0
        if n_vocab > len(self._is_known):
            self._is_known = np.append(self._is_known, np.zeros(n_vocab, dtype=bool))
        unknown = np.unique(seen[~self._is_known[seen]])
        for token in unknown.tolist():
            pieces[token] = engine.piece(token)
        self._is_known[unknown] = True
        return pieces

    def _tokens_per_s(self, now: float, n_seen: int) -> float:
        """Speed over the last two seconds of work; 0 when there was none."""
        speed = self._speed
        if speed and (n_seen < speed[-1][1] or now - speed[-1][0] > _SPEED_WINDOW_S):
            speed.clear()
        while len(speed) > 1 and now - speed[0][0] > _SPEED_WINDOW_S:
            speed.popleft()
        speed.append((now, n_seen))
        elapsed = now - speed[0][0]
        return (n_seen - speed[0][1]) / elapsed if elapsed > 0 else 0.0
