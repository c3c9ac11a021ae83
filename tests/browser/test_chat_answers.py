"""The chat tab on the real model: streaming, Stop, several pages, what answers and hostile texts look like, the API.

Tests wait for what a user would see, never for time. Where a text must be known, it is put into the app's store.
"""

from __future__ import annotations

import re

import pytest
from browser.chat_page import (
    LONG,
    bubbles,
    entry,
    go,
    is_settled,
    is_writing,
    kept,
    make,
    never_ending,
    open_settings,
    opened,
    remove,
    send,
    tools,
)

pytestmark = pytest.mark.browser


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
    open_settings(page)
    page.locator("#chat-max-tokens input").fill("100")  # fits into the cells, however the dice fall
    page.locator("#chat-max-tokens input").blur()
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
    with page.expect_response("**/queue/join**"):
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
