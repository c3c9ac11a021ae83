"""Pictures of results as PNG files: perplexity and agreement over the position in a text, quality against memory, and
what was remembered by depth and length.

What it is: one function for each, which writes its files and returns their paths. matplotlib, an optional extra, is
imported when a picture is drawn; no window is ever opened.
What it does not know: how anything was measured.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lacache_app.evaluate.agree import Agreement
from lacache_app.evaluate.ppl import Case, Perplexity
from lacache_app.evaluate.recall import Ratio, RecallCase
from lacache_app.evaluate.runner import Run
from lacache_app.evaluate.stats import Blocks, average
from lacache_app.evaluate.tables import size_title
from lacache_app.evaluate.tables_of_answers import scores_of
from lacache_app.evaluate.tasks import TASKS
from lacache_app.memory_spec import Size

from lacache_gguf.errors import StorageError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 130
_N_POINTS = 24  # of a curve: neighbouring blocks are put together until it has about so many
_STYLES: dict[str, dict[str, Any]] = {"full": {"color": "black", "linestyle": "--"}, "sink_window": {"color": "gray"}}


def check_matplotlib() -> None:
    """Raises UsageError, with what to do, if pictures cannot be drawn."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UsageError("pictures need matplotlib: pip install 'lacache-gguf[plots]' (or uv sync --extra plots)")


def perplexity_plots(cases: Sequence[Case], run: Run, folder: Path) -> list[Path]:
    """Perplexity over the position for every text and size, and quality against memory if there are several sizes."""
    paths = []
    for size, name, here in _groups(cases, run):
        figure, axes = _figure(1)
        for case, row in here:
            x, y = _curve(Perplexity.of(row).losses)
            axes[0].plot(x, np.exp(y), label=case.spec.name, **_style(case.spec.policy))
        _label(axes[0], "tokens read", "perplexity", f"{name}, {size_title(size)}")
        axes[0].legend()
        paths.append(_save(figure, folder, f"perplexity {name} {size.text if size else ''}"))
    return paths + _quality(cases, run, folder)


def agreement_plots(cases: Sequence[Case], run: Run, folder: Path) -> list[Path]:
    """Divergence from the full cache and same guesses over the position, for every text and size."""
    paths = []
    for size, name, here in _groups(cases, run):
        figure, axes = _figure(2)
        for case, row in here:
            found = Agreement.of(row)
            for ax, blocks, scale in ((axes[0], found.divergence, 1), (axes[1], found.same, 100)):
                x, y = _curve(blocks)
                ax.plot(x, scale * y, label=case.spec.name, **_style(case.spec.policy))
        _label(axes[0], "tokens read", "KL to the full cache, nats", f"{name}, {size_title(size)}")
        _label(axes[1], "tokens read", "same guess, %", "")
        axes[1].legend()
        paths.append(_save(figure, folder, f"agreement {name} {size.text if size else ''}"))
    return paths


def recall_plots(cases: Sequence[RecallCase], run: Run, folder: Path) -> list[Path]:
    """For every task whose answer stands at one place: a map of depth by length for every memory and size."""
    paths = []
    for task in dict.fromkeys(case.task for case in cases if TASKS[case.task].has_depth):
        here = [case for case in cases if case.task == task]
        for size in dict.fromkeys(case.size for case in here):
            of_size = [case for case in here if case.size == size]
            names = dict.fromkeys(case.spec.name for case in of_size)
            grids = {name: _grid([case for case in of_size if case.spec.name == name], run) for name in names}
            grids = {name: grid for name, grid in grids.items() if not np.isnan(grid).all()}
            if not grids:
                continue
            lengths = list(dict.fromkeys(case.length for case in of_size))
            figure, axes = _figure(len(grids), width=2.2 + 0.5 * len(lengths))
            for ax, (name, grid) in zip(axes, grids.items(), strict=True):
                picture = ax.imshow(100 * grid, vmin=0, vmax=100, aspect="auto", cmap="viridis")
                depths = sorted({case.depth for case in of_size})
                ax.set_xticks(range(len(lengths)), [f"{n:,}" for n in lengths])
                ax.set_yticks(range(len(depths)), [f"{100 * depth:.0f} %" for depth in depths])
                _label(ax, "prompt, tokens", "depth", name, has_grid=False)
            figure.colorbar(picture, ax=list(axes), label="right, %")
            figure.suptitle(f"{task}, {size.text if isinstance(size, Ratio) else size_title(size)}")
            paths.append(_save(figure, folder, f"{task} {size.text if size else ''}"))
    return paths


