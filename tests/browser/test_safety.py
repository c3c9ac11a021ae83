"""Who may talk to the app and what its page fetches: hosts, other pages in the same browser, passwords, pictures."""

from __future__ import annotations

import base64
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from browser.helpers import TABS, ask, open_tab, wait_until_ready
from lacache_app.settings import load_value
from lacache_app.store import Store

pytestmark = pytest.mark.browser


class Counter:
    """A server of somebody else on this machine: counts what is asked of it, and serves one page."""

    def __init__(self) -> None:
        self.hits: list[str] = []
        self.page = b""
        counter = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                counter.hits.append(self.path)
                self.send_response(200)
                self.send_header("Content-Type", "text/html" if self.path == "/page" else "image/png")
                self.send_header("Access-Control-Allow-Origin", "*")
                self.end_headers()
                self.wfile.write(counter.page if self.path == "/page" else b"")

            do_HEAD = do_POST = do_GET

            def log_message(self, *_args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def elsewhere() -> Iterator[Counter]:
    counter = Counter()
    yield counter
    counter.server.shutdown()
    counter.server.server_close()


# ---- who may ask -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"), ("GET", "/config"), ("GET", "/gradio_api/info"), ("GET", "/theme.css"),
        ("POST", "/gradio_api/upload"), ("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/call/chat"),
        ("GET", "/lacache/status"), ("GET", "/lacache/memory"), ("POST", "/lacache/welcome"),
        ("GET", "/lacache/assets/app.js"), ("GET", "/no-such-page"),
    ],
)  # fmt: skip
def test_other_names_and_other_pages_are_refused_on_every_route(app_server, method, path):
    ours = f"127.0.0.1:{app_server.port}"
    body = "{}" if method == "POST" else None
    for host in ("evil.example", f"evil.example:{app_server.port}", "127.0.0.1:1"):
        assert ask(app_server, method, path, {"Host": host}, body)[0] == 421
    for origin in ("http://evil.example", "null", f"http://localhost:{app_server.port}", "http://127.0.0.1:1"):
        assert ask(app_server, method, path, {"Host": ours, "Origin": origin}, body)[0] == 403
    own = {"Host": ours, "Origin": f"http://{ours}"}
    assert ask(app_server, method, path, own, body)[0] not in (401, 403, 421)


def test_another_page_in_the_same_browser_can_do_nothing(start_app, elsewhere, page, allowed_errors):
    server = start_app(is_first_run=True)
    allowed_errors += [
        "foreign request",
        "Failed to load resource",
        "CORS policy",
        "net::ERR",
        "X-Frame-Options",
        "frame",
    ]
    attack = f"""<script>
      const app = "{server.url}";
      const forms = new URLSearchParams({{a: 1}});
      Promise.allSettled([
        fetch(app + "lacache/welcome", {{method: "POST", mode: "no-cors"}}),
        fetch(app + "lacache/welcome", {{method: "POST", mode: "no-cors", body: forms}}),
        fetch(app + "gradio_api/queue/join", {{method: "POST", mode: "no-cors", body: "{{}}"}}),
        fetch(app + "lacache/status").then((answer) => answer.text()),
        fetch(app + "config").then((answer) => answer.text()),
      ]).then((results) => {{ window.results = results.map((one) => one.status + (one.value?.type || "")); }});
    </script><iframe src="{server.url}"></iframe><img src="{server.url}lacache/assets/icon.svg">"""
    elsewhere.page = attack.encode()
    page.goto(f"{elsewhere.url}/page")
    page.wait_for_function("window.results")
    assert page.evaluate("window.results.slice(3)") == ["rejected", "rejected"]  # nothing could be read
    assert page.evaluate("document.querySelector('img').naturalWidth") == 0
    assert load_value(server.data_dir, "welcome_seen") is None  # nothing was changed


