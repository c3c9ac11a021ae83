"""`lacache chat`: talk to a model in the terminal, for as long as you like, at a fixed memory.

In a terminal: line editing, history, commands that start with "/". From a pipe: standard input is one message, the
answer is the output. Ctrl-C stops the answer, not the program; Ctrl-D leaves.
"""

from __future__ import annotations

import argparse
import sys

from lacache_app import options
from lacache_app.console import ChatSession, Leave
from lacache_app.prompt import LineReader
from lacache_app.terminal import Terminal

HELP = "talk to a model; the conversation never reaches the end of the context"
EXAMPLES = """\
examples:
  lacache chat
  lacache chat -m user/repo:Q4_K_M --kv-budget 1GiB -sys "You are a patient teacher."
  echo "Why is the sky blue?" | lacache chat

defaults here: --temp 0.8 --top-k 40 --top-p 0.95 --min-p 0.05 --seed -1
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "-sys", "--system-prompt", type=options.plain_text, default="", metavar="TEXT",
        help="system message, never forgotten",
    )  # fmt: skip
    options.add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Chat until /exit or the end of input."""
    from lacache_app.documents import read_document

    terminal = Terminal()
    options.fill_defaults(args, seed=-1)
    is_interactive = sys.stdin.isatty()
    message = "" if is_interactive else read_document("-").text.strip()
    with options.open_engine(args, terminal) as engine:
        session = ChatSession(engine, terminal, options.sampling_settings(args), args.system_prompt)
        if not is_interactive:
            return 0 if session.answer(message) else 130
        terminal.note(
            f"{engine.model.name}, {engine.n_ctx:,} cells, policy {engine.policy.name}. "
            "/help for commands, Ctrl-D to leave."
        )
        lines = LineReader()
        try:
            while (text := lines.read()) is not None:
                session.handle(text)
        except Leave:
            pass
        finally:
            lines.close()
    return 0
