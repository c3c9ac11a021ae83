"""What the engine tells while it works: values, no behaviour. One file so that a UI needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """After every ubatch of a read: tokens done and to do, cells in use, and how fast.

    `n_before` of the `n_done` tokens were in the memory when this call began (a conversation that goes on, a read that
    was stopped or came from a checkpoint); speed counts the others.
    """

    n_done: int
    n_total: int
    n_cells: int
    n_ctx: int
    n_compactions: int
    seconds: float  # of this call
    n_before: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Reading speed of this call so far, compactions included."""
        return (self.n_done - self.n_before) / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta_s(self) -> float:
        """Seconds until the read is done at the speed so far; 0 when it is done or nothing is known yet."""
        speed = self.tokens_per_s
        return (self.n_total - self.n_done) / speed if speed > 0 else 0.0


@dataclass(frozen=True)
class Step:
    """One generated token; `text` is "" while a character is incomplete or a stop string may be starting."""

    token: int
    text: str
    logprob: float | None = None
    top_logprobs: list[tuple[int, float]] | None = None
    finish_reason: str | None = None  # None | "stop" | "length"; set on the last step only


@dataclass(frozen=True)
class Stats:
    """Counters of an engine, taken from what really happened; bytes and seconds."""

    n_ctx: int
    n_seen: int
    n_cells: int
    n_cells_peak: int
    n_compactions: int
    n_evicted: int
    pos_next: int
    kv_bytes: int  # allocated, constant
    kv_bytes_used_peak: int
    kv_bytes_full: int  # what a full cache of n_seen cells would have needed in the same types
    n_read: int
    n_decoded: int
    finish_reason: str | None
    seconds: dict[str, float] = field(default_factory=dict)  # load, read, decode, sample, compact

    @property
    def read_tps(self) -> float:
        """Tokens read per second, compactions included."""
        return self.n_read / self.seconds["read"] if self.seconds["read"] > 0 else 0.0

    @property
    def decode_tps(self) -> float:
        """Tokens generated per second: decoding, sampling and compactions."""
        spent = self.seconds["decode"] + self.seconds["sample"]
        return self.n_decoded / spent if spent > 0 else 0.0

    @property
    def compact_share(self) -> float:
        """Share of the working time (read, decode, sample) that went into compactions, 0 .. 1."""
        spent = self.seconds["read"] + self.seconds["decode"] + self.seconds["sample"]
        return self.seconds["compact"] / spent if spent > 0 else 0.0
