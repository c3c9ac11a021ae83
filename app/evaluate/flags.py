"""What all kinds of `lacache eval` share: flags for memories, sizes, texts and results, the bench, the run with a bar.

What it does not know: what is measured. Importing this loads neither numpy nor the library.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacache_app import options
from lacache_app.terminal import Terminal, stop_on_ctrl_c

if TYPE_CHECKING:
    from lacache_app.evaluate.bench import Bench
    from lacache_app.evaluate.results import ResultLog
    from lacache_app.evaluate.runner import Item, Run
    from lacache_app.memory_spec import MemorySpec, Size

N_TOKENS = 4096
N_CELLS = "512"
N_UBATCH = 16
MEMORIES = ("default", "sink_window", "full")


def add_common(
    parser: argparse.ArgumentParser, n_cells: str = N_CELLS, has_results: bool = True, has_plots: bool = True
) -> None:
    """Memories, sizes, model and files."""
    group = parser.add_argument_group("memories")
    group.add_argument(
        "--memory", action="append", default=[], metavar="KIND",
        help=f"a memory under test; may be given many times (default: {', '.join(MEMORIES)})",
    )  # fmt: skip
    group.add_argument(
        "-c", "--ctx-size", dest="sizes", default=None, metavar="N[,N...]",
        help=f"equal cells for all, or several sizes in turn (default: {n_cells})",
    )  # fmt: skip
    group.add_argument("--kv-budget", dest="budgets", default=None, metavar="SIZE[,SIZE...]", help="equal bytes: 8MiB")
    for option in options.MEMORY:
        if option.dest in ("cache_type_k", "cache_type_v", "flash_attn"):
            group.add_argument(
                *option.flags, dest=option.dest, type=option.parse, metavar=option.metavar, help=option.help
            )
    group.add_argument(
        "-ub", "--ubatch", "--ubatch-size", dest="ubatch_size", type=options.whole(1, "tokens"), default=N_UBATCH,
        metavar="N", help=f"tokens to read at once; 1 = token by token, as published (default: {N_UBATCH})",
    )  # fmt: skip
    group = parser.add_argument_group("model")
    for option in options.MODEL:
        group.add_argument(*option.flags, dest=option.dest, type=option.parse, metavar=option.metavar, help=option.help)
    group.add_argument("--offline", action="store_true", default=None, help="never use the network")
    parser.set_defaults(json_out=None, resume=False, plots=None)
    if has_results:
        group = parser.add_argument_group("results")
        group.add_argument(
            "--json-out", type=Path, metavar="FILE", help="a line of JSON for every finished measurement"
        )
        group.add_argument("--resume", action="store_true", help="go on with that file: what is in it is not run again")
        if has_plots:
            group.add_argument(
                "--plots", type=Path, metavar="DIR", help="draw PNG files there (needs the extra `plots`)"
            )
    mine = ("cache_type_k", "cache_type_v", "flash_attn", "ubatch_size")
    others = (option for option in (*options.MEMORY, *options.SAMPLING) if option.dest not in mine)
    parser.set_defaults(**{option.dest: None for option in others})


def add_texts(parser: argparse.ArgumentParser, n_tokens: int = N_TOKENS) -> None:
    """Texts and how much of them."""
    group = parser.add_argument_group("texts")
    group.add_argument(
        "--text", action="append", default=[], metavar="FILE",
        help="a text; may be given many times (default: pydoc, the Python language reference)",
    )  # fmt: skip
    group.add_argument(
        "--tokens", type=options.whole(1, "tokens"), default=n_tokens, metavar="N",
        help=f"tokens to predict of every text (default: {n_tokens:,})",
    )  # fmt: skip
    group.add_argument(
        "--skip",
        type=options.whole(0, "tokens"),
        default=0,
        metavar="N",
        help="tokens at its beginning to leave out",
    )


def specs_of(args: argparse.Namespace, memories: Sequence[str] = MEMORIES) -> list[MemorySpec]:
    """The memories that were asked for. Raises UsageError."""
    from lacache_app.memory_spec import parse_memory

    types = (args.cache_type_k, args.cache_type_v)
    return [parse_memory(text, *types) for text in dict.fromkeys(args.memory or memories)]


def sizes_of(args: argparse.Namespace, default: str = N_CELLS) -> list[Size]:
    """The sizes that were asked for. Raises UsageError."""
    from lacache_app.memory_spec import parse_size

    from lacache_gguf.errors import UsageError

    if args.sizes and args.budgets:
        raise UsageError(f"-c {args.sizes} and --kv-budget {args.budgets} both set the KV memory; give one of them")
    return [parse_size(word) for word in dict.fromkeys((args.sizes or args.budgets or default).split(","))]


def open_bench(args: argparse.Namespace, terminal: Terminal) -> Bench:
    """Load the model that the flags name."""
    from lacache_app.evaluate.bench import Bench

    if getattr(args, "verbose", False):
        from lacache_gguf import native

        native.set_verbose(True)
    model = options.find_model(args, terminal)
    settings = {
        "model": model.name if model.source == "hub" else args.model,
        "flash_attn": {"on": True, "off": False, "auto": None}[args.flash_attn],
        **options.computing(args),
    }
    with terminal.waiting(f"loading {settings['model']} ..."):
        return Bench(settings, model.path, options.engine_class())


def open_log(args: argparse.Namespace) -> ResultLog:
    """The results file of the flags. Raises UsageError if it must not be touched."""
    from lacache_app.evaluate.results import ResultLog, provenance

    from lacache_gguf.errors import UsageError

    if args.resume and args.json_out is None:
        raise UsageError("--resume goes on with a results file; name it with --json-out FILE")
    return ResultLog(args.json_out, args.resume, provenance())


def carry_out(items: Sequence[Item], log: ResultLog, terminal: Terminal) -> Run:
    """Run the items with a bar; says what was stored, stopped and refused."""
    from lacache_app.evaluate.runner import run

    n_stored = sum(log.find(item.identity) is not None for item in items)
    if n_stored:
        terminal.note(f"{n_stored} of {len(items)} measurements are in {log.path} already")
    with stop_on_ctrl_c() as stop, terminal.reading() as on_progress:
        result = run(items, log, on_progress, lambda: stop.requested)
    for item in items:
        if item.id in result.refused:
            terminal.note(f"refused: {item.title}: {result.refused[item.id]}")
    if result.is_stopped:
        how = f"; go on with --resume --json-out {log.path}" if log.path else ""
        terminal.note(f"stopped; what was measured so far is below{how}")
    return result


def exit_code(result: Run) -> int:
    """130 stopped, 7 nothing could be measured, else 0."""
    return 130 if result.is_stopped else 0 if result.rows else 7


def prepare(args: argparse.Namespace) -> None:
    """Fill what no flag set. Raises UsageError if pictures are wanted and cannot be drawn."""
    if args.plots is not None:
        from lacache_app.evaluate.plots import check_matplotlib

        check_matplotlib()
    options.fill_defaults(args)


def draw(args: argparse.Namespace, terminal: Terminal, kind: str, cases: Sequence[Any], run: Run) -> None:
    """Draw the pictures that --plots asks for; `kind`: perplexity, agreement or recall."""
    if args.plots is None:
        return
    from lacache_app.evaluate import plots

    paths = getattr(plots, f"{kind}_plots")(cases, run, args.plots)
    terminal.note("\n".join(f"drew {path}" for path in paths) or "nothing to draw")


def baseline_of(args: argparse.Namespace, specs: Sequence[MemorySpec]) -> str:
    """Name of the memory that differences are given to. Raises UsageError if it is not among them."""
    from lacache_gguf.errors import UsageError

    names = [spec.name for spec in specs]
    if args.baseline is not None and args.baseline not in names:
        raise UsageError(f"--baseline {args.baseline!r} is not among the memories: {', '.join(names)}")
    plain = next((spec.name for spec in specs if spec.is_sink_window), names[0])
    return args.baseline or plain


def note_refused(cases: Sequence[Any], terminal: Terminal) -> None:
    """Say what cannot be measured at all, each reason once."""
    for line in dict.fromkeys(f"refused: {case.spec.name}: {case.refused}" for case in cases if case.refused):
        terminal.note(line)


def numbers(text: str, flag: str, least: float, most: float, unit: str) -> list[float]:
    """Numbers of a list such as "0.5,0.25". Raises UsageError."""
    from lacache_gguf.errors import UsageError

    found = []
    for word in dict.fromkeys(text.split(",")):
        try:
            found.append(float(word))
        except ValueError:
            found.append(least - 1)
        if not least <= found[-1] <= most:
            raise UsageError(f"{flag} {text}: {word!r} is no number of {unit}; give {least:g} to {most:g}")
    return found
