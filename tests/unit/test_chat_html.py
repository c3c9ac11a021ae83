"""chat_html: what the chat page says, and that nobody's text becomes markup."""

from __future__ import annotations

from datetime import datetime

import pytest
from lacache_app.chat import View
from lacache_app.store import Conversation
from lacache_app.ui import chat_html

from lacache_gguf.events import Progress

EVIL = "<img src=x onerror=alert(1)> \"quoted\" & 'more'"


def at(day: str) -> float:
    return datetime.fromisoformat(day).timestamp()


def test_the_list_is_grouped_by_age_and_marks_the_open_one():
    now = at("2026-11-25T12:00")
    talks = [
        Conversation("a", "one", 0, at("2026-11-25T09:00")),
        Conversation("b", "two", 0, at("2026-11-25T00:01")),
        Conversation("c", "three", 0, at("2026-11-24T23:59")),
        Conversation("d", "four", 0, at("2026-11-20T10:00")),
        Conversation("e", "five", 0, at("2026-10-03T10:00")),
    ]
    html = chat_html.conversation_list(talks, "c", now=now)
    order = ["Today", "one", "two", "Yesterday", "three", "This week", "four", "October 2026", "five"]
    assert sorted(order, key=lambda word: html.index(f">{word}<")) == order
    assert html.count("Today") == 1
    assert html.count("aria-current") == 1
    assert 'data-id="c" title="three" aria-current="true"' in html
    assert 'data-open="c"' in html


def test_an_empty_list_says_why():
    assert "appear here" in chat_html.conversation_list([], "")
    assert "Nothing holds “&lt;b&gt;”" in chat_html.conversation_list([], "", "<b>")


@pytest.mark.parametrize(
    "html",
    [
        chat_html.conversation_list([Conversation(EVIL, EVIL, 0, 0)], EVIL, EVIL),
        chat_html.title(EVIL),
        chat_html.news(View("failed", error=EVIL)),
        chat_html.notice(EVIL),
    ],
)
def test_text_never_becomes_markup(html):
    assert "&lt;img" in html
    assert "<img" not in html
    assert '"quoted"' not in html


READING = Progress(500, 2000, 256, 256, 3, 2.0, n_before=100)


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (View("waiting", place=0), "Starting"),
        (View("waiting", place=1), "1 answer comes before yours"),
        (View("waiting", place=3), "3 answers come before yours"),
        (View("stopping"), "Stopping …"),
        (View("loading"), "Loading the model"),
        (View("reading"), "Reading …"),
        (View("reading", progress=READING), "Reading 500 of 2,000 tokens · 200 tokens/s · about 0:08 left"),
        (View("answering", n_tokens=12, tokens_per_s=34.56), "Writing · 12 tokens · 34.6 tokens/s"),
        (View("done", n_tokens=1), "1 token"),
        (View("done", n_tokens=9, is_cut=True), "cut at the longest answer"),
        (View("stopped"), "Stopped before the answer"),
        (View("stopped", n_tokens=7), "Stopped · 7 tokens"),
        (View("failed", error="too big; use less"), "too big; use less"),
    ],
)
def test_the_line_of_news(view, words):
    html = chat_html.news(view)
    assert words in html
    assert ('role="alert"' in html) == (view.state == "failed")
    assert html.startswith('<div class="lc-news'), "always one line of the same height"
    assert ('class="lc-news busy"' in html) == (not view.is_over), "Stop is shown until it is over"


def test_progress_is_a_progress_bar():
    html = chat_html.news(View("reading", progress=READING))
    assert '<progress max="2000" value="500" aria-label="Reading">' in html
