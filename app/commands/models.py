"""`lacache models list | pull NAME | path NAME`: which models are here, fetch one, say where it lies."""

from __future__ import annotations

import argparse
import os
from typing import Any

from lacache_app import options
from lacache_app.terminal import Terminal, mib

HELP = "list models, download one, or print where its file is"
EXAMPLES = """\
examples:
  lacache models list
  lacache models pull user/repo:Q4_K_M
  lacache models path smollm2-135m
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    actions = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="catalog models, and GGUF models in the hub's cache")
    for action, text in (("pull", "download a model"), ("path", "print the file of a model that is here")):
        command = actions.add_parser(action, help=text, description=text)
        command.add_argument("model", metavar="NAME", help="catalog name, path, or user/repo:QUANT")
        if action == "pull":
            command.add_argument("--offline", action="store_true", default=None, help="never use the network")


def run(args: argparse.Namespace) -> int:
    """Dispatch the action."""
    terminal = Terminal()
    if args.action == "list":
        return _list(terminal)
    if args.action == "pull":
        model = options.find_model(args, terminal)
        licence = f", licence {model.licence}" if model.licence else ""
        terminal.note(f"{model.name} is ready ({mib(_size(model))}{licence})")
        terminal.write(f"{model.path}\n")
        return 0
    from lacache_gguf.catalog import resolve

    terminal.write(f"{resolve(args.model).path}\n")
    return 0


def _list(terminal: Terminal) -> int:
    from lacache_gguf import hub
    from lacache_gguf.catalog import catalog, resolve
    from lacache_gguf.errors import LacacheError

    rows = [("NAME", "SIZE", "LICENCE", "STATE")]
    for card in catalog().values():
        try:
            resolve(card.id)
            state = "ready"
        except LacacheError as error:
            state = f"not here: {error}"
        rows.append((card.id, mib(card.size_bytes), card.licence, state))
    for ref, path in hub.list_cached():
        rows.append((f"{ref.repo}:{ref.tag}", mib(os.path.getsize(path)), "", "ready (hub cache)"))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for row in rows:
        cells = [f"{text:<{width}}" for text, width in zip(row[:3], widths, strict=True)]
        terminal.write("  ".join([*cells, row[3]]).rstrip() + "\n")
    terminal.note("\nMore: lacache models pull user/repo:Q4_K_M (any GGUF repository on the Hugging Face hub)")
    return 0


def _size(model: Any) -> int:
    from lacache_gguf.gguf_header import shard_paths

    return sum(path.stat().st_size for path in shard_paths(model.path))
