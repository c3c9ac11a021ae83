"""The first look: perplexity, agreement and the passkey test of a few memories, in about five minutes on a small model.

What it is: `cases`, which sizes both measurements by the memory (a text of six times its cells, prompts of two and a
half times), and `quick_table`, one line for each memory. Stored rows are those of `agree` and `passkey`, so a longer
run with the same file finds them.
What it does not know: files, screens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lacache_app.evaluate import agree, recall
from lacache_app.evaluate.agree import Agreement
from lacache_app.evaluate.bench import Bench
from lacache_app.evaluate.ppl import Case
from lacache_app.evaluate.recall import Plan, RecallCase
from lacache_app.evaluate.runner import Item, Run
from lacache_app.evaluate.stats import average, mean_of_trials
from lacache_app.evaluate.tables import MISSING, aligned, percent, size_title, spread
from lacache_app.evaluate.tables_of_answers import scores_of
from lacache_app.evaluate.texts import Text
from lacache_app.memory_spec import MemorySpec, Size
from lacache_app.terminal import mib

_TEXT, _PROMPT = 6.0, 2.5  # times the cells
_N_PROMPT_LEAST = 128


@dataclass(frozen=True)
class QuickCase:
    """What is measured in one size."""

    size: Size
    agree: tuple[Case, ...]
    passkey: tuple[RecallCase, ...]

    @property
    def items(self) -> list[Item]:
        """All measurements."""
        return [case.item for case in (*self.agree, *self.passkey) if case.item]


def cases(
    bench: Bench, texts: Sequence[Text], sizes: Sequence[Size], specs: Sequence[MemorySpec], n_ubatch: int
) -> list[QuickCase]:
    """Both measurements in every size. Raises UsageError."""
    found = []
    for size in sizes:
        n_cells = size.cells(bench.geometry, "f16", "f16", n_ubatch)
        n_most = bench.n_ctx_train or 1 << 24
        n_text = min(round(_TEXT * n_cells), n_most)
        plan = Plan(("passkey",), (max(_N_PROMPT_LEAST, min(round(_PROMPT * n_cells), n_most - 128)),), n_trials=1)
        about = agree.cases(bench, texts, [size], specs, n_text, n_ubatch)
        found.append(QuickCase(size, tuple(about), tuple(recall.cases(bench, plan, [size], specs, n_ubatch))))
    return found


def quick_table(cases: Sequence[QuickCase], run: Run) -> str:
    """A table for every size."""
    parts = []
    for case in cases:
        done = [(one.spec, run.rows[one.item.id]) for one in case.agree if one.item and one.item.id in run.rows]
        rows = []
        for spec in dict.fromkeys(one.spec for one in case.passkey):
            key = [one for one in case.passkey if one.spec == spec]
            scores, setup = scores_of(key, run), key[0].setup
            if setup is None:
                continue
            guesses = _full(done) if spec.is_full else _guesses([row for other, row in done if other == spec])
            share = percent(mean_of_trials(scores)) if scores else MISSING
            cells, n_bytes = f"{setup.n_ctx:,}", setup.kv_bytes
            if spec.is_full:
                cells, n_bytes = "all", max([n_bytes, *(row.get("full_kv_bytes", 0) for _, row in done)])
            kept = f"{sum(scores):g}/{len(scores)}" if scores else MISSING
            rows.append([spec.name, cells, mib(n_bytes), *guesses, kept, share])
        n_tokens = max((row["n_predicted"] for _, row in done), default=0)
        about = f"{n_tokens:,} tokens of text, pass keys in prompts of {case.passkey[0].length:,}"
        headers = ["memory", "cells", "KV", "perplexity", "KL to full", "same guess", "pass keys", "95 %"]
        parts.append(f"{size_title(case.size)}: {about}\n{aligned(headers, rows)}")
    return "\n".join(parts)


def _guesses(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Perplexity, divergence and same guesses of one memory on all texts."""
    if not rows:
        return [MISSING] * 3
    found = [Agreement.of(row) for row in rows]
    perplexity = math.exp(average([one.loss for one in found]).value)
    kl, same = average([one.divergence for one in found]), average([one.same for one in found])
    return [f"{perplexity:.3f}", spread(kl, 1, 4), f"{100 * same.value:.1f} %"]


def _full(done: Sequence[tuple[MemorySpec, dict[str, Any]]]) -> list[str]:
    """The same of the full cache, from the rows of memories that were compared with it."""
    of_text = {row["text"]["sha256"]: Agreement.of(row).loss_full for _, row in done}
    if not of_text:
        return [MISSING] * 3
    return [f"{math.exp(average(list(of_text.values())).value):.3f}", "0", "100 %"]
