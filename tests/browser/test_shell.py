"""What stands around the tabs, in the real app: first run, guard, nothing foreign, light and dark, narrow, keyboard."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser


def test_first_run_explains_itself_once(start_app, page):
    from playwright.sync_api import expect

    server = start_app(is_first_run=True)
    page.goto(server.url)
    welcome = page.locator("#lc-welcome")
    expect(welcome).to_be_visible()
    expect(page.locator("#lc-welcome-close")).to_be_focused()
    with page.expect_response("**/lacache/welcome"):
        page.keyboard.press("Enter")
    expect(welcome).to_be_hidden()
    page.reload()
    expect(page.locator("#lc-state")).to_have_text("not loaded")  # the status came, and with it the word to stay quiet
    expect(welcome).to_be_hidden()
    page.locator("#lc-help").click()
    expect(welcome).to_be_visible()
