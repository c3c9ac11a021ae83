"""The guard in front of every route: hosts, origins, other pages, passwords, headers."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from lacache_app.addresses import Hosts, is_loopback, split_host
from lacache_app.ui import guard
from lacache_app.ui.guard import Guard

HOST = "127.0.0.1:7860"
OURS = Hosts("127.0.0.1", 7860)


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """What lies behind: answers 200 with headers that the guard must correct."""
    if scope["type"] == "lifespan":
        await send({"type": "lifespan.startup.complete"})
        return
    headers = [
        (b"Content-Type", b"text/html"),
        (b"X-Frame-Options", b"ALLOWALL"),
        (b"Access-Control-Allow-Origin", b"*"),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"secret"})


def ask(
    headers: dict[str, str] | list[tuple[str, str]],
    method: str = "GET",
    hosts: Hosts = OURS,
    auth: tuple[str, str] | None = None,
    kind: str = "http",
    path: str = "/",
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the guarded answer."""
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs],
    }
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    asyncio.run(Guard(_app, hosts, auth)(scope, receive, send))
    if kind == "websocket":
        return sent[0].get("status", sent[0].get("code")), {}, b""
    assert len([message for message in sent if message["type"] == "http.response.start"]) == 1
    answer = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], answer, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860", "LOCALHOST:7860"])
def test_our_own_names_pass(host):
    assert ask({"host": host})[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:7860", "127.0.0.1.evil.example:7860", "evil.example", "127.0.0.1", "localhost", "127.0.0.1:80",
        "127.0.0.1:78600", "127.0.0.1:7860:7860", "127.0.0.1:", "", ":7860", "localhost:7860@evil.example",
        "127.0.0.1:7860/", "localhost.:7860", "0.0.0.0:7860", "192.168.1.5:7860", "[::]:7860", "127.0.0.1:\xb9",
        "2130706433:7860", "127.1:7860", "[::ffff:127.0.0.1]:7860",
    ],
)  # fmt: skip
def test_other_names_are_refused_and_nothing_is_shown(host):
    status, _, body = ask({"host": host})
    assert status == 421
    assert b"secret" not in body


def test_a_missing_or_doubled_host_is_refused():
    assert ask({})[0] == 421
    assert ask([("host", HOST), ("host", "evil.example")])[0] == 400
    assert ask([("host", HOST), ("origin", f"http://{HOST}"), ("origin", "http://evil.example")], "POST")[0] == 400


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_a_foreign_origin_is_refused_whatever_the_method(method):
    for origin in (
        "http://evil.example", "null", "http://127.0.0.1:8000", "http://localhost:7860", "file://", "", "https://evil.example:7860",
        f"http://{HOST}.evil.example", f"ftp://{HOST}", HOST,
    ):  # fmt: skip
        status, _, body = ask({"host": HOST, "origin": origin}, method)
        assert (origin, status) == (origin, 403)
        assert b"secret" not in body
    assert ask({"host": HOST, "origin": f"http://{HOST}"}, method)[0] == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
