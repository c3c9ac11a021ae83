"""Summaries against a reference: each memory reads a document and sums it up, ROUGE says how much it shares.

What it is: `cases`, an item for every (document, size, memory); the work is `lacache_app.summarize`, as the program
does it, with the likeliest token each time.
What it does not know: tables, file formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lacache_app.evaluate.bench import Bench, Setup
from lacache_app.evaluate.ppl import Case
from lacache_app.evaluate.rouge import rouge
from lacache_app.evaluate.runner import Item, Tick
from lacache_app.evaluate.texts import Text
from lacache_app.memory_spec import MemorySpec, Size

from lacache_gguf.errors import LacacheError

SAMPLING = {"temperature": 0.0, "repeat_penalty": 1.1, "seed": 0}
_N_AROUND = 512  # tokens beside the document: instructions, template, and the summary itself


def cases(
    bench: Bench,
    pairs: Sequence[tuple[Text, Text]],
    sizes: Sequence[Size],
    specs: Sequence[MemorySpec],
    n_ubatch: int,
    mode: str = "whole",
    length: str = "medium",
) -> list[Case]:
    """Every memory in every size on every (document, reference)."""
    found = []
    for document, reference in pairs:
        n_tokens = len(bench.weights.tokenize(document.text))
        for size in sizes or (None,):
            for spec in specs:
                try:
                    setup = bench.setup(spec, size, n_tokens + _N_AROUND, n_ubatch)
                except LacacheError as error:
                    found.append(Case(document, size, spec, refused=str(error)))
                    continue
                identity = {
                    "eval": "summary",
                    "model": bench.model["sha256"],
                    "text": document.identity,
                    "reference": reference.identity,
                    "mode": mode,
                    "length": length,
                    "n_ubatch": n_ubatch,
                    "sampling": SAMPLING,
                    "memory": setup.identity,
                }
                measure = _Measure(bench, setup, spec, size, document, reference, mode, length, n_ubatch)
                title = f"{spec.name} {setup.n_ctx:,} {document.name}"
                found.append(Case(document, size, spec, setup, Item(title, identity, n_tokens, measure)))
    return found


@dataclass(frozen=True)
class _Measure:
    bench: Bench
    setup: Setup
    spec: MemorySpec
    size: Size | None
    document: Text
    reference: Text
    mode: str
    length: str
    n_ubatch: int

    def __call__(self, tick: Tick) -> dict[str, Any]:
        from lacache_app.summarize import Result, Task, summarize

        from lacache_gguf.events import Progress

        written, n_done, n_compactions = "", 0, 0
        with self.bench.open(self.setup, self.n_ubatch) as engine:
            for event in summarize(engine, self.document.text, Task(self.mode, length=self.length), **SAMPLING):
                if isinstance(event, Progress):
                    n_new = event.n_done - n_done if event.n_done > n_done else event.n_done - event.n_before
                    n_done, n_compactions = event.n_done, max(n_compactions, event.n_compactions)
                    tick(max(0, n_new), engine)
                elif isinstance(event, Result):
                    written = event.summary
                else:
                    tick(0, engine)
        scores = rouge(self.reference.text, written)
        return {
            "name": self.spec.name,
            "size": self.size.text if self.size else None,
            "model_name": self.bench.model["name"],
            **{name: round(score.f, 5) for name, score in scores.items()},
            "precision": {name: round(score.precision, 5) for name, score in scores.items()},
            "recall": {name: round(score.recall, 5) for name, score in scores.items()},
            "summary": written,
            "kv_bytes": self.setup.kv_bytes,
            "n_compactions": n_compactions,
            "note": self.setup.note,
        }
