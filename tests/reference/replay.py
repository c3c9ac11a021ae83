"""Which tokens does every layer hold? Replays a policy's plans over a stream of token numbers, without any model.

    >>> from lacache_gguf.policies import SinkWindow
    >>> *_, held = replay(SinkWindow(n_sink=1), n_layer=2, n_ctx=4, n_tokens=9)
    >>> held.tolist()
    [[0, 6, 7, 8], [0, 6, 7, 8]]

`python tests/reference/replay.py` prints the coverage table of docs/policies.md; a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lacache_gguf.policies import Ladder, Policy, SinkWindow, View

BANDS = ((0, 1024), (1024, 2048), (2048, 4096), (4096, 8192), (8192, 12288))  # ages in tokens, half open


def replay(
    policy: Policy, *, n_layer: int, n_ctx: int, n_tokens: int, n_block: int = 1, n_pinned: int = 0
) -> Iterator[np.ndarray]:
    """Yield int [n_layer, n_cells], the token numbers held, after every block of `n_block` tokens.

    Before a block enters a memory that has no room for it, the policy frees what is missing.
    """
    held = np.empty((n_layer, n_ctx), dtype=np.int64)
    n_cells = cursor = sweep = 0
    for token in range(0, n_tokens, n_block):
        n_new = min(n_block, n_tokens - token)
        n_free = n_cells + n_new - n_ctx
        if n_free > 0:
            plan = policy.plan(View(n_layer, n_cells, n_free, n_pinned, cursor, sweep))
            cursor, sweep = plan.cursor, plan.sweep
            held[:, : plan.n_kept] = np.take_along_axis(held, plan.keep, axis=1)
            n_cells = plan.n_kept
        held[:, n_cells : n_cells + n_new] = np.arange(token, token + n_new)
        n_cells += n_new
        yield held[:, :n_cells].copy()


def coverage(policy: Policy, n_layer: int, n_ctx: int = 1024, n_tokens: int = 16384, n_block: int = 64) -> list[float]:
    """[distinct tokens held in any layer / n_ctx, then per age band the % of its tokens held in any layer].

    The mean over the last quarter of the stream, taken after every block, so that the phase of the sweep evens out.
    """
    samples = []
    for i, held in enumerate(replay(policy, n_layer=n_layer, n_ctx=n_ctx, n_tokens=n_tokens, n_block=n_block)):
        n_seen = (i + 1) * n_block
        if n_seen <= n_tokens * 3 // 4:
            continue
        by_age = np.zeros(n_seen, dtype=bool)
        by_age[n_seen - 1 - held.ravel()] = True
        bands = [100 * float(by_age[young:old].mean()) for young, old in BANDS]
        samples.append([by_age.sum() / n_ctx, *bands])
    return np.mean(samples, axis=0).tolist()


def coverage_rows() -> list[str]:
    """The rows of the coverage table of docs/policies.md."""
    cases: list[tuple[int, Policy]] = []
    for n_layer in (30, 32):
        cases.append((n_layer, SinkWindow()))
        cases += [(n_layer, Ladder(span=n_layer // 2, n_recent=512, layers=how)) for how in ("interleaved", "digit")]
        for span, overlap in ((n_layer // 2, 0), (8, 4)):
            cases += [(n_layer, Ladder(span, overlap, layers=how)) for how in ("interleaved", "contiguous", "digit")]
    rows = []
    for n_layer, policy in cases:
        ratio, *bands = coverage(policy, n_layer)
        numbers = " | ".join(f"{percent:.0f}" for percent in bands)
        rows.append(f"| {n_layer} | {label(policy)} | {ratio:.2f} | {numbers} |")
    return rows


def label(policy: Policy) -> str:
    """`Ladder(span=15, overlap=0, n_recent=512, "digit")`: the settings that matter in the table."""
    if not isinstance(policy, Ladder):
        return f"`{type(policy).__name__}(n_sink={policy.n_sink})`"
    recent = "" if policy.n_recent is None else f", n_recent={policy.n_recent}"
    return f'`Ladder({policy.span}, {policy.overlap}{recent}, layers="{policy.layers}")`'


def documented_rows(doc: Path) -> list[str]:
    """The same rows as they stand in the document."""
    return re.findall(r"^\| \d+ \| `.*\|$", doc.read_text(encoding="utf-8"), flags=re.MULTILINE)


if __name__ == "__main__":
    print("\n".join(coverage_rows()))
