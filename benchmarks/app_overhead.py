"""What does the app cost over the bare engine? Latency, speed, the memory map's share, and memory over many turns.

One run, one model, one budget, two processes: this one with a bare Engine, and the app's real server. They take turns,
so that a change of the machine's speed hits both, and never work at the same time; a page may be open in Chromium.

- Latency: seconds from a question to the first text, app minus engine, for the same question and the same answer (the
  sampler's seed is the same). Over HTTP as curl does it, with gradio_client, and in the page (key pressed to text on
  the screen). Wanted: at most 50 ms more.
- Speed: tokens/s from the first text to the last, app against engine. Wanted: at least 95 %. Beside it the CPU seconds
  of the whole answer, engine against app, which other programs on the machine hardly change.
- Map: a long message is read while the page is open (or, without Chromium, while the map is asked for as the page
  does). Seconds in which the engine's thread looked at the memory and the server answered for the map, against the
  wall; beside it what the whole page did on its main thread. Wanted: at most 5 %.
- Memory: the server's own pages (anonymous resident memory, without the mapped model file) after turns 20 and 100 of
  one conversation that outgrows the memory. Wanted: at most 2 % more.

--part runs some of the parts alone; results belong to a quiet machine.

    python benchmarks/app_overhead.py --json-out benchmarks/results/2026-01-31-app_overhead.json
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from shutil import which
from typing import Any

from common import check, load_texts, median, parser, progress, report, table

from lacache_gguf import Engine
from lacache_gguf.events import Step

POLL_S = 0.25  # the page asks for the memory map so often while the model works
QUESTIONS = (
    "Why is the sky blue?",
    "How does a bicycle stay upright?",
    "What is the use of a lighthouse?",
    "Why do cats purr?",
    "How is paper made?",
    "What makes bread rise?",
    "Why do leaves change their colour?",
    "How does a compass work?",
)
PARTS = ("chat", "map", "turns")
OTHER = "Good morning."  # asked before every question, so that all find the memory with another conversation in it
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := which(name))), None)


# ---- the server, in a process of its own -----------------------------------------------------------------------------


def serve(args: Any) -> None:
    """The app's server as `lacache app` runs it; answers a line on stdin with its counters as one line of JSON."""
    from lacache_app import addresses, environment

    folder = Path(args.serve)
    environment.prepare(folder)
    from lacache_app.host import EngineSettings
    from lacache_app.ui import server
    from lacache_app.ui.context import make_context

    sock = addresses.bind("127.0.0.1", 0, 1)
    port = sock.getsockname()[1]
    settings = EngineSettings(model=args.model, n_ctx=args.cells, n_threads=args.threads)
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
        command = [sys.executable, __file__, "--serve", folder, "-m", args.model, "--cells", str(args.cells)]
        command += ["-t", str(args.threads)] if args.threads else []
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
        """(answer so far, conversation), over the plain HTTP interface."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        body = json.dumps({"data": [message, conversation, n_tokens]})
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


# ---- one answer ------------------------------------------------------------------------------------------------------


class Times:
    """When the text of one answer came: seconds to the first, seconds from there to the last."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.first = self.last = 0.0
        self.text = ""
        self.cpu_s = 0.0  # of the process that wrote it, for the whole answer

    def __call__(self, text: str) -> None:
        """`text` is the answer so far."""
        if len(text) > len(self.text):
            self.last = time.perf_counter()
            self.first = self.first or self.last
            self.text = text

    @property
    def to_first_s(self) -> float:
        return self.first - self.start

    @property
    def writing_s(self) -> float:
        return self.last - self.first


def ask_engine(engine: Engine, question: str, n_tokens: int) -> tuple[Times, int]:
    """The bare engine's answer, and how many tokens it has."""
    from lacache_app.chat import DEFAULT_PRESET, PRESETS

    for _ in engine.answer([{"role": "user", "content": OTHER}], max_tokens=1):
        pass
    times, text, n, cpu = Times(), "", 0, time.process_time()
    for event in engine.answer([{"role": "user", "content": question}], max_tokens=n_tokens, **PRESETS[DEFAULT_PRESET]):
        if isinstance(event, Step):
            n += 1
            text += event.text
            times(text)
    times.cpu_s = time.process_time() - cpu
    return times, n


