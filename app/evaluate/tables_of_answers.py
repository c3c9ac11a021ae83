"""Tables of what was written: pass keys, needles, summaries. Knows stored rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lacache_app.evaluate.ppl import Case
from lacache_app.evaluate.recall import RecallCase
from lacache_app.evaluate.runner import Run
from lacache_app.evaluate.stats import mean_of_trials
from lacache_app.evaluate.tables import aligned, percent, size_title, spread
from lacache_app.terminal import mib


def recall_tables(cases: Sequence[RecallCase], run: Run) -> str:
    """A table for every task and prompt length; counts of whole trials, shares of what was asked for."""
    parts, groups = [], dict.fromkeys((case.task, case.length) for case in cases)
    for task, length in groups:
        here = [case for case in cases if (case.task, case.length) == (task, length)]
        rows, names = [], dict.fromkeys((None if case.spec.is_full else case.size, case.spec) for case in here)
        for size, spec in names:
            mine = [case for case in here if case.spec == spec and (spec.is_full or case.size == size)]
            mine = list({case.item.id: case for case in mine if case.item}.values())  # a full cache is in every size
            scores, setup = scores_of(mine, run), mine[0].setup if mine else None
            if not scores or setup is None:
                continue
            label = "all" if spec.is_full else size.text if size else "its own"
            all_right = f"{sum(score == 1 for score in scores)}/{len(scores)}"
            share = percent(mean_of_trials(scores))
            rows.append([spec.name, label, f"{setup.n_ctx:,}", mib(setup.kv_bytes), all_right, share])
        if rows:
            headers = ["memory", "size", "cells", "KV", "all right", "of what was asked"]
            parts.append(f"{task}, prompts of {length:,} tokens\n{aligned(headers, rows)}")
    return "\n".join(parts)


def scores_of(cases: Sequence[RecallCase], run: Run) -> list[float]:
    """Scores of all trials of these cases that are known."""
    known = [run.rows[case.item.id] for case in cases if case.item and case.item.id in run.rows]
    return [score for row in known for score in row["scores"]]


def summary_tables(cases: Sequence[Case], run: Run) -> str:
    """A table for every size: means of F over the documents, with intervals where there are several."""
    parts = []
    for size in dict.fromkeys(case.size for case in cases):
        rows = []
        here = [case for case in cases if case.size == size]
        for name in dict.fromkeys(case.spec.name for case in here):
            mine = [case for case in here if case.spec.name == name and case.item and case.item.id in run.rows]
            if not mine or mine[0].setup is None:
                continue
            found = [run.rows[case.item.id] for case in mine if case.item]
            columns = [_mean(found, kind) for kind in ("rouge1", "rouge2", "rougeL")]
            rows.append([name, f"{mine[0].setup.n_ctx:,}", mib(mine[0].setup.kv_bytes), f"{len(found)}", *columns])
        if rows:
            headers = ["memory", "cells", "KV", "documents", "ROUGE-1", "ROUGE-2", "ROUGE-L"]
            parts.append(f"{size_title(size)}: F against the references, in percent\n{aligned(headers, rows)}")
    return "\n".join(parts)


def _mean(rows: Sequence[dict[str, Any]], kind: str) -> str:
    values = [row[kind] for row in rows]
    return spread(mean_of_trials(values), 100, 1) if len(values) > 1 else f"{100 * values[0]:.1f}"
