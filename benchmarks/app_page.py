"""The app's page in headless Chromium, for app_overhead.py: asks as a person does, tells when text is on the screen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from shutil import which
from typing import Any

import psutil

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := which(name))), None)

_WATCH = """new Promise((done, fail) => {
  const log = document.querySelector('#chat-log');
  let start = 0, first = 0;
  document.addEventListener('keydown', () => { start = performance.now(); }, { capture: true, once: true });
  const look = () => {
    const texts = log.querySelectorAll('[data-testid=bot]');
    if (!first && start && texts.length && texts[texts.length - 1].innerText.trim()) first = performance.now();
  };
  const observer = new MutationObserver(look);
  observer.observe(log, { childList: true, characterData: true, subtree: true });
  const timer = setInterval(() => {
    const isOver = first && document.querySelector('#chat-status').innerText.includes('tokens/s')
      && !document.querySelector('#chat-status .busy');
    if (isOver || performance.now() - start > 120000) {
      clearInterval(timer);
      observer.disconnect();
      isOver ? done((first - start) / 1000) : fail(new Error('no answer in the page'));
    }
  }, 100);
})"""


class Page:
    """The app in Chromium, with the settings of the bare engine."""

    def __init__(self, browser: Any, url: str) -> None:
        self.page = browser.new_page(viewport={"width": 1280, "height": 900})
        self.page.set_default_timeout(120_000)
        self.page.goto(url)
        self.page.locator("#chat-list nav").wait_for()

    def ask(self, question: str) -> float:
        """Seconds from the key to the first text on the screen, in a new conversation; returns when it is all there."""
        page = self.page
        page.locator("#chat-new").click()
        page.locator("#chat-log [data-testid=bot]").first.wait_for(state="detached")
        page.locator("#chat-input textarea").fill(question)
        page.evaluate(f"() => {{ window.lacacheTime = {_WATCH}; }}")
        page.locator("#chat-input textarea").press("Enter")
        return page.evaluate("window.lacacheTime")

    def settings(self, n_tokens: int) -> None:
        """Seed 0 as the engine has it, and short answers."""
        page = self.page
        page.locator("#chat-settings > button").click()
        for name, value in (("chat-max-tokens", n_tokens), ("chat-seed", 0)):
            page.locator(f"#{name} input").fill(str(value))
            page.locator(f"#{name} input").blur()

    def busy_s(self) -> float:
        """CPU seconds of the browser so far, all of its processes: scripts, layout, painting without a GPU."""
        total = 0.0
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if "chrom" in process.name():
                    times = process.cpu_times()
                    total += times.user + times.system
        return total


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser with a fresh profile."""
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        try:
            yield browser
        finally:
            browser.close()
