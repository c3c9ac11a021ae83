"""The memory of one sequence: how many cells it may hold, how many it holds, and when it is thinned.

Knows nothing of tokens' text, models or ctypes: a policy makes a plan, `compact` carries it out, this module counts. A
policy with a `Need` is shown scores, which `score` gives (`scores.py`, `votes.py`, `arrival.py`).
Three counts never blur: `n_seen` tokens were ever fed, `n_cells` cells are in use, `pos_next` is the next position
(`numbering.py`).

    memory = Memory(policy, n_layer=30, n_ctx=1024, compact=lambda keep: native.seq_compact(ctx, keep))
    memory.make_room(128)     # before the ubatch
    memory.advance(128)       # after it
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from lacache_gguf.arrival import ArrivalScores
from lacache_gguf.errors import MemoryFull, UsageError
from lacache_gguf.numbering import InCache, Numbering, Original
from lacache_gguf.policies import Need, Policy, View, is_per_head, n_pos_of, needs_of
from lacache_gguf.policies.plan import ScoreKind
from lacache_gguf.rows import taken
from lacache_gguf.scores import Scores
from lacache_gguf.votes import Votes

_COUNTERS = ("n_seen", "n_cells", "n_cells_peak", "n_pinned", "n_compactions", "seconds_compact", "cursor", "sweep")


class Memory:
    """Counts cells and calls the policy; the budget `n_ctx` is never exceeded, the newest token included."""

    def __init__(
        self,
        policy: Policy,
        n_layer: int,
        n_ctx: int,
        compact: Callable[[np.ndarray], None],
        check_freed: Callable[[int], None] = lambda n_freed: None,
        *,
        n_head_kv: int = 1,
        score: Callable[[Need, int], np.ndarray] | None = None,
        n_votes: Callable[[], int] | None = None,
        thin: Callable[[np.ndarray], None] | None = None,
        turn: Callable[[np.ndarray, int], None] | None = None,
        n_ctx_train: int = 1 << 24,
    ) -> None:
        """`compact(keep)` executes a plan, keep int32 [n_layer, n_kept] or [n_layer, n_head_kv, n_kept], and numbers
        cells anew; `check_freed(n)` raises if n cells freed at a time are too few. For policies with a need,
        `score(need, first)` gives float32 [n_layer, n_head_kv, n_cells - first], and `n_votes()` the queries behind it;
        the age of cells the memory knows itself.
        Where keys keep positions, `thin(keep)` executes a plan instead, and `turn(turn, shift)`, turn [n_layer, n_head,
        n_cells], moves them down before `n_ctx_train` is left. Raises PolicyError for impossible settings.
        """
        self.policy = policy
        self.n_layer = n_layer
        self.n_ctx = n_ctx
        self.n_head_kv = n_head_kv
        self.n_head = n_head_kv if is_per_head(policy) else 1  # rows of `held` per layer
        n_rows, n_pos = n_layer * self.n_head, n_pos_of(policy, n_ctx, n_ctx_train)
        keeps_pos = n_pos > 0
        self._numbering: Numbering = Original(n_rows, n_ctx, n_pos) if keeps_pos else InCache()
        self._compact, self._turn = thin if keeps_pos and thin else compact, turn
        self._check_freed = check_freed
        if keeps_pos:  # keys turn when positions are used up
            n_between = n_pos - n_ctx  # tokens
            self._check_freed = lambda n_freed: check_freed(max(n_freed, n_between))
        self._check(0)
        self._held = np.zeros((n_rows, n_ctx), dtype=np.int32)
        shape, ask = (n_layer, n_head_kv, n_ctx), score or _nobody
        self._scores: list[Scores] = []
        for need in needs_of(policy):
            if need.kind == "attention":
                self._scores.append(Votes(need, *shape, ask, n_votes))
            elif need.kind == "keydiff" and (need.once or keeps_pos):
                self._scores.append(ArrivalScores(need, *shape, ask))
            else:
                self._scores.append(Scores(need, *shape, self._age if need.kind == "age" else ask))
        self.reset()

    def reset(self) -> None:
        """Forget everything; the caller clears the KV cache itself."""
        self.n_seen = 0
        self.n_cells = 0
        self.n_cells_peak = 0
        self.n_pinned = 0
        self.n_compactions = 0
        self.seconds_compact = 0.0
        self.cursor = 0
        self.sweep = 0
        self._numbering.reset()
        for scores in self._scores:
            scores.reset()

    @property
    def pos_next(self) -> int:
        """Position of the next token."""
        return self._numbering.pos_next

    @property
    def n_evicted(self) -> int:
        """Cells dropped so far, the same number in every layer."""
        return self.n_seen - self.n_cells

    @property
    def held(self) -> np.ndarray:
        """Which token (counted from 0 as fed) every cell holds: int32 [n_layer * n_head, n_cells], a read-only view.

        n_head is 1, and a row a layer, unless every KV head keeps cells of its own: row il * n_head + i then.
        """
        view = self._held[:, : self.n_cells]
        view.flags.writeable = False
        return view

    def wants(self, kind: ScoreKind) -> bool:
        """True if the policy wants to see this kind of score."""
        return any(scores.need.kind == kind for scores in self._scores)

    def pin(self, n_pinned: int) -> None:
        """Never thin the first `n_pinned` tokens. Raises PolicyError if the rest of the budget is too small then."""
        if n_pinned < 0:
            raise UsageError(f"n_pinned is {n_pinned}; it must not be negative")
        self._check(n_pinned)
        self.n_pinned = n_pinned

    def _check(self, n_pinned: int) -> None:
        self.policy.check(self.n_layer, self.n_ctx, n_pinned)
        n_freed = min(self.n_block, self.policy.n_free_max(self.n_layer, self.n_ctx, n_pinned))
        if n_freed > 0:  # else nothing is ever thinned
            self._check_freed(n_freed)

    def n_read(self, n_ubatch: int) -> int:
        """Tokens to feed at a time while reading: an eighth of the budget at most, so that old cells are thinned
        gently, and no more than the policy can free at once."""
        return max(1, self.n_at_once(min(n_ubatch, self.n_ctx // 8)))

    def n_at_once(self, n_most: int, n_pinned: int | None = None) -> int:
        """Tokens, `n_most` at most, that room can always be made for, however many cells are in use, with `n_pinned`
        first cells that stay (None: as many as now).

        A policy of whole rungs cannot free every number of cells, and the less, the fewer there are. One that never
        thins is no limit: it says itself when it is full.
        """

        def n_free(n_cells: int) -> int:
            return self.policy.n_free_max(self.n_layer, n_cells, self.n_pinned if n_pinned is None else n_pinned)

        if not n_free(self.n_ctx):
            return n_most
        return min([n_most, *(n + n_free(self.n_ctx - n) for n in range(n_most))])

    @property
    def n_block(self) -> int:
        """Cells to free at a time, so that many tokens share the price of a compaction: an eighth of the budget, 64 at
        least, a quarter at most."""
        return min(max(64, self.n_ctx // 8), self.n_ctx // 4)

    def has_room(self, n_tokens: int) -> bool:
        """True if so many cells are free: nothing need be thinned for them."""
        return self.n_cells + n_tokens <= self.n_ctx

    def make_room(self, n_tokens: int, n_block: int | None = None) -> bool:
        """Make `n_tokens` cells free, at least `n_block` (None: the property) when it has to; True if it compacted.

        Raises MemoryFull if the policy cannot free them.
        """
        start = time.perf_counter()
        has_compacted = self._compacted(n_tokens, n_block)
        down = self._numbering.turn_down(self.n_cells, n_tokens)
        if down is not None:
            turn, shift = down
            votes = self.votes()  # native code forgets queries whose keys have turned
            if self._turn is not None:
                self._turn(turn.reshape(self.n_layer, self.n_head, -1), shift)
            self._numbering.turned(turn, shift)
            if self._voted:
                self._voted.retract(self.n_cells, 0, *votes)
        if has_compacted or down is not None:
            self.seconds_compact += time.perf_counter() - start
        return has_compacted

    def _compacted(self, n_tokens: int, n_block: int | None) -> bool:
        if self.has_room(n_tokens):
            return False
        if n_tokens > self.n_ctx:
            raise MemoryFull(f"{n_tokens} tokens at once do not fit into {self.n_ctx} cells; use a smaller ubatch")
        n_most = self.policy.n_free_max(self.n_layer, self.n_cells, self.n_pinned)  # of the cells in use, not of all
        n_free = max(self.n_cells + n_tokens - self.n_ctx, min(self.n_block if n_block is None else n_block, n_most))
        plan = self.policy.plan(
            View(
                n_layer=self.n_layer,
                n_cells=self.n_cells,
                n_free=n_free,
                n_pinned=self.n_pinned,
                cursor=self.cursor,
                sweep=self.sweep,
                n_head_kv=self.n_head_kv,
                scores=self._look(),
            )
        )
        n_kept = plan.n_kept
        self._compact(plan.keep)
        rows = plan.keep.reshape(-1, n_kept)
        self._held[:, :n_kept] = taken(self._held, rows)
        self._numbering.move(rows)
        for scores in self._scores:
            scores.move(plan.keep)
        self.cursor, self.sweep = plan.cursor, plan.sweep
        self.n_cells = n_kept
        self.n_compactions += 1
        return True

    def _age(self, _need: Need, _first: int) -> np.ndarray:
        """Minus the tokens fed after each cell's: float32 [n_layer, n_head_kv, n_cells]."""
        ages = (self.held - np.int32(self.n_seen - 1)).astype(np.float32).reshape(self.n_layer, self.n_head, -1)
        return np.broadcast_to(ages, (self.n_layer, self.n_head_kv, self.n_cells))

    def _look(self) -> dict[ScoreKind, np.ndarray]:
        """What the policy wants to see."""
        n_intact = self.n_retractable if self._scores else 0
        return {scores.need.kind: scores.look(self.n_cells, n_intact) for scores in self._scores}

    def advance(self, n_tokens: int) -> None:
        """`n_tokens` were written behind the last cell."""
        end = self.n_cells + n_tokens
        self._held[:, self.n_cells : end] = np.arange(self.n_seen, self.n_seen + n_tokens, dtype=np.int32)
        self._numbering.advance(self.n_cells, n_tokens)
        for scores in self._scores:
            scores.start(self.n_cells, end)
        self.n_cells = end
        self.n_seen += n_tokens
        self.n_cells_peak = max(self.n_cells_peak, end)

    @property
    def n_retractable(self) -> int:
        """Newest tokens that can be taken back: every layer still holds all of them, in its last cells."""
        held = self.held
        n = min(self.n_cells, self.n_seen)
        is_newest = (held == np.arange(self.n_seen - n, self.n_seen, dtype=np.int32)).all(axis=0)
        return n if is_newest.all() else int(np.argmin(is_newest[::-1]))

    def votes(self) -> tuple[np.ndarray | None, int]:
        """What the queries since the last plan say, to hand to `retract`; ask before the cells are freed."""
        return self._voted.votes(self.n_cells) if self._voted else (None, 0)

    def retract(self, n_tokens: int, votes: tuple[np.ndarray | None, int] = (None, 0)) -> None:
        """Take the newest `n_tokens` back, as if they had never been fed; the caller frees the cells.

        What was thinned to make room for them stays thinned, and votes that were cast still count. Raises UsageError
        beyond `n_retractable`.
        """
        if not 0 <= n_tokens <= self.n_retractable:
            raise UsageError(f"{n_tokens} tokens cannot be taken back, {self.n_retractable} can")
        self.n_cells -= n_tokens
        self.n_seen -= n_tokens
        self._numbering.retract(n_tokens)
        if self._voted:
            self._voted.retract(self.n_cells, n_tokens, *votes)

    def state(self) -> tuple[dict[str, int | float], dict[str, np.ndarray]]:
        """(counters, arrays) that `restore` needs, apart from policy and budget: "held" int32 [n_layer * n_head,
        n_cells], what is known of the cells' worth and, with original positions, "pos" like "held"."""
        counters = {name: getattr(self, name) for name in (*_COUNTERS, "pos_next")}
        arrays = {"held": self.held.copy(), **self._numbering.state(self.n_cells)}
        for scores in self._scores:
            numbers, more = scores.state(self.n_cells)
            counters |= numbers
            arrays |= more
        return counters, arrays

    def restore(self, counters: dict[str, int | float], arrays: dict[str, np.ndarray]) -> None:
        """Set what `state` gave; the caller fills the cells. Raises ValueError, changing nothing, if it cannot be."""
        values = {name: type(getattr(self, name))(counters[name]) for name in _COUNTERS}
        held, n_seen, n_cells = arrays["held"], values["n_seen"], values["n_cells"]
        is_possible = (
            min(values.values()) >= 0 and n_cells <= values["n_cells_peak"] <= self.n_ctx and n_cells <= n_seen
        )
        if not is_possible or values["n_pinned"] > self.n_ctx:
            raise ValueError(f"counters that contradict each other or the budget of {self.n_ctx} cells: {values}")
        shape = (len(self._held), n_cells)
        if held.shape != shape or held.dtype != np.int32:
            raise ValueError(f"held is {held.dtype} {held.shape}, not int32 {shape}")
        if n_cells and not (held.min() >= 0 and held.max() < n_seen and (np.diff(held, axis=1) > 0).all()):
            raise ValueError("held names tokens that were never fed, or not in order")
        for scores in self._scores:
            scores.check(n_cells, counters, arrays)
        self._numbering.restore(n_cells, int(counters.get("pos_next", n_cells)), arrays)
        for scores in self._scores:
            scores.reset()
            scores.restore(n_cells, counters, arrays)
        for name, value in values.items():
            setattr(self, name, value)
        self._held[:, :n_cells] = held

    @property
    def _voted(self) -> Votes | None:
        """What is known of attention, if the policy wants to see it."""
        return next((scores for scores in self._scores if isinstance(scores, Votes)), None)


def _nobody(need: Need, first: int) -> np.ndarray:
    raise UsageError(f"this policy needs {need.kind} scores, and there is no model here that could give them")
