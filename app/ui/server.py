"""The server: guard, our routes and Gradio in one ASGI app, and how it is run and ended.

What it is: `create_app(ctx, hosts, auth)` -> the ASGI app, and `serve`, which runs it on a bound socket until Ctrl-C.
What it does not know: tabs, models. Gradio must not be imported before `prepare_environment`.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacache_app.ui.guard import Guard, Hosts, bracketed

if TYPE_CHECKING:
    from lacache_app.ui.context import Context

MAX_FILE_SIZE = "512mb"
_GRACE_S = 5  # how long open connections may take to end


def prepare_environment(data_dir: Path) -> None:
    """What Gradio and huggingface_hub read from the environment when they are imported: no telemetry, our folder."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["DO_NOT_TRACK"] = "1"
    os.environ["GRADIO_SSR_MODE"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    os.environ["GRADIO_MCP_SERVER"] = "False"
    os.environ["GRADIO_SHARE"] = "False"
    os.environ.pop("GRADIO_ALLOWED_PATHS", None)
    os.environ.pop("GRADIO_LOCAL_DEV_MODE", None)
    uploads = data_dir / "uploads"
    uploads.mkdir(mode=0o700, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)


def create_app(ctx: Context, hosts: Hosts, auth: tuple[str, str] | None = None) -> Guard:
    """The whole app; `prepare_environment` has been called."""
    import gradio as gr
    from fastapi import FastAPI
    from lacache_app.ui import PANEL, build_app, shell
    from lacache_app.ui.theme import make_theme

    demo = build_app(ctx)
    demo.queue(default_concurrency_limit=8)
    app = FastAPI(title="LaCache", docs_url=None, redoc_url=None, openapi_url=None)
    app.router.routes += [*shell.routes(ctx), *(route for panel in PANEL for route in panel.routes(ctx))]
    app = gr.mount_gradio_app(
        app,
        demo,
        path="/",
        server_name=hosts.host,
        server_port=hosts.port,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        blocked_paths=[str(ctx.data_dir / name) for name in ("chats.sqlite3", "settings.json", "jobs")],
        show_error=True,
        max_file_size=MAX_FILE_SIZE,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=make_theme(),
        head=shell.head(),
    )
    return Guard(app, hosts, auth)


def bind(host: str, port: int, n_tries: int = 1) -> socket.socket:
    """A listening socket on the first free port of `n_tries`; 0 = any. Raises OSError of the first if none is free."""
    first_error: OSError | None = None
    for candidate in range(port, port + n_tries):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # on Windows it would let two programs share the port
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host.strip("[]"), candidate))
            sock.listen(128)
        except OSError as error:
            sock.close()
            first_error = first_error or error
            continue
        return sock
    assert first_error is not None
    raise first_error


def url(host: str, port: int) -> str:
    """The address to open."""
    from lacache_app.ui.guard import is_wildcard

    return f"http://{'127.0.0.1' if is_wildcard(host) else bracketed(host)}:{port}/"


def serve(app: Any, sock: socket.socket, on_ready: Callable[[], None], on_exit: Callable[[], None]) -> None:
    """Answer until Ctrl-C or SIGTERM. `on_exit` is called (in a thread) when that arrives, before connections end."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            if not self.should_exit:
                threading.Thread(target=on_exit, name="exit").start()
            super().handle_exit(sig, frame)

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                on_ready()

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S,
        ws="none",
    )
    Server(config).run(sockets=[sock])
