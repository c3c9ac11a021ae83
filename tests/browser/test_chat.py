"""The chat tab on the real model: streaming, Stop, changing what was said, conversations, crashes, hostile text.

Tests wait for what a user would see, never for time. Where a text must be known, it is put into the app's store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser.helpers import APP_IS_GONE, until
from lacache_app.store import Store

pytestmark = pytest.mark.browser

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

LONG = "Tell me a story."  # see `never_ending`


@pytest.fixture
def expect():
    from playwright.sync_api import expect

    return expect


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


# ---- asking and answering --------------------------------------------------------------------------------------------


def test_round_trip(app_server, page, expect):
    go(page, app_server)
    expect(page.locator("#chat-log")).to_contain_text("What shall we talk about?")
    page.evaluate(
        """() => { window.lengths = new Set();
        new MutationObserver(() => { const all = document.querySelectorAll('#chat-log [data-testid=bot]');
          if (all.length) window.lengths.add(all[all.length - 1].textContent.length); })
        .observe(document.getElementById('chat-log'), {childList: true, subtree: true, characterData: true}); }"""
    )
    box = page.locator("#chat-send").bounding_box()
    entry(page).fill("Write a short poem")
    entry(page).press("Shift+Enter")
    entry(page).press_sequentially("about the sea.")
    entry(page).press("Enter")
    expect(bubbles(page, "user")).to_have_text("Write a short poem\nabout the sea.", use_inner_text=True)
    expect(entry(page)).to_have_value("")
    expect(page.locator("#chat-stop")).to_be_visible()
    assert page.locator("#chat-stop").bounding_box() == box, "Stop is where Send was"
    is_settled(page, expect)
    expect(page.locator("#chat-status")).to_contain_text("tokens/s")
    assert len(page.evaluate("[...window.lengths]")) > 3, "the answer grew before one's eyes"
    expect(page.locator("#chat-list [aria-current]")).to_have_text("Write a short poem about the sea.")
    talk = opened(page)
    messages = kept(app_server, talk)
    assert [(role, state) for role, _, state in messages] == [("user", "whole"), ("assistant", "whole")]
    assert page.locator("#chat-note details").count() == 0, "nothing was thinned"
    shown = bubbles(page, "bot").inner_text()
    page.reload()
    expect(bubbles(page)).to_have_count(2)
    expect(bubbles(page, "bot")).to_have_text(shown, use_inner_text=True)
    assert opened(page) == talk
    send(page, "Thank you.")
    expect(bubbles(page)).to_have_count(4)
    is_settled(page, expect)
    assert len(kept(app_server, talk)) == 4


def test_stop_while_it_writes(app_server, page, expect):
    go(page, app_server)
    never_ending(page)
    send(page, LONG)
    is_writing(page, expect)
    with page.expect_response("**/run/predict**"):
        send(page, "not yet")
    page.locator("#chat-stop").click()
    expect(page.locator("#chat-status")).to_contain_text("Stopped")
    is_settled(page, expect)
    expect(entry(page)).to_have_value("not yet")  # what was typed meanwhile is not lost
    expect(bubbles(page)).to_have_count(2)
    messages = kept(app_server, opened(page))
    assert [(role, state) for role, _, state in messages] == [("user", "whole"), ("assistant", "partial")]
    assert len(messages[1][1]) > 30


def test_stop_while_it_reads_a_long_message(app_server, page, expect):
    go(page, app_server)
    words = "The quick brown fox jumps over the lazy dog again and again. " * 10_000
    send(page, words)
    bar = page.locator("#chat-status progress")
    bar.wait_for()
    expect(page.locator("#chat-status")).to_contain_text(re.compile(r"Reading [\d,]+ of 1\d\d,\d+ tokens .* left"))
    expect(bubbles(page, "user")).to_contain_text("609,999 characters in all")
    page.locator("#chat-stop").click()
    expect(page.locator("#chat-status")).to_contain_text("Stopped before the answer")
    is_settled(page, expect)
    assert [message[0] for message in kept(app_server, opened(page))] == ["user"]
    assert kept(app_server, opened(page))[0][1] == words.strip(), "the whole text is kept"
    remove(page, expect, 0)
    expect(bubbles(page)).to_have_count(0)
    send(page, "Say hello.")
    expect(bubbles(page)).to_have_count(2)
    is_settled(page, expect)


def test_a_message_longer_than_the_memory_is_answered_and_what_was_thinned_is_told(app_server, page, expect):
    go(page, app_server)
    story = " ".join(f"On day {i} we walked {i * 3} miles and slept." for i in range(60))
    send(page, f"{story} How many days did we walk?")
    expect(bubbles(page)).to_have_count(2)
    is_settled(page, expect)
    note = page.locator("#chat-note details")
    expect(note.locator("summary")).to_contain_text(re.compile(r"Older text is thinned: [\d,]+ of [\d,]+ tokens"))
    expect(note.locator("table")).to_be_hidden()  # folded
    note.locator("summary").click()
    expect(note.locator("tbody tr").first).to_contain_text("You: On day 0 we walked")
    page.reload()
    expect(page.locator("#chat-note summary")).to_contain_text("Older text is thinned")
    page.locator("#chat-new").click()
    expect(page.locator("#chat-note details")).to_have_count(0)


def test_two_pages_take_turns(app_server, page, new_context, expect):
    go(page, app_server)
    other = new_context().new_page()
    go(other, app_server)
    never_ending(page)
    send(page, LONG)
    is_writing(page, expect)
    send(other, "Say hello.")
    expect(bubbles(other, "user")).to_have_text("Say hello.")
    expect(other.locator("#chat-status")).to_contain_text("1 answer comes before yours")
    expect(bubbles(other, "bot")).to_have_count(0)
    page.locator("#chat-stop").click()
    expect(bubbles(other, "bot")).to_have_count(1)
    is_settled(other, expect)
    is_settled(page, expect)
    expect(bubbles(page)).to_have_count(2)
    expect(bubbles(page, "user")).to_have_text(LONG)


def test_stop_while_it_waits_for_another_page(app_server, page, new_context, expect):
    go(page, app_server)
    other = new_context().new_page()
    go(other, app_server)
    never_ending(page)
    send(page, LONG)
    is_writing(page, expect)
    send(other, "Never mind.")
    expect(other.locator("#chat-status")).to_contain_text("before yours")
    other.locator("#chat-stop").click()
    expect(other.locator("#chat-status")).to_contain_text("Stopped")
    is_settled(other, expect)
    send(other, "Say hello.")
    expect(bubbles(other, "user")).to_have_count(2)
    page.locator("#chat-stop").click()
    is_settled(page, expect)
    expect(bubbles(other, "bot")).to_have_count(1)
    is_settled(other, expect)


def test_closing_a_page_stops_its_answer(app_server, page, new_context, expect):
    other = new_context().new_page()
    go(other, app_server)
    never_ending(other)
    send(other, LONG)
    is_writing(other, expect)
    talk = opened(other)
    other.close()
    go(page, app_server)
    send(page, "Say hello.")
    expect(bubbles(page)).to_have_count(2)  # it would wait for ever otherwise
    is_settled(page, expect)
    messages = kept(app_server, talk)
    assert [(role, state) for role, _, state in messages] == [("user", "whole"), ("assistant", "partial")]
    assert len(messages[1][1]) > 30


# ---- changing what was said ------------------------------------------------------------------------------------------


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


def test_edit_redo_delete(app_server, page, expect):
    talk = make(app_server, "Tell me about zebras.", "They have stripes.", "And gnus?", "They have beards.")
    go(page, app_server, talk)
    expect(bubbles(page)).to_have_count(4)

    change(page, 1, "They have **black** stripes.")
    expect(bubbles(page, "bot").first.locator("strong")).to_have_text("black")
    until(page, lambda: kept(app_server, talk)[1][1] == "They have **black** stripes.")  # the page shows it before
    assert len(kept(app_server, talk)) == 4, "editing an answer asks for none"

    last = bubbles(page, "bot").nth(1)
    insist(
        tools(page, 3).get_by_label("Retry"),
        lambda: expect(last).not_to_have_text("They have beards.", timeout=10_000),
    )
    is_settled(page, expect)
    expect(bubbles(page)).to_have_count(4)
    assert [text for _, text, _ in kept(app_server, talk)][:3] == [
        "Tell me about zebras.",
        "They have **black** stripes.",
        "And gnus?",
    ]

    change(page, 0, "Tell me about okapis.")
    expect(bubbles(page, "user")).to_have_text(["Tell me about okapis."])
    expect(bubbles(page)).to_have_count(2)
    is_settled(page, expect)
    assert [role for role, _, _ in kept(app_server, talk)] == ["user", "assistant"]

    remove(page, expect, 1)
    expect(bubbles(page)).to_have_count(1)
    until(page, lambda: [text for _, text, _ in kept(app_server, talk)] == ["Tell me about okapis."])
    page.reload()
    expect(bubbles(page)).to_have_count(1)


def test_an_edit_and_the_next_message_at_once(app_server, page, expect):
    """Events of an earlier answer once painted an empty chat over a newer one."""
    talk = make(app_server, "One.", "Two.")
    go(page, app_server, talk)
    expect(bubbles(page)).to_have_count(2)
    never_ending(page)
    for i in range(5):
        change(page, 0, LONG)
        page.locator("#chat-stop").click()
        is_settled(page, expect)
        send(page, f"Next {i}.")
        expect(bubbles(page, "user").last).to_have_text(f"Next {i}.")
        page.wait_for_timeout(100 * i)  # before, at and after its first words; some of these answers are short
        page.locator("#chat-stop").dispatch_event("click")
        is_settled(page, expect)
        said = kept(app_server, talk)
        assert [text for role, text, _ in said if role == "user"] == [LONG, f"Next {i}."]
        expect(bubbles(page)).to_have_count(len(said))


def test_switching_while_it_writes(app_server, page, expect):
    talk = make(app_server, "Another conversation.", "Yes.")
    go(page, app_server)
    never_ending(page)
    for i in range(3):
        page.locator("#chat-new").click()
        expect(bubbles(page)).to_have_count(0)
        send(page, LONG)
        is_writing(page, expect)
        page.locator(f"#chat-list [data-id='{talk}']").click()
        expect(bubbles(page)).to_have_text([re.compile("Another conversation."), re.compile("Yes.")])
        is_settled(page, expect)
        assert opened(page) == talk
        assert len(kept(app_server, talk)) == 2, i


def test_a_page_that_is_not_up_to_date_changes_nothing(app_server, page, expect):
    talk = make(app_server, "One.", "Two.")
    go(page, app_server, talk)
    expect(bubbles(page)).to_have_count(2)
    with store_of(app_server) as store:
        store.set_content(store.messages(talk)[1].id, "Changed elsewhere.")
    change(page, 1, "Overwritten?")
    expect(bubbles(page, "bot")).to_have_text(["Changed elsewhere."])
    assert kept(app_server, talk)[1][1] == "Changed elsewhere."
    with store_of(app_server) as store:
        store.delete_message(store.messages(talk)[1].id)
    remove(page, expect, 1)
    expect(bubbles(page)).to_have_count(1)


# ---- conversations ---------------------------------------------------------------------------------------------------


def test_list_search_rename_export_delete(app_server, page, expect):
    marked = "Mangrove <b>bold</b> & roots"
    talk = make(app_server, marked, "They **stand** in salt water.")
    make(app_server, "Quinces", "They are sour.")
    go(page, app_server)
    titles = page.locator("#chat-list button[data-id]")
    expect(titles.filter(has_text="Quinces")).to_have_count(1)
    expect(page.locator(f"#chat-list [data-id='{talk}']")).to_have_text(marked)
    assert page.locator("#chat-list b").count() == 0, "titles are text"

    page.locator("#chat-search textarea, #chat-search input").fill("SALT mangro")
    expect(titles).to_have_count(1)
    titles.first.click()
    expect(bubbles(page)).to_have_count(2)
    expect(titles).to_have_count(1)
    page.locator("#chat-search textarea, #chat-search input").fill("no such words")
    expect(page.locator("#chat-list")).to_contain_text("Nothing holds")
    page.locator("#chat-search textarea, #chat-search input").fill("")
    expect(titles.filter(has_text="Quinces")).to_have_count(1)

    page.locator("#chat-rename-open").click()
    name = page.locator("#chat-name textarea, #chat-name input")
    expect(name).to_have_value(marked)
    name.fill("Trees of the coast")
    name.press("Enter")
    expect(page.locator("#chat-title")).to_have_text("Trees of the coast")
    expect(page.locator("#chat-list [aria-current]")).to_have_text("Trees of the coast")

    with page.expect_download() as download:
        page.locator("#chat-markdown").click()
    assert download.value.suggested_filename == "Trees of the coast.md"
    text = Path(download.value.path()).read_text("utf-8")
    assert text.startswith("# Trees of the coast\n")
    assert "They **stand** in salt water." in text
    with page.expect_download() as download:
        page.locator("#chat-json").click()
    data = json.loads(Path(download.value.path()).read_text("utf-8"))
    assert [message["content"] for message in data["messages"]] == [marked, "They **stand** in salt water."]

    page.locator("#chat-delete").click()
    page.locator("#chat-delete-no").click()
    expect(page.locator("#chat-delete")).to_be_visible()
    page.locator("#chat-delete").click()
    page.locator("#chat-delete-yes").click()
    expect(bubbles(page)).to_have_count(0)
    expect(page.locator(f"#chat-list [data-id='{talk}']")).to_have_count(0)
    assert kept(app_server, talk) == []
    page.wait_for_url(re.compile(r"/$"))


def test_settings_stay_with_the_conversation(app_server, page, expect):
    go(page, app_server)
    open_settings(page)
    page.get_by_label("Precise").check()
    expect(page.locator("#chat-temperature input[type=number]")).to_have_value("0.2")
    page.locator("#chat-seed input").fill("5")
    page.locator("#chat-seed input").blur()
    page.locator("#chat-max-tokens input").fill("8")
    page.locator("#chat-max-tokens input").blur()
    page.locator("#chat-system textarea").fill("You are a pirate.")
    page.locator("#chat-system textarea").blur()
    send(page, "Who are you?")
    expect(bubbles(page)).to_have_count(2)
    is_settled(page, expect)
    expect(page.locator("#chat-status")).to_contain_text("8 tokens")
    first = kept(app_server, opened(page))[1][1]
    with store_of(app_server) as store:
        number = store.messages(opened(page))[1].id
        tools(page, 1).get_by_label("Retry").click()
        until(page, lambda: [m.state for m in store.messages(opened(page)) if m.id > number] == ["whole"])
    is_settled(page, expect)
    assert kept(app_server, opened(page))[1][1] == first, "the same seed gives the same answer"
    with store_of(app_server) as store:
        assert store.get(opened(page)).system == "You are a pirate."
    page.reload()
    expect(bubbles(page)).to_have_count(2)
    open_settings(page)
    expect(page.locator("#chat-system textarea")).to_have_value("You are a pirate.")
    expect(page.locator("#chat-seed input")).to_have_value("5")
    expect(page.get_by_label("Precise")).to_be_checked()
    page.locator("#chat-temperature input[type=number]").fill("0.5")
    page.locator("#chat-temperature input[type=number]").blur()
    expect(page.get_by_label("Custom")).to_be_checked()


def test_kill_9_and_restart_keeps_everything(start_app, page, expect, allowed_errors):
    allowed_errors += APP_IS_GONE
    server = start_app()
    go(page, server)
    never_ending(page)
    send(page, LONG)
    is_writing(page, expect)
    talk = opened(page)
    server.kill()
    page.goto("about:blank")  # a page that lost its app loads itself again, just when it is told to go elsewhere
    server.start()
    page.goto(f"{server.url}?chat={talk}")
    expect(bubbles(page)).to_have_count(2)
    expect(bubbles(page, "bot")).to_have_text(re.compile(r".{20}", re.DOTALL))
    messages = kept(server, talk)
    assert [(role, state) for role, _, state in messages] == [("user", "whole"), ("assistant", "partial")]
    expect(page.locator("#chat-list [aria-current]")).to_have_text(LONG)
    open_settings(page)
    expect(page.locator("#chat-max-tokens input")).to_have_value("0")  # the conversation's settings are there
    page.locator("#chat-max-tokens input").fill("4")
    page.locator("#chat-max-tokens input").blur()
    send(page, "Go on.")
    expect(bubbles(page)).to_have_count(4)
    is_settled(page, expect)


# ---- what models and people write ------------------------------------------------------------------------------------

HOSTILE = """\
<script>window.pwned = 1</script>
<img src="http://192.0.2.1/pixel.png" onerror="window.pwned = 2">
![a picture](http://192.0.2.1/markdown.png)
<iframe src="http://192.0.2.1/frame"></iframe>
<svg onload="window.pwned = 3"></svg>
<a href="javascript:window.pwned = 4" id="trap">press me</a> [and me](javascript:window.pwned=5)
<form action="http://192.0.2.1/form"><input name="secret"><button id="steal">Log in</button></form>
<style>body { background: url(http://192.0.2.1/style.png) } #chat-send { display: none !important }</style>
<div style="background: url(http://192.0.2.1/attribute.png); position: fixed; inset: 0">over everything</div>
<link rel="stylesheet" href="http://192.0.2.1/link.css"><meta http-equiv="refresh" content="0; url=http://192.0.2.1/">
<details open ontoggle="window.pwned = 6"><summary>x</summary></details>
<video src="http://192.0.2.1/film.mp4" autoplay></video><object data="http://192.0.2.1/object"></object>

The end."""


def test_hostile_text_is_inert(app_server, page, expect, allowed_errors):
    allowed_errors += ["Content Security Policy", "ERR_", "foreign request: http://192"]  # refused, and said so
    tried, blocked = [], []
    page.on("request", lambda request: tried.append(request.url))
    page.on("requestfailed", lambda request: blocked.append((request.url, request.failure)))
    talk = make(app_server, HOSTILE, HOSTILE, title="<img src=x onerror='window.pwned = 7'>")
    go(page, app_server, talk)
    expect(bubbles(page)).to_have_count(2)
    expect(bubbles(page, "bot")).to_contain_text("The end.")
    expect(page.locator("#chat-send")).to_be_visible()
    for link in page.locator("#chat-log .message a").all():
        assert not (link.get_attribute("href") or "").startswith("javascript:")
    bad = "#chat-log :is(script, iframe, object, embed, meta, link)"
    assert page.evaluate("(bad) => document.querySelectorAll(bad).length", bad) == 0
    send(page, "Hello.")  # nothing lies over the page and the chat goes on
    expect(bubbles(page)).to_have_count(4)
    is_settled(page, expect)
    assert page.evaluate("window.pwned") is None
    foreign = [url for url in tried if not url.startswith((app_server.url, "data:", "blob:"))]
    assert {url: "csp" for url in foreign} == {url: failure for url, failure in blocked if url in foreign}


def test_markdown_code_and_formulas_are_rendered(app_server, page, expect):
    answer = (
        "# Head\n\n- **bold** item\n\n```python\nprint('x < y')\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
        "$$e^{i\\pi}$$ costs $5 and $6"
    )
    talk = make(app_server, "Show me.\n    indented", answer)
    go(page, app_server, talk)
    bot = bubbles(page, "bot")
    expect(bot.locator("h1")).to_have_text("Head")
    expect(bot.locator("li strong")).to_have_text("bold")
    expect(bot.locator("pre code")).to_contain_text("print('x < y')")
    expect(bot.locator("td").first).to_have_text("1")
    expect(bot.locator(".katex-display")).to_have_count(1)
    expect(bot).to_contain_text("costs $5 and $6")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tools(page, 1).get_by_label("Copy message").click()
    page.wait_for_function("async (text) => (await navigator.clipboard.readText()) === text", arg=answer)


# ---- API -------------------------------------------------------------------------------------------------------------


def test_gradio_client_can_chat(app_server):
    from gradio_client import Client

    client = Client(app_server.url, verbose=False)
    try:
        check_api(app_server, client)
    finally:
        client.close()


def check_api(app_server, client) -> None:
    text, talk = client.predict("Say hello.", api_name="/chat")
    assert [role for role, _, _ in kept(app_server, talk)] == ["user", "assistant"]
    assert kept(app_server, talk)[1][1] == text
    assert text
    again, same = client.predict("And goodbye.", talk, api_name="/chat")
    assert same == talk
    assert [content for _, content, _ in kept(app_server, talk)][2:] == ["And goodbye.", again]
