"""`lacache summarize FILE... | -`: documents of any length -> a summary and its places, streamed, or a JSON object."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from lacache_app import options
from lacache_app.memory_flags import is_policy_given
from lacache_app.terminal import Terminal, mib, stop_on_ctrl_c

if TYPE_CHECKING:
    from lacache_app.documents import Document
    from lacache_app.summarize import Job, Jobs, Result, Stage, Task

HELP = "summarize documents of any length: PDF, DOCX, EPUB, HTML, Markdown, text, or standard input (-)"
EXAMPLES = """\
examples:
  lacache summarize book.epub
  lacache summarize report.pdf --mode parts --style bullets --language German
  lacache summarize chapter1.md chapter2.md -p "List the people and what they want."
  git log | lacache summarize - --json
  lacache summarize --resume                    # what was stopped, by Ctrl-C or by a crash, and how to go on

While it works, what was read is kept in the data folder (the document's text with it), so that it can go on after a
stop; it is deleted when the summary is done. --no-save keeps nothing.

defaults here: -n 256 --temp 0.3 --repeat-penalty 1.1 --seed 0
"""
N_PREDICT = 256
SAMPLING = {"temperature": 0.3, "repeat_penalty": 1.1, "seed": 0}
"""Those of lacache_app.summarize, here so that --help need not import it; a test compares them."""
_MODES = ("whole", "parts")
_STYLES = ("paragraph", "bullets", "outline", "simple")
_LENGTHS = ("short", "medium", "long")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("files", nargs="*", metavar="FILE", help="documents; - is standard input")
    group = parser.add_argument_group("summary")
    group.add_argument(
        "--mode", type=options.one_of(*_MODES), default="whole", metavar="|".join(_MODES),
        help="read the whole document and then write (default), or summarize part by part; better with small models",
    )  # fmt: skip
    group.add_argument(
        "--style", type=options.one_of(*_STYLES), default="paragraph", metavar="STYLE",
        help=f"{', '.join(_STYLES)} (default: paragraph)",
    )  # fmt: skip
    group.add_argument(
        "--length", type=options.one_of(*_LENGTHS), default="medium", metavar="LENGTH",
        help=f"{', '.join(_LENGTHS)} (default: medium); -n sets it in tokens",
    )  # fmt: skip
    group.add_argument(
        "--language", type=options.plain_text, default="", metavar="NAME",
        help="language of the summary, such as German (default: the document's)",
    )  # fmt: skip
    group.add_argument(
        "-p", "--prompt", "--instruction", dest="prompt", type=options.plain_text, default=None, metavar="TEXT",
        help="what to do instead of summarizing",
    )  # fmt: skip
    group.add_argument("--json", action="store_true", help="print one JSON object and nothing else on standard output")
    group.add_argument(
        "--resume", nargs="?", const="", default=None, metavar="ID",
        help="go on with a summary that was stopped; without ID: list them",
    )  # fmt: skip
    group.add_argument("--no-save", action="store_true", help="write nothing to the data folder: no resume")
    options.add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Summarize all files as one document, or go on with a job."""
    from lacache_app.paths import data_dir
    from lacache_app.summarize import Jobs, resume, summarize

    from lacache_gguf.errors import UsageError

    terminal = Terminal()
    if args.resume is not None and args.files:
        raise UsageError(f"--resume goes on with a document that was read before; leave out {args.files[0]}")
    if args.resume == "":
        return list_jobs(Jobs(data_dir()), terminal)
    if args.resume is not None:
        job = Jobs(data_dir()).get(args.resume)
        document = job.document
        _engine_of(job, args)
        options.fill_defaults(args, predict=N_PREDICT, **SAMPLING)
        with options.open_engine(args, terminal) as engine:
            return _show(resume(engine, job), engine, document, job.task, job, args, terminal)
    task = _task(args)
    options.fill_defaults(args, predict=task.n_final, **SAMPLING)
    document = _document(args, terminal)
    job = None
    if not args.no_save:
        jobs = Jobs(data_dir())
        jobs.prune()
        job = jobs.create(document, task)
    with options.open_engine(args, terminal) as engine:
        stream = summarize(engine, document, task, job=job, **options.sampling_settings(args))
        return _show(stream, engine, document, task, job, args, terminal)


def _task(args: argparse.Namespace) -> Task:
    from lacache_app.summarize import Task

    from lacache_gguf.errors import UsageError

    if not args.files:
        raise UsageError("no document: give at least one FILE, or - for standard input")
    if args.files.count("-") > 1:
        raise UsageError("standard input (-) can be read only once; give - once")
    if args.prompt is not None and not args.prompt.strip():
        raise UsageError("the prompt is empty; say what to do with the document")
    return Task(args.mode, args.style, args.length, args.language, args.prompt or "")


def _document(args: argparse.Namespace, terminal: Terminal) -> Document:
    from lacache_app.documents import join, read_document

    document = join([read_document(path) for path in args.files])
    if document.note:
        terminal.note("\n".join(f"note: {line}" for line in document.note.splitlines()))
    return document


def _engine_of(job: Job, args: argparse.Namespace) -> None:
    """Model and memory that the job was begun with, where no flag says otherwise: its saved memory fits no other."""
    engine = job.engine
    if args.model is None:
        args.model = engine["model"]
    if args.ctx_size is None and args.kv_budget is None:
        args.ctx_size = engine["n_ctx"]
    args.cache_type_k, args.cache_type_v = args.cache_type_k or engine["type_k"], args.cache_type_v or engine["type_v"]
    if not is_policy_given(args):
        args.stored_policy = engine["policy"]


def list_jobs(jobs: Jobs, terminal: Terminal) -> int:
    """Print what can be gone on with."""
    found = jobs.unfinished()
    if not found:
        terminal.note("nothing to go on with: every summary was finished")
    for job in found:
        terminal.write(f"lacache summarize --resume {job.id}    # {job.name}, {100 * job.fraction:.0f} % read\n")
    return 0


@dataclass
class Shown:
    """What came out of a stream: the final text as streamed, why it ended, and the result if it was reached."""

    text: str = ""
    finish_reason: str = "stop"
    result: Result | None = None


def _show(
    stream: Generator[Any, None, None], engine: Any, document: Document, task: Task, job: Job | None,
    args: argparse.Namespace, terminal: Terminal,
) -> int:  # fmt: skip
    """Show a stream and what it cost. Returns the exit code."""
    from lacache_app.summarize import Ledger, counters

    ledger = Ledger(engine)
    with closing(stream):
        shown = show(ledger.watch(stream), task, terminal, is_silent=args.json)
    costs = counters(ledger.stats)
    is_stopped = shown.finish_reason == "interrupted"
    if args.json:
        result = shown.result
        answer = {
            "summary": (result.summary if result else shown.text).strip(),
            "finish_reason": shown.finish_reason,
            "mode": task.mode,
            "places": [asdict(place) for place in result.places] if result else [],
            "model": engine.model.name,
            "policy": engine.policy.name,
            "documents": args.files or [document.name],
            **costs,
        }
        terminal.write(json.dumps(answer, ensure_ascii=False) + "\n")
    else:
        terminal.note("")
        Terminal(out=terminal.err).table(table_rows(costs))
    if is_stopped and job and job.is_on_disk:
        terminal.note(f"go on with: lacache summarize --resume {job.id}")
    return 130 if is_stopped else 0


def show(stream: Generator[Any, None, None], task: Task, terminal: Terminal, is_silent: bool = False) -> Shown:
    """Draw the reading bar, then print the final text as it comes (unless silent), then where it comes from.

    Ctrl-C ends it after the current step: the text so far is kept and the reason is "interrupted".
    """
    shown = Shown()
    try:
        with stop_on_ctrl_c() as stop, terminal.reading() as on_progress:
            bar = _Bar(on_progress, task)
            for event in stream:
                is_step = hasattr(event, "token")
                if is_step and bar.is_final:
                    text = event.text if shown.text else event.text.lstrip()
                    shown.text += text
                    if not is_silent:
                        terminal.stream(text)
                    shown.finish_reason = event.finish_reason or shown.finish_reason
                elif hasattr(event, "summary"):
                    shown.result = event
                elif type(event).__name__ == "Note":
                    terminal.note(f"note: {event.text}")
                elif hasattr(event, "n_stages") or hasattr(event, "n_done"):
                    bar.update(event)
                if stop.requested and shown.result is None and not (is_step and event.finish_reason and bar.is_final):
                    shown.finish_reason = "interrupted"
                    break
    finally:
        stream.close()
        if shown.text and not is_silent:
            terminal.end_stream()
    if shown.result and not is_silent:
        _print_places(shown.result, terminal)
    if shown.finish_reason == "interrupted":
        terminal.note("stopped; what was read and written so far is kept")
    elif shown.finish_reason == "length":
        terminal.note("(cut at -n tokens)")
    return shown


class _Bar:
    """The reading bar over all stages: tokens of all of them, and the time that reading and writing took so far."""

    def __init__(self, on_progress: Callable[..., None], task: Task) -> None:
        from lacache_app.summarize import Meter

        self._on_progress, self._start = on_progress, time.monotonic()
        self._stage: Stage | None = None
        self._meter = Meter(task)
        self._n_first: int | None = None

    @property
    def is_final(self) -> bool:
        """Whether what is written now is the summary itself."""
        return self._stage is None or self._stage.is_final

    def update(self, event: Any) -> None:
        """Take a Stage or a Progress."""
        self._meter.update(event)
        if hasattr(event, "n_stages"):
            self._stage = event
        elif self._stage is None or self._stage.n_stages == 1:
            self._on_progress(event)
        else:
            stage = self._stage
            n_done = round(self._meter.fraction * stage.n_total)
            if self._n_first is None:
                self._n_first = stage.n_before
            seconds = time.monotonic() - self._start
            overall = replace(event, n_done=n_done, n_total=stage.n_total, n_before=self._n_first, seconds=seconds)
            self._on_progress(overall, f"{stage.index + 1}/{stage.n_stages} {stage.title}")


def _print_places(result: Result, terminal: Terminal) -> None:
    """Where the sentences, or the parts, are in the document."""
    if not result.places:
        return
    terminal.write("\n")
    for place in result.places:
        terminal.stream(f"{place.name}: {place.text}")
        terminal.end_stream()


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
