"""Agreement with the full cache: what a memory changes in the model's guesses, token by token.

What it is: `cases`, one item for each (text, size, memory), measured in step with a full cache that reads the same
tokens; and `Agreement`, which reads stored rows. Two numbers per token: the Kullback-Leibler divergence of the guesses
from the full cache's, in nats, and whether both would write the same token next.
What it does not know: tables, files. Memories of one text and size share one run of the full cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from lacache_app.evaluate.bench import Bench, Setup
from lacache_app.evaluate.ppl import Case
from lacache_app.evaluate.runner import Item, Tick
from lacache_app.evaluate.stats import Blocks
from lacache_app.evaluate.texts import Text, tokens_of
from lacache_app.memory_spec import MemorySpec, Size, parse_memory

from lacache_gguf.errors import LacacheError, UsageError

_QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Agreement:
    """A stored result: per token divergence (nats), same guess (0 or 1), loss here and with the full cache (nats).

    `n_same` first tokens were read before anything was thinned, so nothing can differ there.
    """

    row: dict[str, Any]
    divergence: Blocks
    same: Blocks
    loss: Blocks
    loss_full: Blocks
    n_same: int

    @classmethod
    def of(cls, row: dict[str, Any]) -> Agreement:
        """From a row. Raises ValueError if it contradicts itself."""
        names = ("kl_sums", "same_sums", "loss_sums", "full_loss_sums")
        return cls(row, *(Blocks.read(row[name], row["n_predicted"]) for name in names), row["memory"]["n_ctx"])


def cases(
    bench: Bench,
    texts: Sequence[Text],
    sizes: Sequence[Size],
    specs: Sequence[MemorySpec],
    n_tokens: int,
    n_ubatch: int,
    n_skip: int = 0,
) -> list[Case]:
    """Every memory but the full cache itself. Raises UsageError for more tokens than the full cache can hold."""
    if bench.n_ctx_train and n_tokens > bench.n_ctx_train:
        raise UsageError(
            f"--tokens {n_tokens:,}: memories are compared with the full cache, and that ends at the "
            f"{bench.n_ctx_train:,} positions that this model was trained on; give at most as many"
        )
    found = []
    for text in texts:
        tokens = tokens_of(bench.weights, text, n_tokens, n_skip)
        full = bench.setup(parse_memory("full"), None, len(tokens) - 1, n_ubatch)
        for size in sizes or (None,):
            group = _Group(bench, full, tokens, n_ubatch, {})
            for spec in specs:
                if spec.is_full:
                    continue
                try:
                    setup = bench.setup(spec, size, len(tokens) - 1, n_ubatch)
                except LacacheError as error:
                    found.append(Case(text, size, spec, refused=str(error)))
                    continue
                identity = {
                    "eval": "agree",
                    "model": bench.model["sha256"],
                    "text": text.identity,
                    "n_skip": n_skip,
                    "n_predicted": len(tokens) - 1,
                    "n_ubatch": n_ubatch,
                    "memory": setup.identity,
                }
                item = Item(f"{spec.name} {setup.n_ctx:,} {text.name}", identity, len(tokens) - 1, batch=group)
                group.of[item.id] = (spec, size, setup)
                found.append(Case(text, size, spec, setup, item))
    return found


@dataclass(frozen=True, eq=False)
class _Group:
    """Memories that go along with one full cache."""

    bench: Bench
    full: Setup
    tokens: np.ndarray  # int32 [n_predicted + 1]
    n_ubatch: int
    of: dict[str, tuple[MemorySpec, Size | None, Setup]]  # by item id

    def __call__(self, items: Sequence[Item], tick: Tick) -> list[dict[str, Any] | LacacheError]:
        results: dict[str, dict[str, Any] | LacacheError] = {}
        n = len(self.tokens) - 1
        with ExitStack() as stack:
            engines = {}
            for item in items:
                try:
                    engine = stack.enter_context(self.bench.open(self.of[item.id][2], self.n_ubatch))
                    rows = engine.logits(self.tokens[:-1], self.n_ubatch)
                    engines[item.id] = (engine, rows, np.zeros((3, n), dtype=np.float32))
                except LacacheError as error:
                    results[item.id] = error
            if not engines:
                return [results[item.id] for item in items]
            full = stack.enter_context(self.bench.open(self.full, self.n_ubatch))
            loss_full, first = np.zeros(n, dtype=np.float32), 0
            for logits in full.logits(self.tokens[:-1], self.n_ubatch):
                part = slice(first, first + len(logits))
                first = part.stop
                targets = self.tokens[part.start + 1 : part.stop + 1]
                expected = _log_softmax(logits)
                loss_full[part] = -np.take_along_axis(expected, targets[:, None], axis=1)[:, 0]
                for key, (engine, rows, values) in list(engines.items()):
                    try:
                        values[:, part] = compare(expected, _log_softmax(next(rows)), targets)
                    except LacacheError as error:
                        results[key] = error
                        del engines[key]
                        continue
                    tick(len(logits), engine)
            for key, (engine, rows, values) in engines.items():
                rows.close()
                results[key] = self._values(key, engine, values, loss_full)
        return [results[item.id] for item in items]

    def _values(self, key: str, engine: Any, values: np.ndarray, loss_full: np.ndarray) -> dict[str, Any]:
        spec, size, setup = self.of[key]
        kl, same, loss = values
        late = kl[setup.n_ctx :]
        quantiles = np.quantile(late, _QUANTILES).tolist() if len(late) else []
        stats = engine.stats

        def sums(x: np.ndarray) -> list[float]:
            return [round(float(value), 5) for value in Blocks.of(x).sums]

        return {
            "name": spec.name,
            "size": size.text if size else None,
            "model_name": self.bench.model["name"],
            "kl": round(float(kl.mean(dtype=np.float64)), 6),
            "top1": round(float(same.mean(dtype=np.float64)), 5),
            "kl_quantiles_behind_n_ctx": {str(q): round(v, 5) for q, v in zip(_QUANTILES, quantiles, strict=False)},
            "kl_sums": sums(kl),
            "same_sums": sums(same),
            "loss_sums": sums(loss),
            "full_loss_sums": sums(loss_full),
            "full_n_ctx": self.full.n_ctx,
            "full_kv_bytes": self.full.kv_bytes,
            "kv_bytes": setup.kv_bytes,
            "n_cells_peak": stats.n_cells_peak,
            "n_compactions": stats.n_compactions,
        }


def compare(expected: np.ndarray, found: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Log-probabilities float32 [n, n_vocab] of both, and the tokens that came, [n] -> float32 [3, n]: divergence
    KL(expected || found) in nats, 1 where the likeliest token is the same, loss of `found` in nats."""
    divergence = np.einsum("nv,nv->n", np.exp(expected), expected - found, dtype=np.float64)
    same = expected.argmax(axis=1) == found.argmax(axis=1)
    loss = -np.take_along_axis(found, np.asarray(targets)[:, None], axis=1)[:, 0]
    return np.stack([np.maximum(divergence, 0), same, loss]).astype(np.float32)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    from lacache_gguf.sampling import log_softmax

    return log_softmax(logits)
