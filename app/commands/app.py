"""`lacache app`: chat, documents, models and the memory map in the browser, on this machine only."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from lacache_app import options
from lacache_app.terminal import Terminal

if TYPE_CHECKING:
    from pathlib import Path

    from lacache_app.host import EngineSettings

HELP = "open the app in the browser: chat without end, summaries of whole books, the memory map"
EXAMPLES = """\
examples:
  lacache app
  lacache app -m user/repo:Q4_K_M --kv-budget 1GiB
  lacache app --host 0.0.0.0 --auth me:secret     reachable from your network, with a password

What you choose under Models is remembered; flags win. It listens on this machine only, unless you say --host.
"""
PORT = 7860
_N_PORTS = 20


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    group = parser.add_argument_group("app")
    group.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default: %(default)s)"
    )
    group.add_argument(
        "--port", type=options.whole(0, "a port"), metavar="N",
        help=f"port; 0 = any (default: {PORT}, or the next free one)",
    )  # fmt: skip
    group.add_argument(
        "--auth", metavar="USER:PASSWORD", help="ask for this; needed unless only this machine can reach the app "
        "(better in LACACHE_AUTH, where other users of the machine cannot see it)",
    )  # fmt: skip
    group.add_argument("--no-browser", action="store_true", help="only print the address")
    group.add_argument("--data-dir", metavar="FOLDER", help="where chats and settings are kept")
    options.add_engine_options(parser, sampling=False)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    import logging

    from lacache_app import addresses, environment
    from lacache_app.paths import data_dir

    terminal = Terminal()
    logging.basicConfig(level=logging.INFO if args.verbose else logging.WARNING, format="%(name)s: %(message)s")
    auth = parse_auth(args.auth or os.environ.get("LACACHE_AUTH"))
    check_host(args.host, auth)
    folder = data_dir(args.data_dir)
    with closing(_bind(args)) as sock:
        port = sock.getsockname()[1]
        environment.prepare(folder)
        settings = choose_settings(args, folder, terminal)
        with terminal.waiting("starting ..."):
            from lacache_app.ui import server
            from lacache_app.ui.context import make_context

            ctx = make_context(settings, folder)
            app = server.create_app(ctx, addresses.Hosts(args.host, port, _names(args.host)), auth)
        address = addresses.url(args.host, port)

        def on_ready() -> None:
            terminal.note(f"LaCache is at {address}  (Ctrl-C ends it; chats and settings are in {folder})")
            if not args.no_browser:
                _open_browser(address)

        try:
            with suppress(KeyboardInterrupt):  # uvicorn passes on the signal that ended it
                server.serve(app, sock, on_ready, ctx.host.shutdown)
        finally:
            ctx.close()
    terminal.note("stopped")
    return 0


def parse_auth(text: str | None) -> tuple[str, str] | None:
    """User and password; None for None or "". Raises UsageError if one is missing."""
    if not text:
        return None
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        from lacache_gguf.errors import UsageError

        raise UsageError("--auth wants USER:PASSWORD, both not empty")
    return user, password


def check_host(host: str, auth: tuple[str, str] | None) -> None:
    """Refuse to be reachable from elsewhere without a password."""
    from lacache_app.addresses import is_loopback

    from lacache_gguf.errors import UsageError

    if auth is None and not is_loopback(host):
        raise UsageError(
            f"--host {host} can be reached from other machines, and everybody there could read your chats; "
            "add --auth USER:PASSWORD, or leave --host out"
        )


def choose_settings(args: argparse.Namespace, folder: Path, terminal: Terminal) -> EngineSettings:
    """The engine's settings: flags, then environment variables, then what was chosen in the app, then defaults."""
    from lacache_app.host import EngineSettings
    from lacache_app.memory_flags import with_calibration
    from lacache_app.settings import load_settings

    options.obey_offline(args)
    stored = load_settings(folder)
    if stored is not None and not options.is_any_given(args):
        return dataclasses.replace(stored, **options.computing_given(args))
    options.fill_defaults(args)
    model = options.find_model(args, terminal)
    settings = options.engine_settings(args, model)
    with_calibration(settings, args, model, terminal)  # says so; the default looks for it at every load
    return EngineSettings(**settings)


def _bind(args: argparse.Namespace) -> Any:
    from lacache_app import addresses

    from lacache_gguf.errors import UsageError

    port, n_tries = (PORT, _N_PORTS) if args.port is None else (args.port, 1)
    if port > 65535:
        raise UsageError(f"--port {port} does not exist; choose one from 1 to 65535")
    try:
        return addresses.bind(args.host, port, n_tries)
    except OSError as error:
        what = f"ports {port} to {port + n_tries - 1}" if n_tries > 1 else f"port {port}"
        raise UsageError(
            f"cannot listen on {what} of {args.host} ({error.strerror or error}); choose another with --port"
        ) from None


def _names(host: str) -> tuple[str, ...]:
    """Names that a browser elsewhere may use for this machine."""
    import socket

    from lacache_app.addresses import is_loopback

    return () if is_loopback(host) else (socket.gethostname().lower(), socket.getfqdn().lower())


def _open_browser(address: str) -> None:
    import threading
    import webbrowser

    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return  # nobody looks at this machine's screen
    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