def ask_http(server: Server, question: str, n_tokens: int) -> Times:
    """The app's answer as curl gets it, in a new conversation."""
    times = Times()
    for text, _ in server.chat(question, "", n_tokens):
        times(text)
    return times


def ask_client(client: Any, question: str, n_tokens: int) -> Times:
    """The app's answer as gradio_client gets it."""
    times = Times()
    for text, _ in client.submit(question, "", n_tokens, api_name="/chat"):
        times(text)
    return times


# ---- the page --------------------------------------------------------------------------------------------------------

_WATCH = """new Promise((done, fail) => {
  const log = document.querySelector('#chat-log');
  let start = 0, first = 0;
  document.addEventListener('keydown', () => { start = performance.now(); }, { capture: true, once: true });
  const look = () => {
    const texts = log.querySelectorAll('[data-testid=bot]');
    if (!first && start && texts.length && texts[texts.length - 1].innerText.trim()) first = performance.now();
  };
  const observer = new MutationObserver(look);
  observer.observe(log, { childList: true, characterData: true, subtree: true });
  const timer = setInterval(() => {
    const isOver = first && document.querySelector('#chat-status').innerText.includes('tokens/s')
      && !document.querySelector('#chat-stop');
    if (isOver || performance.now() - start > 120000) {
      clearInterval(timer);
      observer.disconnect();
      isOver ? done((first - start) / 1000) : fail(new Error('no answer in the page'));
    }
  }, 100);
})"""


class Page:
    """The app in Chromium, with the settings of the bare engine."""

    def __init__(self, browser: Any, server: Server) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.page.set_default_timeout(120_000)
        self.page.goto(server.url)
        self.page.locator("#chat-list nav").wait_for()
        self.cdp = self.page.context.new_cdp_session(self.page)
        self.cdp.send("Performance.enable")

    def ask(self, question: str) -> float:
        """Seconds from the key to the first text on the screen, in a new conversation; returns when it is all there."""
        page = self.page
        page.locator("#chat-new").click()
        page.locator("#chat-log [data-testid=bot]").first.wait_for(state="detached")
        page.locator("#chat-input textarea").fill(question)
        page.evaluate(f"() => {{ window.lacacheTime = {_WATCH}; }}")
        page.locator("#chat-input textarea").press("Enter")
        return page.evaluate("window.lacacheTime")

    def settings(self, n_tokens: int) -> None:
        """Seed 0 as the engine has it, and short answers."""
        page = self.page
        page.locator("#chat-settings > button").click()
        for name, value in (("chat-max-tokens", n_tokens), ("chat-seed", 0)):
            page.locator(f"#{name} input").fill(str(value))
            page.locator(f"#{name} input").blur()

    def busy_s(self) -> float:
        """Seconds that the page's main thread has worked."""
        metrics = self.cdp.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser with a fresh profile."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        try:
            yield browser
        finally:
            browser.close()


# ---- the questions ---------------------------------------------------------------------------------------------------


