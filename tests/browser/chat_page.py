"""The chat tab as its tests see it: asking, waiting until an answer is over, a message's buttons, the store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lacache_app.store import Store

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

LONG = "Tell me a story."  # see `never_ending`


def go(page: Page, server, conversation: str = "") -> None:
    page.goto(server.url + (f"?chat={conversation}" if conversation else ""))
    page.locator("#chat-list nav").wait_for()


def bubbles(page: Page, role: str = "") -> Locator:
    """Messages on the page: role "user", "bot" or both."""
    return page.locator(f"#chat-log .message-row [data-testid={role}]" if role else "#chat-log .message-row")


def entry(page: Page) -> Locator:
    return page.locator("#chat-input textarea")


def send(page: Page, text: str) -> None:
    entry(page).fill(text)
    entry(page).press("Enter")


def is_settled(page: Page, expect) -> None:
    """The answer is over: Send is back."""
    expect(page.locator("#chat-send")).to_be_visible()
    expect(page.locator("#chat-stop")).to_be_hidden()


def open_settings(page: Page) -> None:
    """Open the settings and wait until they show their values."""
    page.locator("#chat-settings > button").click()
    page.wait_for_function("document.querySelector('#chat-max-tokens input')?.value")


def never_ending(page: Page) -> None:
    """Settings with which LONG, as the first message, is answered without end: the likeliest words go in circles."""
    open_settings(page)
    for slider, value in (("temperature", "0"), ("repeat", "1")):
        page.locator(f"#chat-{slider} input[type=number]").fill(value)
        page.locator(f"#chat-{slider} input[type=number]").blur()
    page.locator("#chat-max-tokens input").fill("0")
    page.locator("#chat-max-tokens input").blur()


def is_writing(page: Page, expect) -> None:
    """Some words of the answer are there, and more will come."""
    expect(bubbles(page, "bot").last).to_have_text(re.compile(r".{40}", re.DOTALL))
    expect(page.locator("#chat-stop")).to_be_visible()


@contextmanager
def store_of(server) -> Iterator[Store]:
    """The app's store, from this process."""
    store = Store(Path(server.data_dir) / "chats.sqlite3")
    try:
        yield store
    finally:
        store.close()


def make(server, *texts: str, title: str = "") -> str:
    """A conversation in which user and assistant said these, in turn."""
    with store_of(server) as store:
        talk = store.create(title=title).id
        for i, text in enumerate(texts):
            store.append(talk, "assistant" if i % 2 else "user", text)
    return talk


def kept(server, conversation: str) -> list[tuple[str, str, str]]:
    with store_of(server) as store:
        return [(message.role, message.content, message.state) for message in store.messages(conversation)]


def opened(page: Page) -> str:
    """Id of the conversation in the address."""
    page.wait_for_url(re.compile(r"[?&]chat=\w+"))
    return re.search(r"[?&]chat=(\w+)", page.url).group(1)


def tools(page: Page, index: int) -> Locator:
    """The buttons of a message."""
    return page.locator("#chat-log .message-buttons").nth(index)


def insist(button: Locator, is_heard: Callable[[], None]) -> None:
    """Press a message's button until it is heard: a repaint between press and release swallows the click, as it would
    a person's."""
    for _ in range(5):
        button.click()
        with suppress(AssertionError):
            return is_heard()
    raise AssertionError("nothing hears the button")


def remove(page: Page, expect, index: int) -> None:
    """Delete a message: the first press asks."""
    n = bubbles(page).count()
    button = tools(page, index).locator(".lc-remove")
    asks = re.compile("Press again")
    insist(button, lambda: expect(button).to_have_attribute("aria-label", asks, timeout=3_000))
    insist(button, lambda: expect(bubbles(page)).to_have_count(n - 1, timeout=3_000))


def change(page: Page, index: int, text: str) -> None:
    """Edit a message."""
    tools(page, index).get_by_label("Edit").click()
    page.locator("#chat-log textarea").fill(text)
    tools(page, index).get_by_label("Submit").click()
