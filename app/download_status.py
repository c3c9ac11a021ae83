"""How a download is getting on: a value to show, and the speed it is computed from.

What it is: `Status`, with its text, and `Speed`. What it does not know: threads, hubs, files.

    Status("user/repo:Q4_K_M", "running", n_done=2**29, n_total=2**31, bytes_per_s=2**20).text
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lacache_app.estimate import size_text

ACTIVE = ("looking", "running", "checking", "pausing")
_WINDOW_S = 5.0


@dataclass(frozen=True)
class Status:
    """One download as it stands. Sizes in bytes; `path` is set when it is done, `error` when it failed."""

    name: str
    state: str = "looking"  # looking | running | checking | pausing | paused | failed | done
    n_done: int = 0
    n_total: int = 0
    bytes_per_s: float = 0.0
    licence: str | None = None
    path: str = ""
    error: str = ""

    @property
    def is_active(self) -> bool:
        """Whether its thread is at work."""
        return self.state in ACTIVE

    @property
    def share(self) -> float:
        """How much is here, 0 to 1."""
        return self.n_done / self.n_total if self.n_total else 0.0

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the present speed; None if that is unknown."""
        return (self.n_total - self.n_done) / self.bytes_per_s if self.bytes_per_s > 0 else None

    @property
    def text(self) -> str:
        """Where it stands, in words."""
        amount = f"{size_text(self.n_done)} of {size_text(self.n_total)}" if self.n_total else ""
        if self.state == "looking":
            return "asking the hub"
        if self.state == "checking":
            return f"{amount}, comparing the checksum"
        if self.state == "failed":
            return self.error
        if self.state == "done":
            return f"{size_text(self.n_total)}, complete and verified"
        if self.state == "paused":
            return f"paused at {amount}" if amount else "paused"
        if self.state == "pausing":
            return f"{amount}, pausing"
        speed = f", {size_text(self.bytes_per_s)}/s" if self.bytes_per_s else ""
        return amount + speed + (f", {_duration(self.eta_s)} left" if self.eta_s is not None else "")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Speed:
    """Bytes per second over the last seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._points: list[tuple[float, int]] = []

    def at(self, n_bytes: int) -> float:
        """Count `n_bytes` as here now; the speed, 0 while it is unknown."""
        now = self._clock()
        self._points = [p for p in self._points if p[0] > now - _WINDOW_S and p[1] <= n_bytes]
        self._points.append((now, n_bytes))
        first_at, first = self._points[0]
        return (n_bytes - first) / (now - first_at) if now > first_at + 0.5 else 0.0
