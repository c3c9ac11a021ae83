"""Tables of what was read: perplexity by length, agreement with the full cache. Knows stored rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lacache_app.evaluate.agree import Agreement
from lacache_app.evaluate.ppl import Case, Perplexity, lengths
from lacache_app.evaluate.runner import Run
from lacache_app.evaluate.stats import Blocks, average, difference, share_closed
from lacache_app.evaluate.tables import MISSING, aligned, percent, signed, size_title, spread
from lacache_app.terminal import mib


def perplexity_tables(cases: Sequence[Case], run: Run, baseline: str) -> str:
    """A table for every text and size, and one over all texts for every size."""
    sizes = list(dict.fromkeys(case.size for case in cases))
    texts = list(dict.fromkeys(case.text.name for case in cases))
    parts = []
    for size in sizes:
        here = [case for case in cases if case.size == size]
        title = size_title(size)
        for name in texts:
            if part := _one_text([case for case in here if case.text.name == name], run, baseline):
                parts.append(f"{name}, {title}: perplexity of the first tokens\n{part}")
        if len(texts) > 1 and (part := _all_texts(here, run, baseline, texts)):
            parts.append(f"all texts, {title}: mean over texts\n{part}")
    notes = {f"{case.spec.name}: {case.setup.note}" for case in cases if case.setup and case.setup.note}
    return "\n".join([*parts, *sorted(f"{note}\n" for note in notes)])


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
                parts.append(f"{name}, {size_title(size)}: beside the full cache, token by token\n{part}")
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
            columns += [spread(kl, 1, 4), spread(same, 100, 1) + " %"]
        else:
            columns += [MISSING, MISSING]
        rows.append([name, *cells[name], *columns])
    headers = ["memory", "cells", "KV", "KL", "same guess", "KL, memory full", "same guess, memory full"]
    return aligned(headers, rows) if rows else ""
