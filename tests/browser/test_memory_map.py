"""The memory map in the real app: it changes while a text is read, its numbers are the engine's, it shows real text."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from browser.helpers import call, wait_until_ready
from lacache_app.memory_map import MemoryMap
from lacache_app.ui import memory_panel

from lacache_gguf.events import Stats
from lacache_gguf.memory import Memory
from lacache_gguf.policies import Random

pytestmark = pytest.mark.browser

ELEMENT = "document.querySelector('lacache-memory-map')"
STORY = " ".join(
    f"On day {day} the crew of the small ship counted {day * 7 % 40} barrels and wrote a letter to number {day}."
    for day in range(1, 61)
)  # about 1,500 tokens


def picture(page) -> str:
    """What the canvas shows, as a data URL."""
    return page.locator("#memory-map").evaluate("canvas => canvas.toDataURL()")


def whole_number(text: str) -> list[int]:
    return [int(match.replace(",", "")) for match in re.findall(r"[\d,]+", text)]


# ---- with the real model ---------------------------------------------------------------------------------------------


def test_a_long_read_is_seen_as_it_happens(app_server, page):
    from playwright.sync_api import expect

    wait_until_ready(page, app_server)
    panel = page.locator("lacache-memory-map")
    expect(panel.locator(".empty")).to_be_visible()
    expect(page.locator("#memory-map")).to_have_attribute("aria-label", re.compile("nothing has been read", re.I))

    page.locator("#chat-input textarea").fill(STORY)
    page.locator("#chat-send").click()
    page.wait_for_function(f"{ELEMENT}.scene?.news.n_compactions >= 2")
    expect(panel.locator(".empty")).to_be_hidden()
    early, n_early = picture(page), page.evaluate(f"{ELEMENT}.scene.nSeen")
    page.wait_for_function(f"{ELEMENT}.scene.nSeen >= {n_early + 100}")
    assert picture(page) != early

    page.wait_for_function(f"{ELEMENT}.scene.nSeen > 1400")
    page.locator("#chat-stop").click()
    page.wait_for_function(f"{ELEMENT}.state === 'idle'")
    gauge_is_the_engines(page, app_server)
    hover_shows_what_was_written(page)
    keys_move_the_cursor(page)


def gauge_is_the_engines(page, server) -> None:
    """The numbers on the panel are those that the endpoint takes from the engine's stats."""
    memory = call(server, "memory")
    gauge = page.locator("#memory-gauge")
    assert whole_number(gauge.locator(".cells").inner_text()) == [memory["n_cells"], memory["n_ctx"]]
    assert gauge.get_attribute("aria-valuenow") == str(memory["n_cells"])
    assert gauge.locator(".bytes").inner_text().endswith(f"of {memory['kv_bytes'] / 2**20:.1f} MiB")
    assert memory["n_ctx"] == 256
    assert memory["n_seen"] - memory["n_evicted"] == memory["n_cells"] <= 256
    panel = page.locator("lacache-memory-map")
    assert whole_number(panel.locator(".seen").inner_text()) == [memory["n_seen"]]
    assert whole_number(panel.locator(".compactions").inner_text()) == [memory["n_compactions"]]
    assert f"{memory['n_seen']:,} tokens read" in page.locator("#memory-map").get_attribute("aria-label")


def hover_shows_what_was_written(page) -> None:
    from playwright.sync_api import expect

    panel = page.locator("lacache-memory-map")
    tip = panel.locator(".tip")
    band = page.evaluate(f"{ELEMENT}.at.bands.recent")
    page.locator("#memory-map").hover(position={"x": band["x"] + 0.4 * band["w"], "y": band["y"] + 0.5 * band["h"]})
    expect(tip).to_be_visible()
    expect(tip.locator("span")).to_have_text(re.compile(r"^kept in \d+ of 30 layers, by \d+ of 90 heads$"))
    shown = " ".join(tip.locator("q").inner_text().split())
    assert len(shown) > 10
    assert shown in " ".join(STORY.split())
    assert "".join(panel.locator(".text").inner_text().split())[5:60] in "".join(STORY.split())
    page.mouse.move(5, 5)
    expect(tip).to_be_hidden()