def test_requests_that_another_page_causes_are_refused_without_an_origin_too(site):
    for mode, dest in (("no-cors", "image"), ("navigate", "iframe"), ("cors", "empty"), ("no-cors", "script")):
        fetch = {"host": HOST, "sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
        assert ask(fetch)[0] == 403
    link = {"host": HOST, "sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert ask(link)[0] == 200  # somebody followed a link to us
    assert ask(link, "POST")[0] == 403  # a form of another page


def test_programs_send_neither_and_pass():
    assert ask({"host": HOST}, "POST")[0] == 200  # gradio_client, curl


def test_own_pages_pass():
    own = {"host": HOST, "origin": f"http://{HOST}", "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
    assert ask(own, "POST")[0] == 200
    assert ask({"host": HOST, "sec-fetch-site": "none", "sec-fetch-mode": "navigate"})[0] == 200


def test_every_answer_carries_the_headers():
    for status, headers, _ in (ask({"host": HOST}), ask({"host": "evil.example"})):
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'self'", status
        assert policy["connect-src"] == "'self'"
        assert policy["img-src"] == "'self' data: blob:"
        assert policy["frame-ancestors"] == "'none'"
        assert not any("*" in value or "http" in value for value in policy.values())
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


def basic(text: str) -> dict[str, str]:
    return {"host": HOST, "authorization": "Basic " + base64.b64encode(text.encode()).decode()}


def test_with_a_password_nothing_is_shown_without_it(monkeypatch):
    monkeypatch.setattr(guard, "_DELAY_S", 0.0)
    auth = ("me", "se:cret é")
    wrong = [
        {"host": HOST},
        basic("me:"),
        basic("me:se"),
        basic("you:se:cret é"),
        {"host": HOST, "authorization": "Basic %"},
    ]
    wrong += [{"host": HOST, "authorization": "Bearer " + base64.b64encode("me:se:cret é".encode()).decode()}]
    for headers in wrong:
        status, answer, body = ask(headers, auth=auth)
        assert status == 401
        assert answer["www-authenticate"].startswith("Basic ")
        assert b"secret" not in body
    assert ask(basic("me:se:cret é"), auth=auth)[0] == 200
    assert ask({**basic("me:se:cret é"), "origin": "http://evil.example"}, "POST", auth=auth)[0] == 403  # still


def test_a_wrong_password_takes_its_time():
    import time

    start = time.monotonic()
    assert ask(basic("me:guess"), auth=("me", "secret"))[0] == 401
    assert time.monotonic() - start >= guard._DELAY_S


def test_websockets_are_guarded_too():
    assert ask({"host": "evil.example", "origin": "http://evil.example"}, kind="websocket")[0] == 1008
    assert ask({"host": HOST}, kind="websocket")[0] == 1008  # a browser always says where it comes from
    assert ask({"host": HOST, "origin": f"http://{HOST}"}, kind="websocket")[0] == 200


def test_bound_to_a_network_its_addresses_and_names_pass():
    hosts = Hosts("0.0.0.0", 7860, ("den.local",))
    assert ask({"host": "192.168.1.5:7860"}, hosts=hosts)[0] == 200
    assert ask({"host": "[fe80::1]:7860"}, hosts=hosts)[0] == 200
    assert ask({"host": "den.local:7860"}, hosts=hosts)[0] == 200
    assert ask({"host": "evil.example:7860"}, hosts=hosts)[0] == 421
    assert ask({"host": "192.168.1.5:7861"}, hosts=hosts)[0] == 421
    chosen = Hosts("192.168.1.5", 7860)
    assert ask({"host": "192.168.1.5:7860"}, hosts=chosen)[0] == 200
    assert ask({"host": "192.168.1.6:7860"}, hosts=chosen)[0] == 421


def test_split_host():
    assert split_host("LocalHost:80") == ("localhost", 80)
    assert split_host("localhost") == ("localhost", 80)
    assert split_host("[::1]") == ("[::1]", 80)
    assert split_host("[::1]:7860") == ("[::1]", 7860)
    assert split_host("a:x")[1] == -1
    assert split_host("a:-1")[1] == -1


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "", "example.com", "localhost.example.com"])
def test_not_loopback(host):
    assert not is_loopback(host)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=http://evil.example/x.png", "/gradio_api/file=HTTPS://evil.example/x.png", "/file=https://evil.example/x",
        "/gradio_api/file= http://evil.example/x.png", "/gradio_api/file/http://evil.example/x.png", "//gradio_api//file=http://evil.example/",
        "/gradio_api/file=ftp://evil.example/", "/gradio_api/proxy=https://evil.example/", "/gradio_api/deep_link",
        "/gradio_api/vibe-edit", "/gradio_api/run-history/buckets", "/gradio_api/component_server",
        "/monitoring/summary", "/dev/reload", "/login", "/gradio_api/openapi.json",
    ],
)  # fmt: skip
def test_what_fetches_or_is_of_no_use_is_closed(path):
    assert ask({"host": HOST}, path=path)[0] == 404
    assert ask({"host": HOST}, "POST", path=path)[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/", "/config", "/gradio_api/info", "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/upload",
        "/gradio_api/file=/home/me/.local/share/lacache/uploads/ab/book.pdf", "/gradio_api/file=C:/Users/me/book.pdf",
        "/gradio_api/call/chat", "/gradio_api/heartbeat/abc", "/lacache/memory", "/assets/index.js", "/theme.css",
        "/gradio_api/startup-events",
    ],
)  # fmt: skip
def test_what_the_page_needs_is_open(path):
    assert ask({"host": HOST}, path=path)[0] == 200
