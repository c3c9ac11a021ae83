"""The command `lacache`: parse, dispatch, turn errors into exit codes.

Exit codes: 0 done, 1 something is broken, 2 usage, 3 no such model, 4 out of memory, 5 damaged model, 6 a model that
cannot be compacted, 7 memory full, 8 download failed, 70 a bug of ours, 130 interrupted, 141 nobody reads our output.
Nothing heavy is imported here: `lacache --help` loads neither numpy nor the library.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

COMMANDS = ("app", "demo", "chat", "summarize", "compare", "eval", "calibrate", "models", "doctor")

_EXAMPLES = """\
examples:
  lacache app                                   chat, documents and the memory map in the browser
  lacache demo                                  watch a model read three times its context
  lacache summarize report.md notes.txt         summarize files of any length
  curl -s URL | lacache summarize - --json      ... or standard input, as one JSON object
  lacache chat -m user/repo:Q4_K_M --kv-budget 1GiB
  lacache doctor                                what is installed and what is wrong

exit codes: 0 done, 1 broken installation, 2 usage, 3 no such model, 4 out of memory, 5 damaged model,
  6 model that cannot be compacted, 7 memory full, 8 download failed, 130 interrupted
"""


class Parser(argparse.ArgumentParser):
    """argparse with errors in this project's form: one line, then where help is."""

    def __init__(self, **kwargs: object) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**{"allow_abbrev": False, **kwargs})  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\nTry '{self.prog} --help'.\n")


class _Version(argparse.Action):
    """--version, reading the installed version only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        import lacache_gguf

        print(f"lacache-gguf {lacache_gguf.__version__}")
        parser.exit(0)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = Parser(
        prog="lacache",
        description="Endless context for GGUF models at a memory you set once.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"lacache_app.commands.{name}")
        command = commands.add_parser(name, help=module.HELP, description=module.HELP, epilog=module.EXAMPLES)
        command.add_argument("--verbose", action="store_true", help="show llama.cpp's log, and tracebacks")
        module.configure(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code and never raises for anything a user can cause."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows "?" instead of failing
    verbose = False
    try:
        parser = build_parser()
        args = parser.parse_args(argv)
        if args.command is None:
            parser.print_help(sys.stderr)
            return 2
        verbose = args.verbose
        code = args.run(args)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse: --help, --version, a usage error
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone (`lacache ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        return _report(error, verbose)


def _report(error: Exception, verbose: bool) -> int:
    """Print an error for the user and choose the exit code."""
    from lacache_gguf.errors import LacacheError

    if verbose:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, LacacheError):
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if isinstance(error, MemoryError):
        print("error: not enough memory for this; use a smaller model, -c or --kv-budget", file=sys.stderr)
        return 4
    if isinstance(error, OSError):
        print(f"error: {error}", file=sys.stderr)
        return 1
    hint = "" if verbose else " (run again with --verbose for the traceback, and please report it)"
    print(f"internal error: {type(error).__name__}: {error}{hint}", file=sys.stderr)
    return 70


if __name__ == "__main__":
    sys.exit(main())
