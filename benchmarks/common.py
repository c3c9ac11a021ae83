"""What every benchmark needs: options, texts, exact generation lengths, machine facts, and the report at the end.

A benchmark measures and calls `report`; it prints a table for people and one JSON object as the last line of stdout.
Knows no question and no threshold.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from lacache_gguf import Engine
from lacache_gguf.catalog import resolve
from lacache_gguf.context import default_n_threads
from lacache_gguf.events import Step
from lacache_gguf.gguf_header import read_header
from lacache_gguf.kv_budget import KvGeometry
from lacache_gguf.policies import Policy, default_ladder

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("LACACHE_BENCH_DATA", ROOT.parent / "shared" / "data"))
TEXTS = ("wikitext2_test.txt", "novel_sherlock_holmes.txt", "essays_macdowell.txt", "play_pinero.txt")
_STARTED = time.time()


# ---- options -------------------------------------------------------------------------------------------------------


def parser(doc: str) -> argparse.ArgumentParser:
    """The options that every benchmark has; `doc` is its docstring."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("-m", "--model", default="smollm2-135m", help="as in Engine(model=...)")
    options.add_argument("-t", "--threads", type=int, default=None, help="default: physical cores")
    options.add_argument("--quick", action="store_true", help="a smoke run in seconds; its numbers mean nothing")
    options.add_argument("--json-out", type=Path, metavar="FILE", help="write the JSON object there, too")
    return options


def progress(text: str) -> None:
    """One line to stderr with the seconds since the start."""
    print(f"[{time.time() - _STARTED:7.1f} s] {text}", file=sys.stderr, flush=True)


# ---- input ---------------------------------------------------------------------------------------------------------


@lru_cache
def load_texts() -> dict[str, str]:
    """Name -> text: those of DATA that are there, else the language reference that every Python carries."""
    found = {name: (DATA / name).read_text("utf-8") for name in TEXTS if (DATA / name).is_file()}
    if found:
        return found
    from pydoc_data.topics import topics

    return {"pydoc_data.topics": "\n\n".join(topics[key] for key in sorted(topics))}


def load_tokens(engine: Engine, n: int) -> np.ndarray:
    """int32 [n]: equal parts of all texts, one after another; a text that is too short is repeated."""
    texts = load_texts()
    parts = []
    for i, text in enumerate(texts.values()):
        n_part = n * (i + 1) // len(texts) - n * i // len(texts)
        tokens = np.asarray(engine.tokenize(text[: 12 * n_part + 100]), dtype=np.int32)
        if len(tokens) < n_part:
            tokens = np.asarray(engine.tokenize(text), dtype=np.int32)
        parts.append(np.resize(tokens, n_part))
    return np.concatenate(parts)


def ladder(model: str, n_cells: int) -> Policy:
    """LaCache with half of the cells as recent window: what is measured of the mechanism, without any scores."""
    geometry = KvGeometry.from_metadata(read_header(resolve(model).path).metadata)
    return default_ladder(len(geometry.layers_planned), n_cells)


# ---- driving an engine ---------------------------------------------------------------------------------------------


def clock(n_threads: int) -> Callable[[], float]:
    """Seconds of CPU time for one thread, else of wall time.

    One thread waits for nobody, so its CPU time hardly minds what else runs on the machine. Threads of llama.cpp spin
    while they wait for each other, and spinning is CPU time, too.
    """
    return time.process_time if n_threads == 1 else time.perf_counter


def read(engine: Engine, tokens: Sequence[int], now: Callable[[], float] = time.perf_counter) -> float:
    """Feed `tokens`; seconds it took by the clock `now`, the backend's queue included."""
    start = now()
    for _ in engine.read(tokens):
        pass
    engine._context.logits()  # waits for the backend
    return now() - start


def generate(engine: Engine, n: int, now: Callable[[], float] = time.perf_counter) -> float:
    """Write exactly `n` tokens greedily after what was read; seconds it took. A newline is fed after an end of text."""
    start = now()
    newline: list[int] = []
    while n > 0:
        for event in engine.generate(newline, max_tokens=n, temperature=0.0):
            n -= isinstance(event, Step)
        newline = engine.tokenize("\n")
    return now() - start


