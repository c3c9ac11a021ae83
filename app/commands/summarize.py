"""`lacache summarize FILE... | -`: text and Markdown of any length -> a summary, streamed, or one JSON object."""

from __future__ import annotations

import argparse
import json
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from lacache_app import options
from lacache_app.summarize import INSTRUCTION, counters, summarize
from lacache_app.terminal import Terminal, mib, stop_on_ctrl_c

if TYPE_CHECKING:
    from lacache_app.documents import Document

    from lacache_gguf.events import Progress, Step

HELP = "summarize text or Markdown files of any length, or standard input (-)"
EXAMPLES = """\
examples:
  lacache summarize book.txt
  lacache summarize chapter1.md chapter2.md -p "List the people and what they want."
  git log | lacache summarize - --json

defaults here: -n 256 --temp 0.3 --repeat-penalty 1.1 --seed 0
"""
N_PREDICT = 256
SAMPLING = {"temperature": 0.3, "repeat_penalty": 1.1, "seed": 0}
"""Defaults of summaries: nearly the likeliest words, but no loops, and the same summary each time."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="text or Markdown files; - is standard input")
    parser.add_argument(
        "-p", "--prompt", "--instruction", type=options.plain_text, default=INSTRUCTION, metavar="TEXT",
        help="what to do instead of summarizing",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else on standard output")
    options.add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Summarize all files as one document."""
    from lacache_app.documents import read_document

    from lacache_gguf.errors import UsageError

    terminal = Terminal()
    options.fill_defaults(args, predict=N_PREDICT, **SAMPLING)
    if args.files.count("-") > 1:
        raise UsageError("standard input (-) can be read only once; give - once")
    if not args.prompt.strip():
        raise UsageError("the prompt is empty; say what to do with the document")
    documents = [read_document(path) for path in args.files]
    for document in documents:
        if document.note:
            terminal.note(f"note: {document.note}")
    with options.open_engine(args, terminal) as engine:
        stream = summarize(engine, join(documents), instruction=args.prompt, **options.sampling_settings(args))
        text, finish_reason = show(stream, terminal, is_silent=args.json)
        costs = counters(engine.stats)
        if args.json:
            result = {
                "summary": text.strip(),
                "finish_reason": finish_reason,
                "model": engine.model.name,
                "policy": engine.policy.name,
                "documents": [document.name for document in documents],
                **costs,
            }
            terminal.write(json.dumps(result, ensure_ascii=False) + "\n")
        else:
            terminal.note("")
            Terminal(out=terminal.err).table(table_rows(costs))
    return 130 if finish_reason == "interrupted" else 0


def join(documents: list[Document]) -> str:
    """One text of several documents, each under its name."""
    if len(documents) == 1:
        return documents[0].text
    return "\n\n".join(f"File: {document.name}\n\n{document.text}" for document in documents)


def show(
    stream: Generator[Progress | Step, None, None], terminal: Terminal, is_silent: bool = False
) -> tuple[str, str]:
    """Draw the reading bar, then print the text as it comes (unless silent). Returns (text, finish reason).

    Ctrl-C ends it after the current step: the text so far is kept and the reason is "interrupted".
    """
    pieces: list[str] = []
    reason = "stop"
    try:
        with stop_on_ctrl_c() as stop, terminal.reading() as on_progress:
            for event in stream:
                is_step = hasattr(event, "token")
                if is_step:
                    text = event.text if any(pieces) else event.text.lstrip()
                    pieces.append(text)
                    if not is_silent:
                        terminal.stream(text)
                    reason = event.finish_reason or reason
                else:
                    on_progress(event)
                if stop.requested and not (is_step and event.finish_reason):
                    reason = "interrupted"
                    break
    finally:
        stream.close()
        if pieces and not is_silent:
            terminal.end_stream()
    if reason == "interrupted":
        terminal.note("stopped; what was read and written so far is kept")
    elif reason == "length":
        terminal.note("(cut at -n tokens)")
    return "".join(pieces), reason


def table_rows(costs: dict[str, Any]) -> list[tuple[str, str]]:
    """The table under a summary."""
    seconds = costs["seconds"]
    return [
        ("tokens seen", f"{costs['n_seen']:,}"),
        ("cells, peak", f"{costs['n_cells_peak']:,} of {costs['n_ctx']:,}"),
        ("KV memory used", mib(costs["kv_mib_used_peak"] * 2**20)),
        ("KV memory of a full cache", mib(costs["kv_mib_full_cache"] * 2**20)),
        ("compactions", f"{costs['n_compactions']:,} ({100 * costs['compact_share']:.1f} % of the time)"),
        ("reading", f"{costs['read_tokens_per_s']:,.0f} tokens/s ({seconds['read']:,.1f} s)"),
        ("writing", f"{costs['decode_tokens_per_s']:,.0f} tokens/s ({seconds['decode'] + seconds['sample']:,.1f} s)"),
    ]
