"""What stands around the tabs, in the real app: first run, light and dark, narrow, keyboard, names, the end."""

from __future__ import annotations

import json
import re

import pytest
from browser.helpers import APP_IS_GONE, TABS, ask, open_tab, wait_until_ready
from lacache_app.settings import load_value
from lacache_app.store import Store
from lacache_app.ui.theme import DARK, LIGHT

pytestmark = pytest.mark.browser
TOO_WIDE = """() => [...document.querySelectorAll("#lc-body *, #lc-header *")].filter((e) => {
  const box = e.getBoundingClientRect();
  const mayScroll = e.closest("[style*='overflow'], .table-wrap, pre, nav, [aria-hidden=true], .visually-hidden");
  return box.width && box.right > innerWidth + 1 && getComputedStyle(e).position !== "fixed" && !mayScroll &&
    e.checkVisibility({ visibilityProperty: true });
}).slice(0, 5).map((e) => `${e.tagName}#${e.id}.${e.className} ${e.getBoundingClientRect().right}`)"""
WATCH_JUMPS = """window.jumps = [];
const name = (node) => node?.id || node?.className || node?.nodeName;
new PerformanceObserver((list) => list.getEntries().filter((entry) => !entry.hadRecentInput).forEach((entry) =>
  window.jumps.push([entry.value, entry.sources.map((source) => name(source.node))])
)).observe({ type: "layout-shift", buffered: true });"""
FOCUSED = """() => {
  const e = document.activeElement, near = [e, e.parentElement, e.closest(".block, label, .wrap")];
  const hasRing = (s) => (s.outlineStyle !== "none" && parseFloat(s.outlineWidth) > 0) || s.boxShadow !== "none";
  const isSeen = e.shadowRoot?.activeElement || near.filter(Boolean).map((x) => getComputedStyle(x)).some(hasRing);
  return { id: e.closest("[id]")?.id || "", tag: e.tagName, html: e.outerHTML.slice(0, 200), isSeen: !!isSeen };
}"""
NAMELESS = """() => [...document.querySelectorAll("button, input, textarea, select, a[href]")].filter((e) =>
  e.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && e.type !== "hidden" && !(
    e.textContent.trim() || e.ariaLabel || e.title || e.placeholder || e.getAttribute("aria-labelledby") ||
    [...(e.labels || [])].some((label) => label.textContent.trim()) || e.querySelector("[aria-label], title, img[alt]")
  )).map((e) => e.outerHTML.slice(0, 160))"""


def colour(page, selector: str, name: str = "backgroundColor") -> str:
    """A computed colour as #rrggbb."""
    text = page.eval_on_selector(selector, f"element => getComputedStyle(element).{name}")
    return "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", text)[:3])


# ---- first run -------------------------------------------------------------------------------------------------------


def test_first_run_explains_itself_once(start_app, page):
    from playwright.sync_api import expect

    server = start_app(is_first_run=True)
    page.goto(server.url)
    welcome = page.locator("#lc-welcome")
    expect(welcome).to_be_visible()
    expect(page.locator("#lc-welcome-close")).to_be_focused()
    assert page.eval_on_selector("#lc-welcome", "e => e.scrollHeight <= e.clientHeight + 2"), "more than one screen"
    with page.expect_response("**/lacache/welcome"):
        page.keyboard.press("Enter")
    expect(welcome).to_be_hidden()
    assert load_value(server.data_dir, "welcome_seen") is True  # in the app's data, so another port does not forget it
    expect(page.locator(".lc-assembling")).to_have_count(0)  # what is still loading would fail when the page is left
    wait_until_ready(page, server)
    expect(welcome).to_be_hidden()
    page.locator("#lc-help").click()
    expect(welcome).to_be_visible()
    page.keyboard.press("Escape")
    expect(welcome).to_be_hidden()