def quality(cases: Sequence[Case], run: Run) -> dict[str, list[tuple[float, float]]]:
    """For every memory its (MiB, perplexity, mean over the texts), where every text is known; rising MiB."""
    points: dict[str, dict[float, list[Blocks]]] = {}
    n_texts = len({case.text.name for case in cases})
    for case in {case.item.id: case for case in cases if case.item}.values():  # all sizes share the full cache
        if case.setup and case.item.id in run.rows:
            at = points.setdefault(case.spec.name, {}).setdefault(case.setup.kv_bytes / 2**20, [])
            at.append(Perplexity.of(run.rows[case.item.id]).losses)
    return {
        name: sorted((mib, math.exp(average(texts).value)) for mib, texts in at.items() if len(texts) == n_texts)
        for name, at in points.items()
    }


def _quality(cases: Sequence[Case], run: Run, folder: Path) -> list[Path]:
    """Perplexity, mean over the texts, against MiB."""
    known, policies = quality(cases, run), {case.spec.name: case.spec.policy for case in cases}
    if len({case.size for case in cases}) < 2 or not any(len(line) > 1 for line in known.values()):
        return []
    figure, axes = _figure(1)
    for name, line in known.items():
        if policies[name] == "full" and line:
            axes[0].axhline(line[0][1], label=f"{name} ({line[0][0]:,.0f} MiB)", **_style("full"))
        elif line:
            axes[0].plot(*zip(*line, strict=True), marker="o", label=name, **_style(policies[name]))
    texts = list(dict.fromkeys(case.text.name for case in cases))
    _label(axes[0], "KV memory, MiB", "perplexity", texts[0] if len(texts) == 1 else f"mean of {len(texts)} texts")
    axes[0].legend()
    return [_save(figure, folder, "quality")]


def _groups(cases: Sequence[Case], run: Run) -> list[tuple[Size | None, str, list[tuple[Case, dict[str, Any]]]]]:
    """(size, text, [(case, row)]) of what is known."""
    found = []
    for size, name in dict.fromkeys((case.size, case.text.name) for case in cases):
        here = [case for case in cases if (case.size, case.text.name) == (size, name)]
        known = [(case, run.rows[case.item.id]) for case in here if case.item and case.item.id in run.rows]
        found += [(size, name, known)] if known else []
    return found


def _curve(blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """Where a stretch of the text ends, and its mean per token: float64 [n_points] each."""
    n_join = max(1, len(blocks.sums) // _N_POINTS)
    starts = np.arange(0, len(blocks.sums), n_join)
    counts = np.add.reduceat(blocks.counts, starts)
    return np.cumsum(counts), np.add.reduceat(blocks.sums, starts) / counts


def _grid(cases: Sequence[RecallCase], run: Run) -> np.ndarray:
    """float64 [n_depths, n_lengths]: mean score; nan where nothing is known."""
    depths, lengths = sorted({case.depth for case in cases}), list(dict.fromkeys(case.length for case in cases))
    grid = np.full((len(depths), len(lengths)), np.nan)
    for case in cases:
        if scores := scores_of([case], run):
            grid[depths.index(case.depth), lengths.index(case.length)] = np.mean(scores)
    return grid


def _style(policy: str) -> dict[str, Any]:
    return _STYLES.get(policy, {})


def _figure(n: int, width: float = 6.4) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure  # without pyplot: no window, no state that other drawings share

    figure = Figure(figsize=(width * n, 4.2), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, n)))


def _label(ax: Axes, x: str, y: str, title: str, has_grid: bool = True) -> None:
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.set_title(title)
    if has_grid:
        ax.grid(alpha=0.3)


def _save(figure: Figure, folder: Path, name: str) -> Path:
    path = folder / (re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.").lower() + ".png")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=_DPI)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    return path
