"""The Compare tab on the real model: answers side by side, differences, refusals, Stop, and the chat left as it was."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browser.helpers import call, open_tab, wait_until_ready

pytestmark = pytest.mark.browser

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
STORY = " ".join(
    f"Anna, who lived at number {n}, gave {n * 3} apples to her neighbour and asked for nothing." for n in range(1, 31)
)  # about 600 tokens


def fill(page, document: str, n_tokens: int = 16, mib: int = 6) -> None:
    page.locator("#compare-prompt textarea").fill("Who gave apples to whom?")
    page.locator("#compare-document textarea").fill(document)
    for name, value in (("mib", mib), ("tokens", n_tokens)):
        number = page.locator(f"#compare-{name} input[type=number]")
        number.fill(str(value))
        number.press("Tab")


def choose(page, number: int, words: str) -> None:
    """Which memory row `number` is."""
    box = page.locator(f"#compare-kind-{number} input")
    box.click()
    options = page.locator(f"[id='{box.get_attribute('aria-controls')}']")  # the list of another row may still close
    options.get_by_role("option", name=words, exact=True).click()


def test_memories_answer_side_by_side_and_a_full_one_is_refused(app_server, page):
    from playwright.sync_api import expect

    wait_until_ready(page, app_server)
    open_tab(page, "compare")
    expect(page.locator(".cmp-empty")).to_be_visible()
    fill(page, STORY)
    expect(page.locator("#compare-cells")).to_contain_text("1. Full: 256 cells")
    expect(page.locator("#compare-cells")).to_contain_text("4. Best choice: 256 cells")
    page.locator("#compare-start").click()
    expect(page.locator("#compare-stop")).to_be_enabled()
    cards = page.locator(".cmp-card")
    expect(cards).to_have_count(4)
    expect(cards.nth(0)).to_have_attribute("data-state", "refused")
    expect(cards.nth(3)).to_have_attribute("data-state", "done")
    expect(page.locator("#compare-start")).to_be_enabled()
    expect(cards.locator("h3")).to_have_text(
        ["1. Full", "2. Window", "3. Ladder, as published", re.compile(r"4\. Best choice \(\w+\)")]
    )
    for card in (cards.nth(1), cards.nth(2), cards.nth(3)):
        costs = card.locator(".cmp-costs")
        expect(costs).to_contain_text("256 cells, 5.6 MiB")
        expect(costs).to_contain_text(re.compile(r"[\d,]+ tokens in [\d.]+ s"))
        expect(costs).to_contain_text(re.compile(r"[1-9]\d* compactions"))
        expect(card.locator(".cmp-text").first).not_to_be_empty()
    expect(cards.nth(0)).to_contain_text("do not fit into the 256 cells that 6.0 MiB hold")

    first, second = (cards.nth(i).locator(".cmp-text").first.inner_text() for i in (1, 2))
    if first == second:
        expect(cards.nth(2)).to_contain_text("Word for word the answer of Window.")
    else:
        diff = cards.nth(2).locator(".cmp-diff")
        expect(diff).to_contain_text("Against Window:")
        assert diff.locator("ins, del").count() > 0
        kept = diff.locator(".cmp-text").evaluate(
            "e => [...e.childNodes].filter((n) => n.nodeName !== 'DEL').map((n) => n.nodeName === 'INS' ?"
            " [...n.childNodes].filter((m) => m.nodeType === 3).map((m) => m.data).join('') : n.data).join('')"
        )
        assert kept.split() == second.split()

    assert call(app_server, "memory")["n_seen"] == 0  # the chat's own memory was not touched


def test_stop_ends_a_long_comparison_and_the_next_one_works(app_server, page):
    from playwright.sync_api import expect

    wait_until_ready(page, app_server)
    open_tab(page, "compare")
    fill(page, STORY * 60)  # minutes of reading
    choose(page, 1, "Ladder")
    choose(page, 2, "Full")
    choose(page, 3, "none")
    choose(page, 4, "none")
    page.locator("#compare-start").click()
    cards = page.locator(".cmp-card")
    expect(cards.nth(0)).to_have_attribute("data-state", "reading")
    expect(cards.nth(0).locator("progress")).to_be_visible()
    page.locator("#compare-stop").click()
    expect(page.locator("#compare-result [role=status]")).to_have_text("Stopped.")
    expect(cards.nth(0)).to_have_attribute("data-state", "stopped")
    expect(page.locator("#compare-start")).to_be_enabled()
    expect(page.locator("#compare-stop")).to_be_disabled()
    fill(page, "", n_tokens=8)
    page.locator("#compare-start").click()
    expect(cards.nth(1)).to_have_attribute("data-state", "done")  # without a document the full cache fits
    expect(page.locator("#compare-start")).to_be_enabled()


def test_what_cannot_be_compared_is_said(app_server, page):
    from playwright.sync_api import expect

    wait_until_ready(page, app_server)
    open_tab(page, "compare")
    settings = page.get_by_role("button", name="Ladder settings")
    expect(settings).to_have_count(1)  # the published ladder's
    choose(page, 3, "H2O")
    expect(settings).to_have_count(0)
    choose(page, 1, "Ladder")
    expect(settings).to_have_count(1)
    page.locator("#compare-start").click()
    expect(page.locator("#compare-result [role=status]")).to_contain_text("the prompt is empty")
    page.locator("#compare-mib input[type=number]").fill("1")
    page.locator("#compare-mib input[type=number]").press("Tab")
    expect(page.locator("#compare-cells")).to_contain_text(re.compile("Ladder: 32 cells|too small"))  # beside a GPU


def test_programs_can_compare(app_server):
    rows = call(app_server, "compare", "Say hello.", "", "ladder; sink_window:k=q8_0,v=q4_0", 6, 8)
    assert [row["memory"] for row in rows] == ["Ladder", "Window, K q8_0, V q4_0"]
    assert all(row["text"] and not row["refused"] for row in rows)
    assert rows[1]["n_ctx"] > rows[0]["n_ctx"] == 256


def test_what_was_measured_is_drawn(app_server, page, tmp_path):
    from playwright.sync_api import expect

    pytest.importorskip("matplotlib")
    wait_until_ready(page, app_server)
    open_tab(page, "compare")
    page.locator("#compare-measured button").first.click()
    drop, pictures = page.locator("#compare-results input[type=file]"), page.locator("#compare-pictures")
    drop.set_input_files(RESULTS / "2026-11-28-passkey.jsonl")
    expect(pictures.locator("img")).to_have_count(2)
    for image in pictures.locator("img").all():
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 300
    page.locator("#compare-results").get_by_role("button", name="Clear").click()
    expect(pictures.locator("img")).to_have_count(0)
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n")
    drop.set_input_files(bad)
    expect(pictures).to_contain_text("bad.jsonl, line 1, is no result of this version")