# ---- look ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "palette", "other"), [("light", LIGHT, DARK), ("dark", DARK, LIGHT)])
def test_light_and_dark_follow_the_system_and_can_be_switched(app_server, new_context, scheme, palette, other):
    page = new_context(color_scheme=scheme).new_page()
    wait_until_ready(page, app_server)
    assert colour(page, "body") == palette["ground"]
    assert colour(page, "#lc-name", "color") == palette["text"]
    assert colour(page, "#chat-send") == palette["accent"]
    page.locator("#lc-theme").click()
    page.mouse.move(640, 300)
    page.wait_for_function(f"getComputedStyle(document.body).backgroundColor === '{rgb(other['ground'])}'")
    wait_until_ready(page, app_server)  # a reload
    page.wait_for_function(f"getComputedStyle(document.body).backgroundColor === '{rgb(other['ground'])}'")


def rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"


@pytest.mark.parametrize(("width", "height"), [(360, 740), (768, 1024), (1280, 900), (1920, 1080)])
def test_no_width_needs_sideways_scrolling(app_server, new_context, width, height):

    page = new_context(viewport={"width": width, "height": height}).new_page()
    wait_until_ready(page, app_server)
    for name in TABS:
        open_tab(page, name)
        too_wide = page.evaluate(TOO_WIDE)
        assert (name, too_wide) == (name, [])
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    beside = page.evaluate(
        "document.getElementById('lc-side').getBoundingClientRect().left >= "
        "document.getElementById('lc-main').getBoundingClientRect().right"
    )
    assert beside == (width > 1000)


def test_nothing_jumps_when_the_page_opens(app_server, new_context):
    context = new_context()
    context.add_init_script(WATCH_JUMPS)
    page = context.new_page()
    wait_until_ready(page, app_server)
    with page.expect_response("**/lacache/status"):
        pass
    jumps = page.evaluate("window.jumps")
    assert sum(value for value, _ in jumps) < 0.1, jumps  # what Web Vitals call good


# ---- keyboard and names ----------------------------------------------------------------------------------------------


def test_the_keyboard_reaches_everything_and_focus_is_seen(app_server, page):
    wait_until_ready(page, app_server)
    page.evaluate("document.activeElement.blur()")
    reached: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        where = page.evaluate(FOCUSED)
        if where["tag"] == "BODY":
            break
        assert where["isSeen"], f"focus is not seen on {where}"
        reached.append(where["id"])
    for wanted in ("lc-theme", "lc-help", "tab-chat-button", "chat-new", "chat-input", "chat-send"):
        assert wanted in reached, (wanted, reached)
    assert reached.index("lc-help") < reached.index("tab-chat-button") < reached.index("chat-send")


def test_everything_that_can_be_used_has_a_name(app_server, page):
    wait_until_ready(page, app_server)
    for name in TABS:
        open_tab(page, name)
        nameless = page.evaluate(NAMELESS)
        assert (name, nameless) == (name, [])
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.title() == "LaCache"


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_in_the_middle_of_an_answer_ends_cleanly_and_keeps_it(start_app, page, allowed_errors):
    from playwright.sync_api import expect

    server = start_app()
    allowed_errors += APP_IS_GONE
    wait_until_ready(page, server)
    page.locator("#chat-input textarea").fill("Write a very long story about a river, with many chapters.")
    page.locator("#chat-send").click()
    expect(page.locator("#chat-log [data-testid=bot]")).to_contain_text(re.compile(r"\S+(\s+\S+){14}"))
    assert server.stop() == 0
    assert "Traceback" not in server.log, server.log
    assert server.log.rstrip().endswith("stopped")
    expect(page.locator("#lc-state")).to_have_text("the app has stopped")
    store = Store(server.data_dir / "chats.sqlite3")
    messages = store.messages(store.conversations()[0].id)
    store.close()
    assert [message.role for message in messages] == ["user", "assistant"]
    assert len(messages[1].content.split()) > 5


def test_status_says_what_is_loaded(start_app, page):
    from playwright.sync_api import expect

    server = start_app()
    status = json.loads(ask(server, "GET", "/lacache/status", {})[1])
    assert (status["state"], status["n_ctx"]) == ("empty", 0)
    wait_until_ready(page, server)
    expect(page.locator("#lc-state")).to_have_text("not loaded")
    page.locator("#chat-input textarea").fill("Hello")
    page.locator("#chat-send").click()
    expect(page.locator("#lc-budget")).to_have_text("5.6 MiB memory · 256 cells")
    expect(page.locator("#lc-state")).to_have_text("ready")
