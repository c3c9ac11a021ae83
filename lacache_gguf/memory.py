"""The memory of one sequence: how many cells it may hold, how many it holds, and when it is thinned.

Knows nothing of tokens' text, models or ctypes: a policy makes a plan, `compact` carries it out, this module counts.
Three counts never blur: `n_seen` tokens were ever fed, `n_cells` cells are in use, `pos_next` is the next position.

    memory = Memory(policy, n_layer=30, n_ctx=1024, compact=lambda keep: native.seq_compact(ctx, keep))
    memory.make_room(128)     # before the ubatch
    memory.advance(128)       # after it
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from lacache_gguf.errors import MemoryFull, UsageError
from lacache_gguf.policies import Policy, View


class Memory:
    """Counts cells and calls the policy; the budget `n_ctx` is never exceeded, the newest token included."""

    def __init__(self, policy: Policy, n_layer: int, n_ctx: int, compact: Callable[[np.ndarray], None]) -> None:
        """`compact(keep)` executes a plan, keep int32 [n_layer, n_kept]. Raises PolicyError for impossible settings."""
        policy.check(n_layer, n_ctx)
        self.policy = policy
        self.n_layer = n_layer
        self.n_ctx = n_ctx
        self._compact = compact
        self._held = np.zeros((n_layer, n_ctx), dtype=np.int32)
        self.reset()

    def reset(self) -> None:
        """Forget everything; the caller clears the KV cache itself."""
        self.n_seen = 0
        self.n_cells = 0
        self.n_cells_peak = 0
        self.n_pinned = 0
        self.n_compactions = 0
        self.seconds_compact = 0.0
        self._cursor = 0
        self._sweep = 0

    @property
    def pos_next(self) -> int:
        """Position of the next token: cell i has position i in every layer."""
        return self.n_cells

    @property
    def n_evicted(self) -> int:
        """Cells dropped so far, the same number in every layer."""
        return self.n_seen - self.n_cells

    @property
    def held(self) -> np.ndarray:
        """Which token (counted from 0 as fed) every cell holds: int32 [n_layer, n_cells], a read-only view."""
        view = self._held[:, : self.n_cells]
        view.flags.writeable = False
        return view

    def pin(self, n_pinned: int) -> None:
        """Never thin the first `n_pinned` tokens. Raises PolicyError if the rest of the budget is too small then."""
        if n_pinned < 0:
            raise UsageError(f"n_pinned is {n_pinned}; it must not be negative")
        self.policy.check(self.n_layer, self.n_ctx, n_pinned)
        self.n_pinned = n_pinned

    def n_read(self, n_ubatch: int) -> int:
        """Tokens to feed at a time while reading: an eighth of the budget at most, so that old cells are thinned
        gently, and no more than the policy can free at once."""
        return max(1, min(n_ubatch, self.n_ctx // 8, self._n_free_max() or n_ubatch))

    @property
    def n_block(self) -> int:
        """Cells to free at a time, so that many tokens share the price of a compaction: an eighth of the budget, 64 at
        least, a quarter at most."""
        return min(max(64, self.n_ctx // 8), self.n_ctx // 4)

    def make_room(self, n_tokens: int, n_block: int | None = None) -> bool:
        """Make `n_tokens` cells free, at least `n_block` (None: the property) when it has to; True if it compacted.

        Raises MemoryFull if the policy cannot free them.
        """
        n_need = self.n_cells + n_tokens - self.n_ctx
        if n_need <= 0:
            return False
        if n_tokens > self.n_ctx:
            raise MemoryFull(f"{n_tokens} tokens at once do not fit into {self.n_ctx} cells; use a smaller ubatch")
        n_free = max(n_need, min(self.n_block if n_block is None else n_block, self._n_free_max()))
        start = time.perf_counter()
        plan = self.policy.plan(
            View(self.n_layer, self.n_cells, n_free, self.n_pinned, cursor=self._cursor, sweep=self._sweep)
        )
        n_kept = plan.keep.shape[1]
        self._compact(plan.keep)
        self._held[:, :n_kept] = np.take_along_axis(self._held, plan.keep, axis=1)
        self._cursor, self._sweep = plan.cursor, plan.sweep
        self.n_cells = n_kept
        self.n_compactions += 1
        self.seconds_compact += time.perf_counter() - start
        return True

    def advance(self, n_tokens: int) -> None:
        """`n_tokens` were written behind the last cell."""
        end = self.n_cells + n_tokens
        self._held[:, self.n_cells : end] = np.arange(self.n_seen, self.n_seen + n_tokens, dtype=np.int32)
        self.n_cells = end
        self.n_seen += n_tokens
        self.n_cells_peak = max(self.n_cells_peak, end)

    def _n_free_max(self) -> int:
        return self.policy.n_free_max(self.n_layer, self.n_ctx, self.n_pinned)
