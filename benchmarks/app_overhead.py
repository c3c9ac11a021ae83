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

import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from app_page import CHROMIUM, Page, chromium
from app_server import Server
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


def many_turns(args: Any, server: Server, client: Any) -> dict:
    """One conversation of many turns, in one session as a page has one."""
    conversation, own = "", []
    for i in range(args.turns):
        message = f"{QUESTIONS[i % len(QUESTIONS)]} Say it in another way than before, please, as the {i + 1}. answer."
        _, conversation = client.predict(message, conversation, args.turn_answer, api_name="/chat")
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
            ["read", "tokens/s", "looks", "requests", "map in the server", "browser's CPU"],
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
    options.add_argument("--cells", type=int, default=1024)
    options.add_argument("--rounds", type=int, default=12)
    options.add_argument("--answer", type=int, default=96, help="tokens of an answer in the first part")
    options.add_argument("--read", type=int, default=50_000, help="tokens of the long message")
    options.add_argument("--turns", type=int, default=100)
    options.add_argument("--turn-answer", type=int, default=24, help="tokens of an answer in the last part")
    options.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--no-page", action="store_true", help="do not open Chromium")
    args = options.parse_args()
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
                page = Page(browser, server.url) if browser else None
                if "chat" in args.part:
                    results["chat"] = latency_and_speed(args, server, client, page)
                if "map" in args.part:
                    results["map"] = map_share(args, server, page)
            if "turns" in args.part:
                results["turns"] = many_turns(args, server, client)
        finally:
            server.close()
    show(results, args)
    settings = {"n_cells": args.cells, "kv_type": "f16", "page": has_page, "poll_s": POLL_S}
    report("app_overhead", args, settings, results, checks_of(results))


if __name__ == "__main__":
    main()
