"""What a KV budget means to a reader: how many pages a full memory holds sharp, and how many faint.

What it is: `reach`, which feeds plain numbers instead of tokens through the real `Memory` with the real policy, long
past the budget, and counts. A token is sharp while every layer holds it (the first cells, the recent window, what was
not thinned yet), faint while some layers do. And `pages`, which turns tokens into pages of 400 words.
What it does not know: models, files, devices. Faint says that something of a token is left, not what becomes of it.
Nor does it know scores. Where a policy asks for them, every layer is counted as if it chose by lot, which gives the
fewest sharp tokens; the more layers agree, the more are sharp and the fewer are faint. So both numbers are then the
least: so many are sharp, and so many more are held, faint or sharp (`Reach.is_least`).

    reach(Ladder(span=15, n_recent=512), n_layer=30, n_ctx=1024)      # Reach(n_sharp=..., n_faint=...)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lacache_gguf.errors import PolicyError
from lacache_gguf.memory import Memory
from lacache_gguf.policies import Full, Ladder, Need, Policy, needs_of

WORDS_PER_PAGE = 400
TOKENS_PER_WORD = 4 / 3
"""Of English prose with today's vocabularies; other languages and program text take more tokens."""

_N_SIMULATED = 1024  # cells; larger memories are scaled down to it
_N_SIMULATED_SCORED, _N_LAYERS_SCORED = 512, 16  # lots take longer, and more layers change little
_N_TIMES, _N_TIMES_COUNTED = 12, 4  # budgets to feed, and how many of them at the end are counted


@dataclass(frozen=True)
class Reach:
    """Tokens that a memory holds in every layer, and those that it holds in some, when far more was read. `is_least`:
    the policy goes by the text, and these are the fewest."""

    n_sharp: int
    n_faint: int
    is_least: bool = False


def pages(n_tokens: float) -> str:
    """Tokens as pages, in words: "1.4 pages", "1 page", "230 pages"."""
    n = n_tokens / (WORDS_PER_PAGE * TOKENS_PER_WORD)
    text = f"{n:.1f}" if n < 9.95 else f"{n:,.0f}"
    text = text.removesuffix(".0")
    return f"{text} page" if text == "1" else f"{text} pages"


def reach(policy: Policy, n_layer: int, n_ctx: int, n_ubatch: int = 512) -> Reach:
    """Means over a long read. Raises PolicyError if the policy cannot work with this model and budget.

    Memories above 1,024 cells (512 where scores count) are computed at a smaller scale, and sinks, recent window and
    positions with them, as the answer grows in proportion; so it takes some tenths of a second at most, and nothing
    when asked again.
    """
    policy.check(n_layer, n_ctx)
    if isinstance(policy, Full):
        return Reach(n_ctx, 0)
    is_least = bool(needs_of(policy))
    n_small = min(n_ctx, _N_SIMULATED)
    if is_least:
        n_small, n_layer = min(n_ctx, _N_SIMULATED_SCORED), min(n_layer, _N_LAYERS_SCORED)
    while n_small < n_ctx:
        small = _scaled(policy, n_layer, n_small / n_ctx)
        try:
            small.check(n_layer, n_small)
        except PolicyError:  # a rung is too long for so few cells
            n_small *= 2
            continue
        n_sharp, n_faint = _count(small, n_layer, n_small, max(1, n_ubatch * n_small // n_ctx))
        return Reach(round(n_sharp * n_ctx / n_small), round(n_faint * n_ctx / n_small), is_least)
    return Reach(*map(round, _count(policy, n_layer, n_ctx, n_ubatch)), is_least)


def _scaled(policy: Policy, n_layer: int, factor: float) -> Policy:
    """The policy with its counts of cells scaled; a ladder's published recent window is as long as there are layers."""
    fields = {field.name for field in dataclasses.fields(policy)}  # type: ignore[arg-type]
    values = {name: getattr(policy, name) for name in ("n_sink", "n_recent", "n_pos") if name in fields}
    if isinstance(policy, Ladder) and values["n_recent"] is None:
        values["n_recent"] = n_layer
    return dataclasses.replace(policy, **{n: max(1, round(v * factor)) for n, v in values.items() if v})  # type: ignore[type-var]


@lru_cache(maxsize=256)
def _count(policy: Policy, n_layer: int, n_ctx: int, n_ubatch: int) -> tuple[float, float]:
    counts = np.array(list(_counts(policy, n_layer, n_ctx, n_ubatch)))
    n_sharp, n_faint = counts.mean(axis=0)
    return float(n_sharp), float(n_faint)


def _counts(policy: Policy, n_layer: int, n_ctx: int, n_ubatch: int) -> Iterator[tuple[int, int]]:
    """(sharp, faint) after every step of the last part of a read of 12 times the budget."""
    lots = np.random.default_rng(0)

    def score(_need: Need, first: int) -> np.ndarray:
        return lots.random((n_layer, 1, memory.n_cells - first), dtype=np.float32)

    memory = Memory(policy, n_layer, n_ctx, compact=lambda keep: None, score=score)
    n_read = memory.n_read(n_ubatch)
    while memory.n_seen < _N_TIMES * n_ctx:
        memory.make_room(n_read)
        memory.advance(n_read)
        if memory.n_seen > (_N_TIMES - _N_TIMES_COUNTED) * n_ctx:
            n_layers_of = np.bincount(memory.held.ravel(), minlength=memory.n_seen)
            n_sharp = int((n_layers_of == n_layer).sum())
            n_held = memory.n_cells if needs_of(policy) else int((n_layers_of > 0).sum())
            yield n_sharp, n_held - n_sharp
