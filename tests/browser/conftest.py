"""Fixtures of the browser tests: the real app in a process of its own, and a real Chromium that looks at it.

    def test_something(app_server, page):
        page.goto(app_server.url)

`app_server`    one app for all tests of a module: real model, 256 cells, its own data folder, welcome already seen
`start_app`     a factory for tests that need other flags, a first run, or to kill and restart the app on the same data
`page`          a page of its own for every test; at the end no console error, page error or foreign request is accepted
`allowed_errors` regular expressions of console errors that a test expects
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

TIMEOUT_S = 120
"""Nothing takes this long, except on a machine that does much else; it costs time only when a test fails."""
CALLS_S = 5  # a call that is not answered within this time was stopped by the test
LOST, LEAVING_S = "Connection errored out", 1  # Gradio's words for a server that is gone; how long leaving a page takes
FLAGS = ("-c", "256", "--threads", "1")  # tests run in two processes
CHROMIUM_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
HARMLESS = (
    "AbortError: signal is aborted",  # Gradio says so itself when its page is left or loaded again
)
_ADDRESS = re.compile(r"LaCache is at (http://\S+)")


class AppServer:
    """A running `lacache app`. `url` ends in a slash; `log` is what it printed."""

    def __init__(self, data_dir: Path, *flags: str, env: dict[str, str] | None = None, port: int = 0) -> None:
        self.data_dir = data_dir
        self._log_path = data_dir.parent / f"{data_dir.name}.log"
        self._flags, self._env, self._port = flags, env or {}, port
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Start it (again, on the same data and port) and wait until it answers."""
        command = [sys.executable, "-m", "lacache_app.cli", "app", "--no-browser", "--port", str(self._port)]
        env = {**os.environ, "OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1", **self._env}
        with self._log_path.open("a") as log:
            self._n_before = log.tell()
            self.process = subprocess.Popen(
                [*command, "--data-dir", str(self.data_dir), *self._flags], stdout=log, stderr=log, env=env
            )
        deadline = time.monotonic() + TIMEOUT_S
        while (found := _ADDRESS.search(self.log[self._n_before :])) is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"the app did not start:\n{self.log}")
            select.select([], [], [], 0.05)
        self.url = found.group(1)
        self._port = int(self.url.rstrip("/").rpartition(":")[2])

    @property
    def port(self) -> int:
        return self._port

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    def kill(self) -> None:
        """kill -9, as a crash would."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        if self.process is not None:
            self.process.wait(TIMEOUT_S)

    def stop(self) -> int:
        """Ctrl-C; returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def restart(self) -> None:
        """Kill it and start it again on the same data and port."""
        self.kill()
        self.start()


def new_data_dir(folder: Path, is_first_run: bool = False) -> Path:
    """A data folder; unless it is a first run the welcome was seen."""
    folder.mkdir(mode=0o700)
    if not is_first_run:
        (folder / "settings.json").write_text(json.dumps({"welcome_seen": True}))
    return folder


_own_origins: set[str] = set()


def _started(server: AppServer) -> AppServer:
    _own_origins.add(server.url.rstrip("/"))
    return server


@pytest.fixture(scope="module")
def app_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    """The app for the tests of this module."""
    server = _started(AppServer(new_data_dir(tmp_path_factory.mktemp("app") / "data"), *FLAGS))
    yield server
    code = server.stop()
    assert code == 0, server.log
    assert "Traceback" not in server.log, server.log


@pytest.fixture
def start_app(tmp_path: Path) -> Iterator[Callable[..., AppServer]]:
    """start_app(*flags, is_first_run=False, data_dir=None, env=None) -> AppServer, ended with the test."""
    servers: list[AppServer] = []

    def start(
        *flags: str, is_first_run: bool = False, data_dir: Path | None = None, env: dict[str, str] | None = None
    ) -> AppServer:
        folder = data_dir or new_data_dir(tmp_path / f"data{len(servers)}", is_first_run)
        servers.append(_started(AppServer(folder, *(flags or FLAGS), env=env)))
        return servers[-1]

    yield start
    for server in servers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for the tests of this module, with a fresh profile.

    Its end also ends Playwright's event loop, beside which no other test could call asyncio.run.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()


