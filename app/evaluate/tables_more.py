"""Tables of agreement with the full cache and of what was remembered. Knows stored rows and how sure numbers are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lacache_app.evaluate.agree import Agreement
from lacache_app.evaluate.ppl import Case
from lacache_app.evaluate.recall import RecallCase
from lacache_app.evaluate.runner import Run
from lacache_app.evaluate.stats import Interval, average, mean_of_trials
from lacache_app.evaluate.tables import MISSING, aligned, percent, size_title
from lacache_app.terminal import mib


def agreement_tables(cases: Sequence[Case], run: Run) -> str:
    """A table for every size: all texts together, then each where there are several."""
    parts = []
    for size in dict.fromkeys(case.size for case in cases):
        here = [case for case in cases if case.size == size]
        names = list(dict.fromkeys(case.text.name for case in here))
        groups = [(name, [case for case in here if case.text.name == name]) for name in names]
        groups += [("all texts", here)] if len(names) > 1 else []
        for name, group in groups:
            if part := _agreement(group, run):
                parts.append(f"{name}, {size_title(group)}: beside the full cache, token by token\n{part}")
    return "\n".join(parts)


def _agreement(cases: Sequence[Case], run: Run) -> str:
    n_texts = len({case.text.name for case in cases})
    found: dict[str, list[Agreement]] = {}
    cells = {}
    for case in cases:
        if case.item and case.setup and case.item.id in run.rows:
            found.setdefault(case.spec.name, []).append(Agreement.of(run.rows[case.item.id]))
            cells[case.spec.name] = [f"{case.setup.n_ctx:,}", mib(case.setup.kv_bytes)]
    rows = []
    for name, texts in found.items():
        if len(texts) < n_texts:
            continue
        late = [(a.divergence.part(a.n_same), a.same.part(a.n_same)) for a in texts]
        columns = [
            f"{average([a.divergence for a in texts]).value:.4f}",
            f"{100 * average([a.same for a in texts]).value:.1f} %",
        ]
        if all(len(kl.sums) for kl, _ in late):
            kl, same = average([kl for kl, _ in late]), average([same for _, same in late])
            columns += [_range(kl, 1, 4), _range(same, 100, 1) + " %"]
        else:
            columns += [MISSING, MISSING]
        rows.append([name, *cells[name], *columns])
    headers = ["memory", "cells", "KV", "KL", "same guess", "KL, memory full", "same guess, memory full"]
    return aligned(headers, rows) if rows else ""


def _range(interval: Interval, scale: float, digits: int) -> str:
    value = f"{scale * interval.value:.{digits}f}"
    if math.isnan(interval.low):
        return value
    return f"{value} [{scale * interval.low:.{digits}f}, {scale * interval.high:.{digits}f}]"


def recall_tables(cases: Sequence[RecallCase], run: Run) -> str:
    """A table for every task and prompt length; counts of whole trials, shares of what was asked for."""
    parts, groups = [], dict.fromkeys((case.task, case.length) for case in cases)
    for task, length in groups:
        here = [case for case in cases if (case.task, case.length) == (task, length)]
        rows = []
        for size, name in dict.fromkeys((case.size, case.spec.name) for case in here):
            mine = [case for case in here if (case.size, case.spec.name) == (size, name)]
            scores = scores_of(mine, run)
            if not scores:
                continue
            setup = mine[0].setup
            memory = [f"{setup.n_ctx:,}", mib(setup.kv_bytes)] if setup else [MISSING, MISSING]
            all_right = f"{sum(score == 1 for score in scores)}/{len(scores)}"
            rows.append([name, size.text if size else "its own", *memory, all_right, percent(mean_of_trials(scores))])
        if rows:
            headers = ["memory", "size", "cells", "KV", "all right", "of what was asked"]
            parts.append(f"{task}, prompts of {length:,} tokens\n{aligned(headers, rows)}")
    return "\n".join(parts)


def scores_of(cases: Sequence[RecallCase], run: Run) -> list[float]:
    """Scores of all trials of these cases that are known."""
    known = [run.rows[case.item.id] for case in cases if case.item and case.item.id in run.rows]
    return [score for row in known for score in row["scores"]]
