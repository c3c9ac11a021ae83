"""Events that are queued while the page's stream is ending (app/ui/assets/stream.js), in the real app."""

from __future__ import annotations

import pytest
from browser.chat_page import bubbles, go, make

pytestmark = pytest.mark.browser

# The end of the stream reaches the page late, as on a busy machine. Runs before any script of the page.
LATE_END = """(() => {
  const fetched = window.fetch.bind(window);
  window.nHeld = window.nPassed = window.nStreams = 0;
  window.fetch = async (input, options) => {
    const answer = await fetched(input, options);
    if (!String(input.url ?? input).includes("/queue/data")) return answer;
    window.nStreams++;
    return new Response(answer.body.pipeThrough(new TransformStream({
      async transform(bytes, out) {
        const text = new TextDecoder().decode(bytes), end = text.indexOf('data: {"msg":"close_stream"');
        if (end < 0) return out.enqueue(bytes);
        if (end) out.enqueue(new TextEncoder().encode(text.slice(0, end)));
        window.nHeld++;
        await new Promise((go) => setTimeout(go, 1500));
        window.nPassed++;
        out.enqueue(new TextEncoder().encode(text.slice(end)));
      },
    })), answer);
  };
})();"""


def test_an_event_queued_while_the_stream_ends_is_answered(app_server, page, expect):
    one, other = make(app_server, "One.", "Yes."), make(app_server, "Other.", "No.")
    page.add_init_script(LATE_END)
    go(page, app_server)
    page.wait_for_function("window.nStreams && window.nPassed == window.nStreams")  # what the page asks as it is loaded
    n = page.evaluate("window.nStreams")

    page.locator(f"#chat-list [data-id='{one}']").click()
    expect(bubbles(page, "user")).to_have_text(["One."])
    page.wait_for_function(f"window.nHeld == {n + 1}")  # the server has ended the stream, and the page is yet to know
    page.locator(f"#chat-list [data-id='{other}']").click()
    expect(bubbles(page, "user")).to_have_text(["Other."], timeout=15_000)
    assert page.evaluate("window.nStreams") == n + 2

    page.wait_for_function(f"window.nPassed == {n + 2}")
    page.locator(f"#chat-list [data-id='{one}']").click()  # one that comes when nothing is open any more
    expect(bubbles(page, "user")).to_have_text(["One."], timeout=15_000)
    assert page.evaluate("window.nStreams") == n + 3
