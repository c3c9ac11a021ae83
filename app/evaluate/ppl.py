"""Perplexity: how well a model predicts a text that it reads through a memory.

What it is: `items`, one for each (text, size, memory), and `Perplexity`, which reads stored rows. A row carries the sum
of the losses of every block of 128 tokens, so lengths, differences and intervals can be had later.
What it does not know: tables, files. Room is made for one ubatch at a time whenever the memory is full, so the budget
holds while reading; n_ubatch 1 is token by token, as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lacache_app.evaluate.bench import Bench, Setup
from lacache_app.evaluate.runner import Item, Tick
from lacache_app.evaluate.stats import Blocks
from lacache_app.evaluate.texts import Text, tokens_of
from lacache_app.memory_spec import MemorySpec, Size

from lacache_gguf.errors import LacacheError

SHORTEST = 1024
"""Perplexity is told for the first 1,024, 2,048, 4,096 ... tokens and for all."""


@dataclass(frozen=True)
class Case:
    """Where an item belongs in a table. `item` is None, and `refused` says why, for what cannot be."""

    text: Text
    size: Size | None
    spec: MemorySpec
    setup: Setup | None = None
    item: Item | None = None
    refused: str = ""


@dataclass(frozen=True)
class Perplexity:
    """A stored result."""

    row: dict[str, Any]
    losses: Blocks

    @classmethod
    def of(cls, row: dict[str, Any]) -> Perplexity:
        """From a row. Raises ValueError if it contradicts itself."""
        return cls(row, Blocks.read(row["loss_sums"], row["n_predicted"]))

    def at(self, n_tokens: int) -> float:
        """Perplexity of the first tokens (a whole number of blocks, or all)."""
        return float(np.exp(self.losses.mean_to(n_tokens)))


def cases(
    bench: Bench,
    texts: Sequence[Text],
    sizes: Sequence[Size],
    specs: Sequence[MemorySpec],
    n_tokens: int,
    n_ubatch: int,
    n_skip: int = 0,
) -> list[Case]:
    """Every memory in every size on every text; text by text, so that what is stored first can be compared."""
    found = []
    for text in texts:
        tokens = tokens_of(bench.weights, text, n_tokens, n_skip)
        for size in sizes or (None,):
            for spec in specs:
                try:
                    setup = bench.setup(spec, size, len(tokens) - 1, n_ubatch)
                except LacacheError as error:
                    found.append(Case(text, size, spec, refused=str(error)))
                    continue
                identity = {
                    "eval": "ppl",
                    "model": bench.model["sha256"],
                    "text": text.identity,
                    "n_skip": n_skip,
                    "n_predicted": len(tokens) - 1,
                    "n_ubatch": n_ubatch,
                    "memory": setup.identity,
                }
                title = f"{spec.name} {setup.n_ctx:,} {text.name}"
                measure = _Measure(bench, setup, spec, size, tokens, n_ubatch)
                found.append(Case(text, size, spec, setup, Item(title, identity, len(tokens) - 1, measure)))
    return found


def lengths(n_tokens: int) -> list[int]:
    """1,024, 2,048 ... and all: ascending."""
    found, n = [], SHORTEST
    while n < n_tokens:
        found.append(n)
        n *= 2
    return [*found, n_tokens]


@dataclass(frozen=True)
class _Measure:
    bench: Bench
    setup: Setup
    spec: MemorySpec
    size: Size | None
    tokens: np.ndarray  # int32 [n_predicted + 1]
    n_ubatch: int

    def __call__(self, tick: Tick) -> dict[str, Any]:
        from lacache_gguf.sampling import nll

        losses, n = np.empty(len(self.tokens) - 1, dtype=np.float32), 0
        with self.bench.open(self.setup, self.n_ubatch) as engine:
            for logits in engine.logits(self.tokens[:-1], self.n_ubatch):
                end = n + len(logits)
                losses[n:end] = nll(logits, self.tokens[n + 1 : end + 1])
                n = end
                tick(len(logits), engine)
            stats = engine.stats
        blocks = Blocks.of(losses)
        return {
            "name": self.spec.name,
            "size": self.size.text if self.size else None,
            "model_name": self.bench.model["name"],
            "perplexity": round(float(np.exp(blocks.mean)), 5),
            "loss": round(blocks.mean, 6),
            "loss_sums": [round(float(x), 4) for x in blocks.sums],
            "kv_bytes": self.setup.kv_bytes,
            "n_cells_peak": stats.n_cells_peak,
            "n_compactions": stats.n_compactions,
            "tokens_per_s": round(stats.read_tps, 2),
            "seconds_compact": round(stats.seconds["compact"], 3),
            "note": self.setup.note,
        }