def test_with_a_password(start_app, browser, new_context):
    from playwright.sync_api import expect

    server = start_app("-c", "256", env={"LACACHE_AUTH": "me:secret"})
    for path in ("/", "/config", "/lacache/status", "/lacache/memory", "/gradio_api/info"):
        assert ask(server, "GET", path, {})[0] == 401
    token = base64.b64encode(b"me:secret").decode()
    assert ask(server, "GET", "/lacache/status", {"Authorization": f"Basic {token}"})[0] == 200
    page = new_context(http_credentials={"username": "me", "password": "secret"}).new_page()
    page.goto(server.url)
    expect(page.locator("#lc-model")).not_to_be_empty()


def test_no_file_of_this_machine_can_be_asked_for(app_server):
    outside = [Path(__file__), Path(__file__).parents[2] / "README.md", Path("/etc/hostname"), Path.home()]
    inside = [app_server.data_dir / name for name in ("settings.json", "chats.sqlite3", "uploads/../settings.json")]
    for path in (*outside, *inside, Path("README.md"), Path("tests/browser/test_safety.py")):
        for address in (f"/gradio_api/file={path}", f"/file={path}", f"/gradio_api/file/{path}", f"/static/..{path}"):
            status, body = ask(app_server, "GET", address, {})
            assert status in (403, 404), (status, address)
            assert b"welcome_seen" not in body


# ---- nothing is fetched from elsewhere -------------------------------------------------------------------------------


def test_what_a_model_wrote_is_not_fetched(start_app, elsewhere, page, allowed_errors, tmp_path):
    from playwright.sync_api import expect

    urlopen(f"{elsewhere.url}/works", timeout=60).close()
    assert elsewhere.hits.copy() == ["/works"]  # it does count
    elsewhere.hits.clear()
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "settings.json").write_text('{"welcome_seen": true}')
    store = Store(folder / "chats.sqlite3")
    talk = store.create("Pictures").id
    store.append(talk, "user", "Show me pictures.")
    bad = elsewhere.url
    store.append(
        talk, "assistant",
        f"Here they are: ![a]({bad}/markdown.png) <img src='{bad}/html.png'> ![b](/gradio_api/file={bad}/through.png)"
        f"\n\n<link rel='stylesheet' href='{bad}/style.css'><iframe src='{bad}/frame'></iframe>"
        f"<script>fetch('{bad}/script')</script>"
        f"<video src='{bad}/video' poster='{bad}/poster'></video><div style='background:url({bad}/background)'>x</div>"
        f"<img src=x onerror=\"fetch('{bad}/onerror')\">\n\nThat was the last one.",
    )  # fmt: skip
    store.close()
    server = start_app(data_dir=folder)
    allowed_errors += [
        f"foreign request: {bad}/", "Content Security Policy", "Failed to load resource", "net::ERR",
    ]  # fmt: skip
    wait_until_ready(page, server)
    page.locator("#chat-list").get_by_text("Pictures").click()
    expect(page.locator("#chat-log")).to_contain_text("That was the last one.")
    expect(page.locator("#chat-log")).to_contain_text("Here they are")
    page.wait_for_function("[...document.querySelectorAll('#chat-log img')].every((image) => image.complete)")
    assert page.locator("#chat-log img").count() >= 3  # tried, so it is policy and guard that stop them
    with page.expect_response("**/lacache/status"):
        pass
    assert elsewhere.hits == []


def test_a_whole_visit_asks_only_our_own_server(app_server, new_context):
    from playwright.sync_api import expect

    context = new_context()
    urls: list[str] = []
    context.on("request", lambda request: urls.append(request.url))
    page = context.new_page()
    wait_until_ready(page, app_server)
    for name in TABS:
        open_tab(page, name)
    expect(page.locator("#lc-state")).to_have_attribute("data-state", re.compile("empty|idle"))
    assert len(urls) > 20
    assert [url for url in urls if not url.startswith((app_server.url, "data:", "blob:"))] == []
    html = urlopen(app_server.url, timeout=60).read().decode()
    links = re.findall(r"(?:src|href|@import)\s*=?\s*[\"'(]\s*(?:https?:)?//[^\"')]+", html)
    assert links == []
