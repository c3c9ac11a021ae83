"""`lacache calibrate`: find the memory that suits a model, a budget and your kind of text, and keep it."""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING

from lacache_app import options
from lacache_app.evaluate.flags import add_common, open_bench, prepare, sizes_of
from lacache_app.terminal import Terminal, stop_on_ctrl_c

if TYPE_CHECKING:
    from lacache_app.evaluate.bench import Bench
    from lacache_app.evaluate.search import Clock, Finding
    from lacache_app.memory_spec import Size

    from lacache_gguf.engine import Engine
    from lacache_gguf.events import Progress

HELP = "find the memory that suits a model and your kind of text within a time limit, and use it from then on"
EXAMPLES = """\
examples:
  lacache calibrate --minutes 10
  lacache calibrate -m model.gguf --text mails.txt -c 2048 --minutes 30

Candidates read stretches of the text, the better half goes on; the last third of the text only checks the winner
against the default. It is kept, and used by chat, summarize and app for this model and about this budget, if it is
better beyond doubt (95 %) and finds as many pass keys in texts twice its cells long. --dry-run keeps nothing; --forget
drops what was kept for the model.
"""
N_MINUTES = 15
N_CELLS = "1024"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--text", default=None, metavar="FILE", help="a text like those you use (default: pydoc)")
    parser.add_argument(
        "--minutes", type=options.real(0.1, 100_000), default=float(N_MINUTES), metavar="N",
        help=f"time limit (default: {N_MINUTES})",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="tell what is found and keep nothing")
    parser.add_argument("--forget", action="store_true", help="drop what was kept for this model")
    add_common(parser, N_CELLS, has_results=False)


def run(args: argparse.Namespace) -> int:
    """Search, tell, keep."""
    from lacache_app.calibrated import forget_calibrations
    from lacache_app.evaluate.runner import Stopped
    from lacache_app.evaluate.search import CANDIDATES, Clock, search
    from lacache_app.evaluate.texts import load_texts, tokens_of
    from lacache_app.paths import data_dir

    from lacache_gguf.errors import UsageError

    terminal = Terminal()
    clock = Clock(60 * args.minutes)
    prepare(args)
    sizes = sizes_of(args, N_CELLS)
    if len(sizes) != 1:
        raise UsageError(f"{len(sizes)} sizes: calibrate one at a time")
    if args.forget:
        from lacache_gguf.checkpoint import fingerprint

        n = forget_calibrations(data_dir(), fingerprint(options.find_model(args, terminal).path))
        terminal.note(f"{n} findings dropped")
        return 0
    (text,) = load_texts([args.text] if args.text else [])
    with open_bench(args, terminal) as bench:
        tokens = tokens_of(bench.weights, text, 1 << 22)
        types = (args.cache_type_k, args.cache_type_v)
        with stop_on_ctrl_c() as stop, terminal.reading() as on_progress:
            tick = _Tick(clock, on_progress, lambda: stop.requested)
            try:
                found = search(
                    bench, tokens, sizes[0], clock, tick, n_ubatch=args.ubatch_size, types=types,
                    candidates=args.memory or CANDIDATES, note=terminal.note,
                )  # fmt: skip
            except Stopped:
                terminal.note("stopped; nothing was kept")
                return 130
        return _tell(args, terminal, bench, text.name, sizes[0], found)


def _tell(args: argparse.Namespace, terminal: Terminal, bench: Bench, text: str, size: Size, found: Finding) -> int:
    """Print the table and what it means, and keep what is better."""
    from lacache_app.calibrated import Calibration, save_calibration
    from lacache_app.evaluate.tables import aligned, signed
    from lacache_app.memory_spec import DEFAULT
    from lacache_app.paths import data_dir

    import lacache_gguf

    rows = [[name, f"{n}", signed(interval)] for name, n, interval in found.table]
    terminal.write(aligned(["memory", "stretches", "loss - default, searched"], rows))
    if found.winner == DEFAULT:
        terminal.write("\nno candidate read better than the default; it stays\n")
        return 0
    checked = f"on {found.n_tokens_held_out:,} tokens that took no part in the search: {signed(found.held_out)}"
    terminal.write(f"\n{found.winner}, loss less the default's {checked}\n")
    if not found.reads_better:
        terminal.write("that is not better beyond doubt, so the default stays; more --minutes or text tell more\n")
        return 0
    if found.recalled:
        n, n_default, n_prompts = found.recalled
        terminal.write(f"it finds {n} of {n_prompts} pass keys in texts twice its size, the default {n_default}\n")
    if not found.is_better:
        terminal.write("it forgets more of what is said once, so the default stays\n")
        return 0
    if args.dry_run:
        return 0
    n_ctx = size.cells(bench.geometry, args.cache_type_k, args.cache_type_v, args.ubatch_size)
    gain, low, high = (round(-x, 5) for x in (found.held_out.value, found.held_out.high, found.held_out.low))
    today = datetime.date.today().isoformat()
    entry = Calibration(
        found.winner, n_ctx, gain, low, high, text, found.n_tokens_held_out, today, lacache_gguf.__version__
    )
    save_calibration(data_dir(), bench.model["sha256"], entry)
    terminal.write(f"kept: used for {bench.model['name']} with {n_ctx // 2:,} to {2 * n_ctx:,} cells from now on\n")
    return 0


class _Tick:
    """Tokens read become progress against the time limit."""

    def __init__(
        self, clock: Clock, on_progress: Callable[[Progress, str], None], is_stopped: Callable[[], bool]
    ) -> None:
        self._clock, self._on_progress, self._is_stopped, self._n_done = clock, on_progress, is_stopped, 0

    def __call__(self, n_new: int, engine: Engine) -> None:
        from lacache_app.evaluate.runner import Stopped

        from lacache_gguf.events import Progress

        self._n_done += n_new
        spent, stats = self._clock.spent, engine.stats
        n_total = max(self._n_done, round(self._n_done * self._clock.seconds / max(1e-9, spent)))
        progress = Progress(self._n_done, n_total, stats.n_cells, stats.n_ctx, stats.n_compactions, spent)
        self._on_progress(progress, f"Trying {engine.policy.name}")
        if self._is_stopped():
            raise Stopped