def latency_and_speed(args: Any, server: Server, client: Any, page: Page | None) -> dict:
    """Every round asks the same question of all; the first round only warms up."""
    engine = Engine(args.model, n_ctx=args.cells, n_threads=args.threads)
    ways: dict[str, Callable[[str], Times | float]] = {
        "http": lambda question: ask_http(server, question, args.answer),
        "client": lambda question: ask_client(client, question, args.answer),
    }
    if page:
        page.settings(args.answer)
        ways["page"] = page.ask
    rounds: list[dict] = []
    for i in range(args.rounds + 1):
        question = QUESTIONS[i % len(QUESTIONS)]
        bare, n = ask_engine(engine, question, args.answer)
        row: dict[str, Any] = {"engine_first_s": bare.to_first_s, "engine_tokens_per_s": (n - 1) / bare.writing_s}
        for name, ask in ways.items():
            for _ in server.chat(OTHER, "", 1):
                pass
            cpu = server.counters()["cpu_s"]
            got = ask(question)
            row[f"{name}_cpu_ratio"] = bare.cpu_s / (server.counters()["cpu_s"] - cpu)
            if isinstance(got, Times):
                row[f"{name}_tokens_per_s"] = (n - 1) / got.writing_s
                row[f"{name}_is_same"] = got.text == bare.text
            row[f"{name}_first_s"] = got.to_first_s if isinstance(got, Times) else got
        progress(", ".join(f"{key} {value:.3g}" for key, value in row.items()))
        rounds += [row] if i else []
    engine.close()
    result: dict[str, Any] = {"rounds": rounds}
    for name in ways:
        result[f"{name}_added_s"] = median([row[f"{name}_first_s"] - row["engine_first_s"] for row in rounds])
        result[f"{name}_cpu_ratio"] = median([row[f"{name}_cpu_ratio"] for row in rounds])
    for name in ("http", "client"):
        result[f"{name}_speed_ratio"] = median(
            [row[f"{name}_tokens_per_s"] / row["engine_tokens_per_s"] for row in rounds]
        )
    for key in ("engine_first_s", "engine_tokens_per_s"):
        result[key] = median([row[key] for row in rounds])
    return result


def map_share(args: Any, server: Server, page: Page | None) -> dict:
    """Read a long message while the map is shown."""
    text = "\n\n".join(load_texts().values())
    with Engine(args.model, n_ctx=256, n_threads=args.threads) as engine:
        tokens = engine.tokenize(text[: 12 * args.read])[: args.read]
        message = engine.detokenize(tokens)
    before, busy_before = server.counters(), page.busy_s() if page else 0.0
    is_done, start = threading.Event(), time.perf_counter()
    poller = threading.Thread(target=poll, args=(server, is_done))
    if not page:
        poller.start()
    for _ in server.chat(message, "", 2):
        pass
    wall = time.perf_counter() - start
    is_done.set()
    after = server.counters()
    spent = {key: after[key] - before[key] for key in after if key.startswith(("map_", "cpu_"))}
    busy = page.busy_s() - busy_before if page else None
    return {
        **spent,
        "n_read": len(tokens),
        "wall_s": wall,
        "tokens_per_s": len(tokens) / wall,
        "page_busy_s": busy,
        "server_share": (spent["map_observe_s"] + spent["map_serve_s"]) / wall,
        "page_share": busy / wall if page else None,
    }


def poll(server: Server, is_done: threading.Event) -> None:
    """What a page does, without one."""
    while not is_done.wait(POLL_S):
        server.get("/lacache/memory?since=0")


def many_turns(args: Any, server: Server) -> dict:
    """One conversation of many turns."""
    conversation, own = "", []
    for i in range(args.turns):
        message = f"{QUESTIONS[i % len(QUESTIONS)]} Say it in another way than before, please, as the {i + 1}. answer."
        *_, (_, conversation) = server.chat(message, conversation, args.turn_answer)
        own.append(server.counters()["own_bytes"])
        if (i + 1) % 20 == 0:
            progress(f"{i + 1} turns: {own[-1] / 2**20:.1f} MiB of its own")
    n_first = min(20, len(own) - 1)
    counters = server.counters()
    return {
        "own_mib_per_turn": [round(value / 2**20, 2) for value in own],
        "growth": own[-1] / own[n_first - 1] - 1,
        "n_seen": counters["n_seen"],
        "n_compactions": counters["n_compactions"],
    }


