"""A document of any length -> tokens -> a stream of progress and summary text.

What it is: `build_prompt` puts the document inside the model's own chat template, `summarize` feeds it to an engine,
`counters` says what it cost. No printing, no files.
What it does not know: how the memory is bounded; a document many times longer than the memory is the usual case.

    for event in summarize(engine, text, max_tokens=200):
        ...                                  # Progress while reading, then one Step per token
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lacache_gguf.engine import Engine
    from lacache_gguf.events import Progress, Stats, Step

INSTRUCTION = "Summarize the following document: say what it is about and give its main points in a few sentences."
_SENTINEL = "LACACHE5DOCUMENT7GOES9HERE"  # letters and digits only: no template changes or escapes it


@dataclass(frozen=True)
class Prompt:
    """Tokens to read: the first `n_pinned` (template, instruction) stay, then `n_document`, then the repetition."""

    tokens: list[int]
    n_pinned: int
    n_document: int


def build_prompt(
    engine: Engine, text: str, instruction: str = INSTRUCTION, n_document_max: int | None = None
) -> Prompt:
    """One user message: instruction, document, instruction again.

    Control tokens written in the document are text, so it cannot end the message or pose as the system.
    `n_document_max` cuts it. Raises UnsupportedModel if the template does not carry a message's text through.
    """
    content = f"{instruction}\n\n{_SENTINEL}\n\n{instruction}"
    parts = engine.render([{"role": "user", "content": content}]).split(_SENTINEL)
    if len(parts) != 2:
        from lacache_gguf.errors import UnsupportedModel

        raise UnsupportedModel(
            f"the model's chat template shows a message {len(parts) - 1} times instead of once; "
            "use a model with another template"
        )
    bos, head = engine.bos_tokens(), engine.tokenize(parts[0], special=True)
    if head[: len(bos)] != bos:
        head = [*bos, *head]
    document = engine.tokenize(text)[:n_document_max]
    tail = engine.tokenize(parts[1], special=True)
    return Prompt([*head, *document, *tail], len(head), len(document))


def summarize(
    engine: Engine,
    text: str,
    *,
    instruction: str = INSTRUCTION,
    max_tokens: int | None = None,
    n_document_max: int | None = None,
    **sampling: Any,
) -> Generator[Progress | Step, None, None]:
    """Read `text` with a fresh memory, then write the summary. Closing the generator stops it, also while reading.

    `sampling` goes to Engine.generate (temperature, top_k, seed, ...).
    """
    prompt = build_prompt(engine, text, instruction, n_document_max)
    engine.reset()
    yield from engine.generate(prompt.tokens, n_pinned=prompt.n_pinned, max_tokens=max_tokens, **sampling)


def counters(stats: Stats) -> dict[str, Any]:
    """What a run cost, for the table and for JSON: counts, MiB, tokens/s and seconds."""
    return {
        "n_seen": stats.n_seen,
        "n_ctx": stats.n_ctx,
        "n_cells_peak": stats.n_cells_peak,
        "n_compactions": stats.n_compactions,
        "n_evicted": stats.n_evicted,
        "compact_share": round(stats.compact_share, 6),
        "kv_mib_allocated": round(stats.kv_bytes / 2**20, 3),
        "kv_mib_used_peak": round(stats.kv_bytes_used_peak / 2**20, 3),
        "kv_mib_full_cache": round(stats.kv_bytes_full / 2**20, 3),
        "n_read": stats.n_read,
        "n_decoded": stats.n_decoded,
        "read_tokens_per_s": round(stats.read_tps, 2),
        "decode_tokens_per_s": round(stats.decode_tps, 2),
        "seconds": {name: round(value, 4) for name, value in stats.seconds.items()},
    }
