"""`lacache demo`: a small model reads three times its trained context through a small fixed memory, and sums it up."""

from __future__ import annotations

import argparse

from lacache_app import options
from lacache_app.commands.summarize import N_PREDICT, SAMPLING, show, table_rows
from lacache_app.terminal import Terminal, mib

HELP = "read the Python language reference, three times the model's context, through a small fixed memory"
EXAMPLES = """\
examples:
  lacache demo
  lacache demo --tokens 100000 -c 512
  lacache demo --policy sink_window

defaults here: -n 256 --temp 0.3 --repeat-penalty 1.1 --seed 0
"""
N_TOKENS = 25_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "--tokens", type=options.whole(1, "tokens"), default=N_TOKENS, metavar="N",
        help=f"tokens of the document to read (default: {N_TOKENS:,}; there are about 100,000)",
    )  # fmt: skip
    options.add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Read, summarize, and show what it cost beside what a full cache would have."""
    terminal = Terminal()
    options.fill_defaults(args, predict=N_PREDICT, **SAMPLING)
    from lacache_app.summarize import Task, counters, summarize

    text, task = python_reference(), Task()
    with options.open_engine(args, terminal) as engine:
        terminal.note(
            f"{engine.model.name} was trained on {engine.n_ctx_train:,} tokens. It now reads {args.tokens:,} tokens\n"
            f"of the Python language reference through {engine.n_ctx:,} cells, which is "
            f"{mib(engine.stats.kv_bytes)} of KV memory,\nand then sums them up.\n"
        )
        text = engine.detokenize(engine.tokenize(text)[: args.tokens])
        stream = summarize(engine, text, task, **options.sampling_settings(args))
        finish_reason = show(stream, task, terminal).finish_reason
        terminal.write("\n")
        terminal.table(table_rows(counters(engine.stats)))
    return 130 if finish_reason == "interrupted" else 0


def python_reference() -> str:
    """The Python language reference: real English prose that comes with every Python.

    Raises UsageError where it was left out.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        from lacache_gguf.errors import UsageError

        raise UsageError(
            "this Python comes without pydoc_data; try `lacache summarize FILE` with a text of your own"
        ) from None
    return "\n\n".join(topics[name].strip() for name in sorted(topics))
