"""What several browser tests do: open the app, go to a tab, ask the server without a browser."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable

TABS = ("chat", "documents", "models", "compare")
APP_IS_GONE = (
    "Failed to (load|fetch)", "ERR_", "NetworkError", "network error", "[Cc]onnection", "BodyStreamBuffer was aborted",
)  # fmt: skip
"""For `allowed_errors` of a test that kills the app: what its page then says in the console."""


def wait_until_ready(page, server) -> None:
    """The page is there and has the server's status."""
    from playwright.sync_api import expect

    page.goto(server.url)
    expect(page.locator("#lc-model")).not_to_be_empty()
    expect(page.locator("#chat-input textarea")).to_be_visible()


def until(page, is_so: Callable[[], object], timeout_s: float = 60) -> None:
    """Wait for something that is not on the page: in the store, in a list of requests."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it never came to be so"
        page.wait_for_timeout(20)  # lets the page's events through


def open_tab(page, name: str) -> None:
    """Go to a tab by its ID; a narrow window keeps some in a menu."""
    from playwright.sync_api import expect

    button = page.locator(f"#tab-{name}-button")
    if not button.is_visible():
        page.locator("#lc-tabs .overflow-menu > button").click()
        button = page.locator("#lc-tabs .overflow-dropdown button").get_by_text(name.title(), exact=True)
    button.click()
    expect(page.locator(f"#tab-{name}")).to_be_visible()


def ask(server, method: str, path: str, headers: dict[str, str], body: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def call(server, name: str, *values):
    """What a named endpoint of the app answers to a program, over plain HTTP (two requests, nothing stays open)."""
    path, host = f"/gradio_api/call/{name}", {"Host": f"127.0.0.1:{server.port}"}
    body = json.dumps({"data": values})
    status, answer = ask(server, "POST", path, {**host, "Content-Type": "application/json"}, body)
    assert status == 200, answer
    status, stream = ask(server, "GET", f"{path}/{json.loads(answer)['event_id']}", host)
    event, _, data = stream.decode().rpartition("event: ")[2].partition("\ndata: ")
    assert (status, event) == (200, "complete"), stream
    return json.loads(data)[0]
