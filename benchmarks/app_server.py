"""The app's server in a process of its own, for app_overhead.py: `Server` starts it, asks it, and reads its counters.

As a program it is that process: `python app_server.py FOLDER MODEL CELLS THREADS`. It prints {"port": ...}, then
answers every line on stdin with one line of JSON, and ends when stdin does.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def serve(folder: Path, model: str, n_cells: int, n_threads: int | None) -> None:
    """The app's server as `lacache app` runs it; answers a line on stdin with its counters as one line of JSON."""
    from lacache_app import addresses, environment

    environment.prepare(folder)
    from lacache_app.host import EngineSettings
    from lacache_app.ui import server
    from lacache_app.ui.context import make_context

    sock = addresses.bind("127.0.0.1", 0, 1)
    port = sock.getsockname()[1]
    settings = EngineSettings(model=model, n_ctx=n_cells, n_threads=n_threads)
    ctx = make_context(settings, folder)
    app = Timed(server.create_app(ctx, addresses.Hosts("127.0.0.1", port)))

    def answer_lines() -> None:
        from common import resident_bytes

        for _line in sys.stdin:
            snapshot = ctx.memory_map.snapshot()
            counters = {
                "map_observe_s": ctx.memory_map.seconds,
                "map_observations": ctx.memory_map.n_observations,
                "map_serve_s": app.seconds,
                "map_requests": app.n_requests,
                "cpu_s": time.process_time(),
                "own_bytes": resident_bytes("RssAnon"),
                "n_seen": snapshot.n_seen if snapshot else 0,
                "n_compactions": snapshot.n_compactions if snapshot else 0,
            }
            print(json.dumps(counters), flush=True)
        ctx.host.shutdown()
        os._exit(0)  # the parent has gone

    def ready() -> None:
        print(json.dumps({"port": port}), flush=True)
        threading.Thread(target=answer_lines, daemon=True).start()

    server.serve(app, sock, ready, ctx.host.shutdown)


class Timed:
    """ASGI app around another one: counts the seconds that requests for the memory map take, waiting included."""

    def __init__(self, app: Any) -> None:
        self.app, self.seconds, self.n_requests = app, 0.0, 0

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        start = time.perf_counter()
        await self.app(scope, receive, send)
        if scope.get("path", "").startswith("/lacache/memory"):
            self.seconds += time.perf_counter() - start
            self.n_requests += 1


class Server:
    """The process of `serve`, and conversations with it."""

    def __init__(self, args: Any, folder: str) -> None:
        (Path(folder) / "settings.json").write_text(json.dumps({"welcome_seen": True}))
        command = [sys.executable, __file__, folder, args.model, str(args.cells), str(args.threads or 0)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = json.loads(self.process.stdout.readline() or "{}").get("port")
        if self.port is None:
            raise SystemExit("the app's server did not start")
        self.url = f"http://127.0.0.1:{self.port}/"

    def counters(self) -> dict:
        """What it has counted so far."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def chat(self, message: str, conversation: str, n_tokens: int) -> Iterator[tuple[str, str]]:
        """(answer so far, conversation), over the plain HTTP interface, in a session as a page or a client has one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        body = json.dumps({"data": [message, conversation, n_tokens], "session_hash": "benchmark"})
        connection.request("POST", "/gradio_api/call/chat", body, {"content-type": "application/json"})
        event = json.loads(connection.getresponse().read())["event_id"]
        connection.request("GET", f"/gradio_api/call/chat/{event}")
        kind = ""
        for line in connection.getresponse():
            name, _, value = line.decode().strip().partition(": ")
            if name == "event":
                kind = value
            elif name == "data" and kind == "error":
                raise SystemExit(f"the app answers: {value}")
            elif name == "data" and kind in ("generating", "complete") and (data := json.loads(value)):
                yield tuple(data[0])
        connection.close()

    def get(self, path: str) -> None:
        """One request, answer thrown away."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        connection.getresponse().read()
        connection.close()

    def close(self) -> None:
        """End it."""
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) or None)
