"""The chat tab on the real model: changing what was said, and conversations that are found, kept and survive a crash.

Tests wait for what a user would see, never for time. Where a text must be known, it is put into the app's store.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from browser.chat_page import (
    LONG,
    bubbles,
    change,
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
    store_of,
    tools,
)
from browser.helpers import APP_IS_GONE, until

pytestmark = pytest.mark.browser


# ---- changing what was said ------------------------------------------------------------------------------------------


def test_edit_redo_delete(app_server, page, expect):
    talk = make(app_server, "Tell me about zebras.", "They have stripes.", "And gnus?", "They have beards.")
    go(page, app_server, talk)
    expect(bubbles(page)).to_have_count(4)

    change(page, 1, "They have **black** stripes.")
    expect(bubbles(page, "bot").first.locator("strong")).to_have_text("black")
    until(page, lambda: kept(app_server, talk)[1][1] == "They have **black** stripes.")  # the page shows it before
    assert len(kept(app_server, talk)) == 4, "editing an answer asks for none"

    last = bubbles(page, "bot").nth(1)
    tools(page, 3).get_by_label("Retry").click()
    expect(last).not_to_have_text("They have beards.")
    page.locator("#chat-stop").dispatch_event("click")  # some answers are very long
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
    page.locator("#chat-stop").dispatch_event("click")
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
