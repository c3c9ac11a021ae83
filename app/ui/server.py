"""The server: guard, our routes and Gradio in one ASGI app, and how it is run and ended.

What it is: `create_app(ctx, hosts, auth)` -> the ASGI app, and `serve`, which runs it on a bound socket until Ctrl-C.
What it does not know: tabs, models. `lacache_app.environment.prepare` was called before.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lacache_app.addresses import Hosts
from lacache_app.ui.guard import Guard

if TYPE_CHECKING:
    from lacache_app.ui.context import Context

MAX_FILE_SIZE = "512mb"
_GRACE_S = 5  # how long the answer under way, and then the requests, may take to end
_LAST_WORDS_S = 0.3  # for pages to be sent how their answer ended
_N_SESSIONS = 200  # Gradio keeps 0.3 MB for each, and a request of a program without a session counts as one
_QUEUE_LOOKS_EVERY_S = 0.008  # Gradio's 1 ms costs 3 % of a core for ever, which the model could use


def create_app(ctx: Context, hosts: Hosts, auth: tuple[str, str] | None = None) -> Guard:
    """The whole app: guard, our routes, Gradio."""
    import gradio as gr
    from fastapi import FastAPI
    from lacache_app.ui import build_app, memory_panel, shell
    from lacache_app.ui.theme import make_theme

    demo = build_app(ctx)
    demo.queue(default_concurrency_limit=8)
    demo.state_session_capacity = _N_SESSIONS
    demo._queue.sleep_when_free = _QUEUE_LOOKS_EVERY_S
    app = FastAPI(title="LaCache", docs_url=None, redoc_url=None, openapi_url=None)
    app.router.routes += [*shell.routes(ctx), *memory_panel.routes(ctx)]
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


def serve(app: Any, sock: socket.socket, on_ready: Callable[[], None], on_exit: Callable[[], None]) -> None:
    """Answer until Ctrl-C or SIGTERM. `on_exit` is called (in a thread) when that arrives, before connections end."""
    import asyncio

    import uvicorn

    leaving = threading.Thread(target=on_exit, name="exit")

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: Any) -> None:
            if not self.should_exit:
                leaving.start()
            super().handle_exit(sig, frame)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """Every open page holds a stream that never ends, so connections are closed rather than waited for."""
            if leaving.ident is not None:
                await asyncio.to_thread(leaving.join, _GRACE_S)
                await asyncio.sleep(_LAST_WORDS_S)
            for connection in list(self.server_state.connections):
                connection.transport.close()
            await super().shutdown(sockets)

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
