"""What a run cost, for tables and for JSON. Pure: an engine's counters in, numbers out.

ledger = Ledger(engine)
for event in ledger.watch(summarize(engine, ...)): ...
counters(ledger.stats)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lacache_app.summarize.events import Stage

if TYPE_CHECKING:
    from lacache_gguf.engine import Engine
    from lacache_gguf.events import Stats

_SUMS = ("n_seen", "n_compactions", "n_evicted", "kv_bytes_full", "n_read", "n_decoded")
_PEAKS = ("n_cells_peak", "kv_bytes_used_peak")


class Ledger:
    """Counters over all stages of a summary: each begins with an empty memory and with the engine's counters at 0."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._before, self._n_stages = engine, None, 0

    def watch(self, events: Iterable[Any]) -> Iterator[Any]:
        """The same events; closing this does not close them."""
        for event in events:
            if isinstance(event, Stage):
                self._n_stages += 1
                if self._n_stages > 1:
                    self._before = self.stats
            yield event

    @property
    def stats(self) -> Stats:
        """Of the stages so far: sums, peaks, and what is in the memory now."""
        now, before = self._engine.stats, self._before
        if before is None:
            return now
        sums = {name: getattr(before, name) + getattr(now, name) for name in _SUMS}
        peaks = {name: max(getattr(before, name), getattr(now, name)) for name in _PEAKS}
        seconds = {name: value + before.seconds[name] * (name != "load") for name, value in now.seconds.items()}
        return replace(now, **sums, **peaks, seconds=seconds)


def counters(stats: Stats) -> dict[str, Any]:
    """What a run cost, for the table and for JSON: counts, MiB, tokens/s and seconds."""
    return {
        "n_seen": stats.n_seen,
        "n_ctx": stats.n_ctx,
        "n_cells_peak": stats.n_cells_peak,
        "n_compactions": stats.n_compactions,
        "n_evicted": stats.n_evicted,
        "compact_share": round(stats.compact_share, 6),
        "kv_mib_allocated": round(stats.kv_bytes / 2**20, 3),
        "kv_mib_used_peak": round(stats.kv_bytes_used_peak / 2**20, 3),
        "kv_mib_full_cache": round(stats.kv_bytes_full / 2**20, 3),
        "n_read": stats.n_read,
        "n_decoded": stats.n_decoded,
        "read_tokens_per_s": round(stats.read_tps, 2),
        "decode_tokens_per_s": round(stats.decode_tps, 2),
        "seconds": {name: round(value, 4) for name, value in stats.seconds.items()},
    }