def keys_move_the_cursor(page) -> None:
    from playwright.sync_api import expect

    canvas, said = page.locator("#memory-map"), page.locator("lacache-memory-map .said")
    canvas.focus()
    page.keyboard.press("ArrowLeft")
    expect(said).to_have_text(re.compile(r"^Tokens? [\d,]+.*kept in \d+ of 30 layers"))
    first = page.evaluate(f"{ELEMENT}.cursor.first")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(f"{ELEMENT}.cursor.first < {first}")
    page.keyboard.press("ArrowDown")
    page.wait_for_function(f"{ELEMENT}.cursor.band === 'closeUp'")
    expect(said).to_have_text(re.compile(r"^Token [\d,]+, kept in \d+ of 30 layers, by \d+ of 90 heads\."))
    page.keyboard.press("Escape")
    page.wait_for_function(f"{ELEMENT}.cursor === null")


# ---- with a memory made of numbers -----------------------------------------------------------------------------------


class NumbersOnly:
    """An engine without a model: `Memory` with cells that hold nothing, two KV heads that part, and random tokens."""

    def __init__(self, n_layer: int, n_ctx: int) -> None:
        self.model, self.policy = SimpleNamespace(name="numbers"), Random(heads="each")
        self.n_layer, self.n_ctx = n_layer, n_ctx
        self.memory = Memory(self.policy, n_layer, n_ctx, lambda keep: None, n_head_kv=2)
        self.seen = np.zeros(0, dtype=np.int32)

    def feed(self, n_tokens: int) -> None:
        for first in range(0, n_tokens, self.n_ctx // 8):
            n = min(self.n_ctx // 8, n_tokens - first)
            self.memory.make_room(n)
            self.memory.advance(n)
        self.seen = (np.arange(self.memory.n_seen, dtype=np.int32) * 7919 % 50_000).astype(np.int32)

    def piece(self, token: int) -> bytes:
        return f" w{token}".encode()

    @property
    def held(self) -> np.ndarray:
        return self.memory.held

    @property
    def stats(self) -> Stats:
        memory = self.memory
        return Stats(
            n_ctx=self.n_ctx, n_seen=memory.n_seen, n_cells=memory.n_cells, n_cells_peak=memory.n_cells_peak,
            n_compactions=memory.n_compactions, n_evicted=memory.n_evicted, pos_next=memory.pos_next,
            kv_bytes=self.n_ctx << 15, kv_bytes_used_peak=0, kv_bytes_full=memory.n_seen << 15, n_read=0, n_decoded=0,
            finish_reason=None,
        )  # fmt: skip


class Numbers:
    """A page whose memory panel is fed by this test instead of by the app."""

    def __init__(self, page, server, engine: NumbersOnly, state: str = "busy") -> None:
        self.page, self.engine, self.memory_map, self.state = page, engine, MemoryMap(), state
        self.sizes: list[int] = []
        self.n_asked = 0
        page.route(re.compile(r"/lacache/memory(\?|$)"), self._news)
        page.route("**/lacache/memory/text?*", self._text)
        self.feed(0)
        wait_until_ready(page, server)

    def feed(self, n_tokens: int) -> None:
        self.engine.feed(n_tokens)
        self.memory_map.observe(self.engine, force=True)

    def wait_for(self) -> None:
        """The page has the latest look and has painted it."""
        revision = self.memory_map.snapshot().revision
        self.page.wait_for_function(f"{ELEMENT}.revision === {revision} && !{ELEMENT}.isPainting")

    def _news(self, route) -> None:
        self.n_asked += 1
        snapshot, headers = self.memory_map.snapshot(), {"x-lacache-state": self.state}
        if f"since={snapshot.revision}" in route.request.url:
            route.fulfill(status=204, headers=headers)
            return
        body = json.dumps(memory_panel.snapshot_json(snapshot))
        self.sizes.append(len(body))
        route.fulfill(status=200, headers=headers, content_type="application/json", body=body)

    def _text(self, route) -> None:
        first, last = (int(value) for value in re.findall(r"=(\d+)", route.request.url))
        route.fulfill(json=memory_panel.close_up_json(self.memory_map.close_up(first, last)))


def test_a_hundred_thousand_tokens_in_eighty_layers_stay_cheap(app_server, page):
    numbers = Numbers(page, app_server, NumbersOnly(80, 32_768))
    numbers.feed(100_000)
    numbers.wait_for()
    assert page.locator("lacache-memory-map .seen").inner_text() == "100,000"
    assert max(numbers.sizes) < 16_000  # bytes on the wire, whatever was seen
    n_painted = page.evaluate(f"{ELEMENT}.nPainted")
    ms = page.evaluate(f"{ELEMENT}.paintedMs") / n_painted
    assert ms < 100  # a few milliseconds on a quiet machine
    page.evaluate(f"{ELEMENT}.ask()")
    numbers.state = "idle"
    page.wait_for_function(f"{ELEMENT}.state === 'idle'")
    n_idle, n_asked = page.evaluate(f"{ELEMENT}.nPainted"), numbers.n_asked
    page.wait_for_function(f"performance.now() > {page.evaluate('performance.now()') + 2500}")
    assert numbers.n_asked - n_asked <= 4  # seldom while it rests
    assert page.evaluate(f"{ELEMENT}.nPainted") <= n_idle + 2  # and nothing is drawn again


def test_it_asks_often_while_much_changes_and_seldom_while_little_does(app_server, page):
    numbers = Numbers(page, app_server, NumbersOnly(4, 1024))

    def n_asked_after(n_tokens: int) -> int:
        numbers.feed(n_tokens)
        numbers.wait_for()
        before = numbers.n_asked
        page.wait_for_function(f"performance.now() > {page.evaluate('performance.now()') + 2500}")
        return numbers.n_asked - before

    assert n_asked_after(600) >= 5  # in a second: it reads
    assert n_asked_after(10) <= 3  # it writes
    assert n_asked_after(600) >= 5


def test_nothing_is_asked_while_nobody_looks(app_server, page):
    numbers = Numbers(page, app_server, NumbersOnly(4, 256))
    numbers.wait_for()
    page.evaluate("Object.defineProperty(document, 'hidden', { configurable: true, get: () => true })")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_function(f"!{ELEMENT}.isAsking")
    n_asked = numbers.n_asked
    numbers.feed(300)
    page.evaluate(f"{ELEMENT}.ask()")
    assert numbers.n_asked == n_asked
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    numbers.wait_for()
    assert page.locator("lacache-memory-map .seen").inner_text() == "300"


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_what_is_dropped_glows_unless_motion_is_unwanted(app_server, new_context, motion):
    page = new_context(reduced_motion=motion).new_page()
    numbers = Numbers(page, app_server, NumbersOnly(6, 256))
    numbers.feed(400)
    numbers.wait_for()
    page.evaluate(f"{ELEMENT}.fade = () => {{}}")  # the glow stays until it was looked at
    numbers.feed(200)
    numbers.wait_for()
    glow = page.evaluate(f"{ELEMENT}.scene.glow ? Math.max(...{ELEMENT}.scene.glow) : 0")
    assert (glow > 0.3) == (motion == "no-preference")


def test_it_is_dressed_for_light_and_dark_and_fits_a_narrow_window(app_server, new_context):
    page = new_context(viewport={"width": 360, "height": 740}).new_page()
    numbers = Numbers(page, app_server, NumbersOnly(30, 1024))
    numbers.feed(20_000)
    numbers.wait_for()
    light = picture(page)
    page.locator("#lc-theme").click()
    page.wait_for_function(f"{ELEMENT}.dataset.theme === 'dark' && !{ELEMENT}.isPainting")
    assert picture(page) != light
    assert page.locator("lacache-memory-map .panel").evaluate("panel => panel.scrollWidth <= panel.clientWidth")
    assert page.locator("#memory-map").bounding_box()["width"] < 360


def test_when_the_program_is_gone_the_panel_says_so(app_server, page, allowed_errors):
    from playwright.sync_api import expect

    allowed_errors.append("Failed to load resource")
    numbers = Numbers(page, app_server, NumbersOnly(4, 256))
    numbers.wait_for()
    page.route(re.compile(r"/lacache/memory(\?|$)"), lambda route: route.abort())
    expect(page.locator("lacache-memory-map .state")).to_have_text("the program does not answer")


def test_hostile_text_is_only_text(app_server, page):
    numbers = Numbers(page, app_server, NumbersOnly(4, 256))
    numbers.engine.piece = lambda token: b"<img src=x onerror=alert(1)>"
    numbers.feed(300)
    numbers.wait_for()
    text: Any = page.locator("lacache-memory-map .text")
    page.wait_for_function(f"{ELEMENT}.scene.closeUp")
    assert "<img src=x" in text.inner_text()
    assert text.locator("img").count() == 0