def nll_chunks(engine: Engine, tokens: np.ndarray, n_ubatch: int) -> Iterator[np.ndarray]:
    """`Engine.nll` piece by piece: yields the float32 [<= n_ubatch] losses (nats) of every ubatch as it is done."""
    from lacache_gguf.sampling import nll

    engine.reset()
    for first in range(0, len(tokens) - 1, n_ubatch):
        chunk = tokens[first : min(first + n_ubatch, len(tokens) - 1)]
        engine._session.feed(chunk, all_logits=True)
        yield nll(engine._context.logits(len(chunk)), tokens[first + 1 : first + 1 + len(chunk)])


# ---- measuring -----------------------------------------------------------------------------------------------------


def resident_bytes(field: str = "VmRSS") -> int | None:
    """Resident memory of this process now (Linux), else None. Field RssAnon leaves out the mapped model file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def median(values: Sequence[float]) -> float:
    """Middle value."""
    return float(np.median(values))


def rotated(sides: Iterable[str | int], i_round: int) -> list:
    """The sides of a comparison in another order each round, so that each of them is first as often as the others."""
    sides = [*sides]
    first = i_round % len(sides)
    return sides[first:] + sides[:first]


def spread(values: Sequence[float]) -> float:
    """(largest - smallest) / smallest."""
    return float(max(values) / min(values) - 1)


# ---- the report ----------------------------------------------------------------------------------------------------


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor() or platform.machine()


def machine() -> dict:
    """Where it ran; the load average tells whether others were at work (above the cores used: do not trust timings)."""
    from lacache_gguf.devices import devices

    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "devices": [f"{device.name}: {device.description}" for device in devices()],
        "load_average_1min_at_end": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def provenance(model: Path) -> dict:
    """What ran: versions, the pinned base, our commit, the model file."""
    from lacache_gguf import __version__, native

    base = dict(
        line.split("=", 1) for line in (ROOT / "patches" / "BASE").read_text().splitlines() if line and line[0] != "#"
    )
    return {
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "lacache_gguf": __version__,
            "llama_cpp_python": _version("llama-cpp-python"),
        },
        "base_commit": base["commit"],
        "git_commit": _output("git", "rev-parse", "HEAD") or None,
        "git_modified": bool(
            _output("git", "status", "--porcelain", "--", "lacache_gguf", "patches", "benchmarks/*.py")
        ),
        "library": native.system_info().strip(),
        "model": {"file": model.name, "sha256": hashlib.sha256(model.read_bytes()).hexdigest()},
    }


def table(headers: Sequence[str], rows: Sequence[Sequence]) -> None:
    """Columns for people: those that begin with a number in the first row to the right, the others to the left."""
    cells = [[str(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    is_number = [i > 0 and len(cells) > 1 and cells[1][i][:1] in "0123456789+-" for i in range(len(headers))]
    for row in cells:
        columns = zip(row, widths, is_number, strict=True)
        print("  ".join(cell.rjust(w) if right else cell.ljust(w) for cell, w, right in columns).rstrip())
    print(flush=True)


def check(name: str, value: float, at_most: float | None = None, at_least: float | None = None) -> dict:
    """One number against what is wanted of it."""
    met = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
    limits = ((">=", at_least), ("<=", at_most))
    wanted = " and ".join(f"{sign} {limit:g}" for sign, limit in limits if limit is not None)
    return {"name": name, "value": value, "wanted": wanted, "met": bool(met)}


def report(name: str, args: argparse.Namespace, settings: dict, results: dict, checks: Sequence[dict]) -> None:
    """Print the checks, then the JSON object as the last line of stdout; write it to --json-out, too."""
    table(
        ["check", "value", "wanted", "met"],
        [[c["name"], f"{c['value']:.4g}", c["wanted"], "yes" if c["met"] else "NO"] for c in checks],
    )
    options = {key: value for key, value in vars(args).items() if key != "json_out"}
    options["model"] = Path(args.model).name  # no machine's paths in stored results
    options["threads"] = args.threads or default_n_threads()
    content = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.time() - _STARTED, 1),
        "options": options,
        "settings": settings,
        "checks": list(checks),
        "results": results,
        "machine": machine(),
        **provenance(resolve(args.model).path),
    }
    content = json.loads(json.dumps(content, default=_plain), parse_float=lambda text: float(f"{float(text):.6g}"))
    if args.json_out:
        args.json_out.parent.mkdir(parents=True, exist_ok=True)
        args.json_out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(content), flush=True)


def _plain(value):
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return value.name
    raise TypeError(f"{type(value).__name__} in a report")
