"""`lacache compare PROMPT`: one question under two to four memories of equal size, answers and costs side by side."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lacache_app import options
from lacache_app.memory_flags import POLICY_FIELDS
from lacache_app.terminal import Terminal, mib, stop_on_ctrl_c

if TYPE_CHECKING:
    from lacache_app.compare import Event, Outcome
    from lacache_app.memory_spec import MemorySpec

HELP = "let two to four memories of equal size answer one question, and show how their answers differ"
EXAMPLES = """\
examples:
  lacache compare "Who is the murderer?" -d novel.txt --kv-budget 16MiB
  lacache compare "Sum it up." -d report.pdf --memory salience --memory sink_window --memory full
  lacache compare "Sum it up." -d report.pdf --memory ladder:span=8 --memory ladder:k=q8_0,v=q4_0 --json

a memory is a policy with settings, as for lacache eval: default, full, sink_window, ladder, salience ..., then the
policy's fields (sink= and recent= for n_sink and n_recent), recent=25% of the cells, k= and v= (KV types)
defaults here: --kv-budget 16MiB -n 128 --temp 0 --seed 0
"""
BUDGET = "16MiB"
N_PREDICT = 128
POLICY_FLAGS = ("policy", *POLICY_FIELDS)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("prompt", type=options.plain_text, metavar="PROMPT", help="what every memory is asked")
    parser.add_argument(
        "-d", "--document", action="append", default=[], metavar="FILE",
        help="text to read before the question; may be given more than once, - is standard input",
    )  # fmt: skip
    parser.add_argument(
        "--memory", action="append", default=[], metavar="KIND",
        help="a memory to compare, 2 to 4 times (default: full, sink_window, the published ladder, and default)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else on standard output")
    options.add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Let them answer one after the other, then print the table, the answers and the differences."""
    from lacache_app.compare import LINE_UP, SAMPLING, Question, check_contenders, compare
    from lacache_app.documents import join, read_document
    from lacache_app.memory_spec import parse_memory

    from lacache_gguf.errors import UsageError

    terminal = Terminal()
    for flag in POLICY_FLAGS:
        if getattr(args, flag) is not None:
            raise UsageError(f"--{flag} {getattr(args, flag)}: say it for one memory, as in --memory ladder:span=8")
    has_cells = args.ctx_size is not None or os.environ.get("LLAMA_ARG_CTX_SIZE")
    options.fill_defaults(args, predict=N_PREDICT, **({} if has_cells else {"kv_budget": BUDGET}), **SAMPLING)
    for flag in POLICY_FLAGS:  # what an environment variable says about chats is nothing for a comparison
        setattr(args, flag, None)
    contenders = [parse_memory(text, args.cache_type_k, args.cache_type_v) for text in args.memory or LINE_UP]
    check_contenders(contenders)
    documents = [read_document(path) for path in args.document]
    for document in documents:
        if document.note:
            terminal.note(f"note: {document.note}")
    sampling = options.sampling_settings(args)
    max_tokens = sampling.pop("max_tokens") or N_PREDICT
    question = Question(args.prompt, join(documents).text if documents else "", max_tokens, sampling)
    settings = options.engine_settings(args, options.find_model(args, terminal))
    budget = _budget_bytes(settings)
    for name in ("n_ctx", "kv_budget", "policy", "type_k", "type_v"):
        settings.pop(name, None)
    events = compare(question, contenders, budget, settings=settings, open_engine=options.engine_class())
    outcomes, is_stopped = show(events, contenders, terminal)
    if args.json:
        rows = [outcome.as_dict() for outcome in outcomes]
        terminal.write(json.dumps({"prompt": args.prompt, "kv_budget_bytes": budget, "memories": rows}) + "\n")
    elif outcomes:
        terminal.write(report(outcomes, shutil.get_terminal_size().columns))
    return 130 if is_stopped else 0 if any(not outcome.refused for outcome in outcomes) else 7


def show(events: Iterator[Event], contenders: list[MemorySpec], terminal: Terminal) -> tuple[list[Outcome], bool]:
    """Progress on standard error; returns what came out, and whether Ctrl-C ended it."""
    from contextlib import ExitStack

    from lacache_app.compare import Outcome, Started

    from lacache_gguf.events import Progress

    outcomes: list[Outcome] = []
    with stop_on_ctrl_c() as stop, ExitStack() as bars:
        on_progress = None
        for event in events:
            what = event.event
            if isinstance(what, Started):
                terminal.note(f"{event.index + 1} of {len(contenders)}: {contenders[event.index].label}")
                on_progress = bars.enter_context(terminal.reading(is_brief=True))
            elif isinstance(what, Progress) and on_progress is not None:
                on_progress(what)
            elif isinstance(what, Outcome):
                bars.close()
                outcomes.append(what)
                if what.refused:
                    terminal.note(f"  refused: {what.refused}")
            if stop.requested:
                events.close()  # type: ignore[attr-defined]
                terminal.note("stopped; what was answered so far is kept")
                return outcomes, True
    return outcomes, False


def report(outcomes: list[Outcome], width: int) -> str:
    """Table of costs, then every answer: the first one whole, the others as changes to it, [-gone-] {+new+}."""
    from lacache_app.compare import word_diff

    lines = [*_table(outcomes), ""]
    first = next((outcome for outcome in outcomes if not outcome.refused), None)
    for outcome in outcomes:
        lines.append(f"{outcome.label}:")
        if outcome.refused:
            text = f"refused: {outcome.refused}"
        elif outcome is first:
            text = outcome.text
        else:
            marks = {"same": ("", ""), "del": ("[-", "-]"), "ins": ("{+", "+}")}
            parts = word_diff(first.text, outcome.text)  # type: ignore[union-attr]
            text = "".join(marks[kind][0] + words.strip() + marks[kind][1] + " " for kind, words in parts)
        for paragraph in text.split("\n"):
            lines += textwrap.wrap(paragraph, max(40, min(width, 100)) - 2, initial_indent="  ", subsequent_indent="  ")
        lines.append("")
    return "\n".join(lines)


def _table(outcomes: list[Outcome]) -> list[str]:
    head = ("memory", "cells", "MiB", "read", "thinned", "first token", "reading", "writing")
    rows = [head]
    for o in outcomes:
        if o.refused:
            rows.append((o.label, *("-",) * 7))
            continue
        rows.append(
            (
                o.label,
                f"{o.n_ctx:,}",
                mib(o.kv_bytes),
                f"{o.n_seen - o.n_written:,} tokens",
                f"{o.n_evicted:,}",
                f"{o.seconds_first:.1f} s",
                f"{o.read_tps:,.0f}/s",
                f"{o.decode_tps:,.0f}/s",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _budget_bytes(settings: dict) -> int:
    """The budget in bytes; cells (-c) count as cells of 16 bits."""
    from lacache_app.memory_spec import geometry_here

    from lacache_gguf.catalog import resolve
    from lacache_gguf.kv_budget import parse_budget

    budget = parse_budget(settings.get("kv_budget") or settings["n_ctx"])
    if budget.n_bytes is not None:
        return budget.n_bytes
    geometry = geometry_here(resolve(settings["model"]).path)
    return geometry.bytes(budget.n_cells or 1024, settings["n_ubatch"])