def chromium_path() -> str | None:
    """Chromium on this machine; tests/conftest.py skips the browser tests where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture
def allowed_errors() -> list[str]:
    """Regular expressions of console errors that this test expects."""
    return []


@pytest.fixture
def new_context(browser: Browser, allowed_errors: list[str]) -> Iterator[Callable[..., BrowserContext]]:
    """new_context(**Playwright's options) -> a browser context whose pages are watched; checked at the end."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []
    lost: list[float] = []  # when a page said that it lost its server, which Gradio also says of a page that is left
    left: list[float] = []  # when a page was left: its heartbeat was aborted, which no lost server does
    called: set[Request] = set()  # calls that are under way

    def hear(message: ConsoleMessage) -> None:
        if LOST in message.text:
            lost.append(time.monotonic())
        elif message.type == "error":
            problems.append(f"console: {message.text} ({message.location})")

    def fail(request: Request) -> None:
        called.discard(request)
        if "/gradio_api/heartbeat/" in request.url and "ERR_ABORTED" in (request.failure or ""):
            left.append(time.monotonic())

    def watch(page: Page) -> None:
        page.on("console", hear)
        page.on("pageerror", lambda error: problems.append(f"page error: {error}"))
        page.on("request", lambda request: problems.extend(_foreign(request.url)))
        page.on("request", lambda r: called.add(r) if re.search("/gradio_api/(run|queue/join)", r.url) else None)
        page.on("requestfinished", lambda r: called.discard(r))
        page.on("requestfailed", fail)

    def make(**options: Any) -> BrowserContext:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", **options})
        context.set_default_timeout(TIMEOUT_S * 1000)
        context.set_default_navigation_timeout(TIMEOUT_S * 1000)
        context.on("page", watch)
        contexts.append(context)
        return context

    yield make
    give_up_at = time.monotonic() + CALLS_S
    for page in [page for context in contexts for page in context.pages]:
        while called and time.monotonic() < give_up_at:  # what the test called last is answered
            page.wait_for_timeout(20)
    for context in contexts:
        context.close()
    problems += [f"console: {LOST}" for at in lost if not any(abs(at - then) < LEAVING_S for then in left)]
    allowed = (*HARMLESS, *allowed_errors)
    unexpected = [text for text in problems if not any(re.search(pattern, text) for pattern in allowed)]
    assert unexpected == []


def _foreign(url: str) -> list[str]:
    is_own = url.startswith(("data:", "blob:", "about:")) or any(
        url == origin or url.startswith(origin + "/") for origin in _own_origins
    )
    return [] if is_own else [f"foreign request: {url}"]


@pytest.fixture
def page(new_context: Callable[..., BrowserContext]) -> Page:
    """A page in a context of its own, 1280 x 900."""
    from playwright.sync_api import expect

    expect.set_options(timeout=TIMEOUT_S * 1000)
    return new_context().new_page()


@pytest.fixture
def expect() -> Callable[..., Any]:
    """Playwright's, which only tests that have a browser can import."""
    from playwright.sync_api import expect

    return expect


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows what the app printed, and keeps a picture of the page beside its data."""
    report = yield
    if report.failed:
        funcargs = getattr(item, "funcargs", {})
        server = funcargs.get("app_server")
        if server is not None:
            report.sections.append(("output of the app", server.log[-8000:]))
        page = funcargs.get("page")
        folder = funcargs.get("tmp_path") or (server and server.data_dir.parent)
        if page is not None and folder is not None and report.when == "call":
            with contextlib.suppress(Exception):
                page.screenshot(path=str(Path(folder) / "failed.png"), full_page=True)
                report.sections.append(("picture of the page", str(Path(folder) / "failed.png")))
    return report
