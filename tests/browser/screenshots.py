"""Pictures of every tab, light and dark, with real content, for the README and docs/app.md.

    python tests/browser/screenshots.py                 # writes docs/images/*.png; 3 minutes on 2 cores

What it shows is what a user gets: the real app and default model, an answered chat, a summary of 20,000 tokens of the
Python language reference through 1,024 cells with the memory map grown by it, the models page, a comparison.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests")]

from browser.conftest import CHROMIUM_FLAGS, AppServer, chromium_path, new_data_dir  # noqa: E402
from browser.helpers import open_tab, wait_until_ready  # noqa: E402
from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402

WIDE = {"width": 1440, "height": 960}
TALL = {"width": 1440, "height": 1300}
TALLER = {"width": 1440, "height": 1480}
NARROW = {"width": 390, "height": 844}
LONG_S = 600
MAX_BYTES = 300_000
N_CHARS = 80_000


def main() -> int:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="folder (default: docs/images)")
    parser.add_argument("--quick", action="store_true", help="a short document")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=LONG_S * 1000)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = AppServer(new_data_dir(Path(folder) / "data", is_first_run=True), "-c", "1024")
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=list(CHROMIUM_FLAGS))
        try:
            page = browser.new_page(viewport=WIDE, color_scheme="light", locale="en-GB")
            page.set_default_timeout(LONG_S * 1000)
            visit(page, server, args.out, Path(folder), 8_000 if args.quick else N_CHARS)
        finally:
            browser.close()
            server.stop()
    sizes = {path.name: path.stat().st_size for path in sorted(args.out.glob("*.png"))}
    for name, size in sizes.items():
        print(f"{size:9,} {name}")
    return int(any(size > MAX_BYTES for size in sizes.values()))


def visit(page: Page, server: AppServer, out: Path, folder: Path, n_chars: int) -> None:
    """First run, chat, documents, models, compare, and a telephone."""
    page.goto(server.url)
    expect(page.locator("#lc-welcome")).to_be_visible()
    expect(page.locator("#chat-input textarea")).to_be_visible()
    both(page, out, "welcome", theme_button=False)
    page.locator("#lc-welcome-close").click()
    wait_until_ready(page, server)

    chat(page, "What is a tide, and why are there two of them every day?")
    chat(page, "Give me three short tips for a first visit to the seaside, as a list.")
    both(page, out, "chat")

    open_tab(page, "documents")
    page.set_viewport_size(TALL)
    document = folder / "python-language-reference.txt"
    document.write_text(python_reference()[:n_chars], "utf-8")
    page.locator("#doc-drop input[type=file]").set_input_files(document)
    page.get_by_label(re.compile("whole", re.IGNORECASE)).first.check()
    expect(page.locator("#doc-start")).to_be_enabled()
    page.locator("#doc-start").click()
    expect(page.locator("#doc-continue")).to_be_visible()
    settled(page)
    both(page, out, "documents")
    page.locator("#lc-side").screenshot(path=out / "memory-light.png")
    switch(page)
    page.locator("#lc-side").screenshot(path=out / "memory-dark.png")
    switch(page)

    page.set_viewport_size(WIDE)
    open_tab(page, "models")
    expect(page.locator("#model-estimate")).not_to_be_empty()
    page.evaluate(  # where this machine keeps its files is nobody's business
        "(root) => document.querySelectorAll('.lc-path').forEach((path) => {"
        " path.textContent = path.textContent.replace(root, '…'); })",
        str(ROOT),
    )
    both(page, out, "models")

    open_tab(page, "compare")
    page.set_viewport_size(TALLER)
    page.locator("#compare-prompt textarea").fill("What does the text say about names? Answer in two sentences.")
    page.locator("#compare-document textarea").fill(python_reference()[:6_000])
    page.locator("#compare-start").click()
    expect(page.locator("#compare-start")).to_be_disabled()
    expect(page.locator("#compare-start")).to_be_enabled()
    settled(page)
    both(page, out, "compare")
    page.set_viewport_size(WIDE)

    open_tab(page, "chat")
    page.set_viewport_size(NARROW)
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=out / "phone-light.png")


def chat(page: Page, text: str) -> None:
    """Send a message and wait for the whole answer."""
    page.locator("#chat-input textarea").fill(text)
    page.locator("#chat-send").click()
    expect(page.locator("#chat-stop")).to_be_visible()
    expect(page.locator("#chat-send")).to_be_visible()
    settled(page)


def settled(page: Page) -> None:
    """The engine rests, and the header and the map have heard of it."""
    expect(page.locator("#lc-state")).to_have_text("ready")
    with page.expect_response("**/lacache/memory**"):
        pass


def both(page: Page, out: Path, name: str, theme_button: bool = True) -> None:
    """The page in light and dark."""
    page.evaluate("scrollTo(0, 0)")
    page.mouse.move(720, 4)
    page.screenshot(path=out / f"{name}-light.png")
    switch(page, theme_button)
    page.screenshot(path=out / f"{name}-dark.png")
    switch(page, theme_button)


def switch(page: Page, theme_button: bool = True) -> None:
    """The other of light and dark, and wait until the map is drawn anew."""
    page.evaluate("document.getElementById('lc-theme').click()")
    page.mouse.move(720, 4)
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    with page.expect_response("**/lacache/memory**"):
        pass


def python_reference() -> str:
    """English prose that comes with every Python."""
    from lacache_app.commands.demo import python_reference

    return python_reference()


if __name__ == "__main__":
    sys.exit(main())
