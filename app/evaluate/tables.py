"""Tables of results, as aligned text that can be piped. Knows stored rows and how sure their numbers are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lacache_app.evaluate.ppl import Case, Perplexity, lengths
from lacache_app.evaluate.runner import Run
from lacache_app.evaluate.stats import Blocks, Interval, average, difference, share_closed
from lacache_app.terminal import mib

MISSING = "-"


def aligned(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns: the first to the left, the others to the right, under a line of headers."""
    cells = [list(headers), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    lines = []
    for row in cells:
        columns = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(columns).rstrip())
    return "\n".join(lines) + "\n"


def signed(interval: Interval, digits: int = 4) -> str:
    """A difference: "-0.0312 [-0.0451, -0.0178]"."""
    if math.isnan(interval.value):
        return MISSING
    value = f"{interval.value:+.{digits}f}"
    return value if math.isnan(interval.low) else f"{value} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"


def percent(interval: Interval) -> str:
    """A share: "53 % [48, 58]"."""
    if math.isnan(interval.value):
        return MISSING
    value = f"{100 * interval.value:.0f} %"
    return value if math.isnan(interval.low) else f"{value} [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def perplexity_tables(cases: Sequence[Case], run: Run, baseline: str) -> str:
    """A table for every text and size, and one over all texts for every size."""
    sizes = list(dict.fromkeys(case.size for case in cases))
    texts = list(dict.fromkeys(case.text.name for case in cases))
    parts = []
    for size in sizes:
        here = [case for case in cases if case.size == size]
        title = size_title(here)
        for name in texts:
            if part := _one_text([case for case in here if case.text.name == name], run, baseline):
                parts.append(f"{name}, {title}: perplexity of the first tokens\n{part}")
        if len(texts) > 1 and (part := _all_texts(here, run, baseline, texts)):
            parts.append(f"all texts, {title}: mean over texts\n{part}")
    notes = {f"{case.spec.name}: {case.setup.note}" for case in cases if case.setup and case.setup.note}
    return "\n".join([*parts, *sorted(f"{note}\n" for note in notes)])


def size_title(cases: Sequence[Case]) -> str:
    size = cases[0].size
    if size is None:
        return "sizes of their own"
    return f"{size.n_cells:,} cells" if size.n_cells is not None else size.text


def _results(cases: Sequence[Case], run: Run) -> dict[str, Perplexity]:
    """Memory name -> what is known of it, in the order of the cases."""
    done = [(case.spec.name, run.rows[case.item.id]) for case in cases if case.item and case.item.id in run.rows]
    return {name: Perplexity.of(row) for name, row in done}


def _one_text(cases: Sequence[Case], run: Run, baseline: str) -> str:
    found = _results(cases, run)
    n_max = max((p.losses.n_tokens for p in found.values()), default=0)
    steps, rows = lengths(n_max), []
    for case in cases:
        p = found.get(case.spec.name)
        if p is None or case.setup is None:
            continue
        texts = {name: [other.losses] for name, other in found.items()}
        columns = [f"{p.at(n):.3f}" for n in steps]
        memory = [f"{case.setup.n_ctx:,}", mib(case.setup.kv_bytes)]
        rows.append([case.spec.name, *memory, *columns, *_against(case.spec.name, texts, cases, baseline)])
    return aligned(["memory", "cells", "KV", *(f"{n:,}" for n in steps), *_headers(baseline)], rows) if rows else ""


def _all_texts(cases: Sequence[Case], run: Run, baseline: str, names: Sequence[str]) -> str:
    losses: dict[str, list[Blocks]] = {}
    by_text = [_results([case for case in cases if case.text.name == name], run) for name in names]
    for case in cases:
        memory = case.spec.name
        if all(memory in found for found in by_text):
            losses[memory] = [found[memory].losses for found in by_text]
    rows = []
    for memory, texts in losses.items():
        perplexity = f"{math.exp(average(texts).value):.3f}"
        rows.append([memory, perplexity, *_against(memory, losses, cases, baseline)])
    return aligned(["memory", "perplexity", *_headers(baseline)], rows) if rows else ""


def _headers(baseline: str) -> list[str]:
    return [f"loss - {baseline}", "distance closed"]


def _against(memory: str, losses: dict[str, list[Blocks]], cases: Sequence[Case], baseline: str) -> list[str]:
    """Difference to the baseline and share of the way from SinkWindow to the full cache, where both are known."""
    mine, other = losses[memory], losses.get(baseline)
    change = MISSING if other is None or memory == baseline else signed(difference(mine, other))
    zero = next((losses.get(case.spec.name) for case in cases if case.spec.is_sink_window), None)
    one = next((losses.get(case.spec.name) for case in cases if case.spec.is_full), None)
    share = percent(share_closed(mine, zero, one)) if zero and one else MISSING
    return [change, share]