def show(results: dict, args: Any) -> None:
    """A table for every part that was run."""
    if chat := results.get("chat"):
        rows = [["engine", f"{1000 * chat['engine_first_s']:.0f}", "", f"{chat['engine_tokens_per_s']:.1f}", "", ""]]
        for name in ("http", "client", "page"):
            if f"{name}_added_s" in chat:
                first = median([row[f"{name}_first_s"] for row in chat["rounds"]])
                ratio, speed = chat.get(f"{name}_speed_ratio"), ""
                if ratio:
                    speed = f"{median([row[f'{name}_tokens_per_s'] for row in chat['rounds']]):.1f}"
                rows.append(
                    [
                        name, f"{1000 * first:.0f}", f"{1000 * chat[f'{name}_added_s']:+.0f}", speed,
                        f"{100 * ratio:.1f} %" if ratio else "", f"{100 * chat[f'{name}_cpu_ratio']:.1f} %",
                    ]
                )  # fmt: skip
        table(
            ["asked through", "first text, ms", "added, ms", "tokens/s", "of the engine's", "CPU: engine / app"], rows
        )
    if reading := results.get("map"):
        page = f"{100 * reading['page_share']:.2f} %" if reading["page_share"] is not None else "no page"
        table(
            ["read", "tokens/s", "looks", "requests", "map in the server", "all of the page"],
            [
                [
                    reading["n_read"], f"{reading['tokens_per_s']:.0f}", reading["map_observations"],
                    reading["map_requests"], f"{100 * reading['server_share']:.2f} %", page,
                ]
            ],
        )  # fmt: skip
    if turns := results.get("turns"):
        own = turns["own_mib_per_turn"]
        table(
            ["turns", "tokens seen", "compactions", "MiB first", "MiB at 20", "MiB last", "growth"],
            [
                [
                    len(own), turns["n_seen"], turns["n_compactions"], own[0], own[min(20, len(own) - 1) - 1], own[-1],
                    f"{100 * turns['growth']:.2f} %",
                ]
            ],
        )  # fmt: skip


def checks_of(results: dict) -> list[dict]:
    """Against what is wanted, as far as it was measured."""
    checks = []
    if chat := results.get("chat"):
        names = {"http": "over HTTP", "client": "with gradio_client", "page": "in the page"}
        checks += [
            check(f"first text {text}, seconds added", chat[f"{name}_added_s"], at_most=0.05)
            for name, text in names.items()
            if f"{name}_added_s" in chat
        ]
        checks.append(check("tokens/s over HTTP against the engine's", chat["http_speed_ratio"], at_least=0.95))
    if reading := results.get("map"):
        checks.append(check("the map's share of a long read, server", reading["server_share"], at_most=0.05))
    if turns := results.get("turns"):
        checks.append(check("growth of the server's memory from turn 20 on", turns["growth"], at_most=0.02))
    return checks


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--serve", metavar="FOLDER", help="be the server (used by this benchmark itself)")
    options.add_argument("--cells", type=int, default=1024)
    options.add_argument("--rounds", type=int, default=12)
    options.add_argument("--answer", type=int, default=96, help="tokens of an answer in the first part")
    options.add_argument("--read", type=int, default=50_000, help="tokens of the long message")
    options.add_argument("--turns", type=int, default=100)
    options.add_argument("--turn-answer", type=int, default=24, help="tokens of an answer in the last part")
    options.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--no-page", action="store_true", help="do not open Chromium")
    args = options.parse_args()
    if args.serve:
        serve(args)
        return
    if args.quick:
        args.cells, args.rounds, args.answer, args.read, args.turns = 256, 2, 16, 1500, 4
    from gradio_client import Client

    results: dict = {}
    has_page = bool(CHROMIUM) and not args.no_page
    with tempfile.TemporaryDirectory() as folder:
        server = Server(args, folder)
        try:
            progress("the server is there")
            client = Client(server.url, verbose=False, analytics_enabled=False)
            with chromium() if has_page else nullcontext() as browser:
                page = Page(browser, server) if browser else None
                if "chat" in args.part:
                    results["chat"] = latency_and_speed(args, server, client, page)
                if "map" in args.part:
                    results["map"] = map_share(args, server, page)
            if "turns" in args.part:
                results["turns"] = many_turns(args, server)
        finally:
            server.close()
    show(results, args)
    settings = {"n_cells": args.cells, "kv_type": "f16", "page": has_page, "poll_s": POLL_S}
    report("app_overhead", args, settings, results, checks_of(results))


if __name__ == "__main__":
    main()
