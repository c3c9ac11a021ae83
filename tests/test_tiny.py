"""The main job on one page: a document goes in, a summary comes out, the memory stays bounded. Needs nothing."""

from __future__ import annotations

from lacache_app.summarize import Task, counters, summarize

DOCUMENT = "It was a bright cold day in April, and the clocks were striking thirteen. " * 200
INSTRUCTION = "Summarize."


def test_document_to_summary(fake_engine):
    engine = fake_engine(n_ctx=256, n_ubatch=64)
    text, cells, n_done = "", [], 0
    for event in summarize(engine, DOCUMENT, Task(instruction=INSTRUCTION)):
        if hasattr(event, "token"):
            text += event.text
        elif hasattr(event, "n_cells"):
            cells.append(event.n_cells)
            assert event.n_done > n_done, "progress must go on"
            n_done = event.n_done

    assert text == f"A summary of {n_done} tokens, café included."
    assert n_done > len(DOCUMENT) > 50 * engine.n_ctx, "the document is many times larger than the memory"
    assert max(cells) <= engine.n_ctx == 256, "the budget is never exceeded"

    seen = engine.detokenize(engine.seen)
    head = engine.detokenize(engine.seen[: engine.n_pinned])
    assert head.endswith(INSTRUCTION + "\n\n"), "the instruction is pinned before the document"
    assert seen.index(DOCUMENT) == len(head)
    assert INSTRUCTION in seen[len(head) + len(DOCUMENT) :], "and repeated behind it"

    costs = counters(engine.stats)
    assert costs["n_seen"] == len(engine.seen)
    assert costs["n_compactions"] > 100
    assert costs["kv_mib_used_peak"] <= costs["kv_mib_allocated"] < costs["kv_mib_full_cache"] / 50
