"""The documents tab in a real browser: every format, progress, Stop, going on, after kill -9 too, and hostile files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("playwright.sync_api")
from browser.helpers import APP_IS_GONE, until
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.browser

SAMPLES = Path(__file__).resolve().parents[1] / "golden" / "documents"
SENTENCES = (
    "The lighthouse keeper wrote one line every night. Ships came and went, and the sea kept its own diary. "
    "In March a storm broke the mast of the schooner Anna, and the keeper rowed out alone. "
)
DONE = "Done."


@pytest.fixture(autouse=True)
def patient() -> None:
    """Also in tests that make their own page: what is waited for takes a while on a busy machine."""
    expect.set_options(timeout=60_000)


def open_tab(page: Page, url: str) -> Page:
    page.goto(url)
    page.get_by_role("tab", name="Documents").click()
    expect(page.locator("#doc-drop")).to_be_visible()
    return page


def drop(page: Page, *files: Path | str) -> None:
    """Put files into the drop zone and wait until it is said what they are."""
    page.locator("#doc-drop input[type=file]").set_input_files([str(file) for file in files])
    expect(page.locator("#doc-found .doc-found, #doc-found .doc-alert").first).to_be_visible()


def choose(page: Page, mode: str = "whole", length: str = "Short") -> None:
    page.locator("#doc-mode").get_by_label(re.compile("whole" if mode == "whole" else "Part by part")).check()
    page.locator("#doc-length").get_by_label(length).check()


def percent(page: Page) -> int:
    return int(page.locator("#doc-progress [role=progressbar]").get_attribute("aria-valuenow") or 0)


def wait_for_progress(page: Page, more_than: int) -> int:
    """Wait until more than so many percent were read."""
    bar = "#doc-progress [role=progressbar]"
    page.wait_for_function(
        "([bar, n]) => Number(document.querySelector(bar)?.getAttribute('aria-valuenow')) > n", arg=[bar, more_than]
    )
    return percent(page)


@pytest.fixture
def long_text(tmp_path) -> Path:
    """About 30,000 tokens: no machine has read them before a test is done with it."""
    path = tmp_path / "diary.txt"
    path.write_text(SENTENCES * 700)
    return path


def test_files_may_be_dropped_anywhere(page, app_server):
    """On the chat, too; a second time, when the box already shows files."""
    page.goto(app_server.url)
    expect(page.locator("#chat-log")).to_be_visible()
    for target, name in (("#chat-log", "letter.txt"), ("#lc-header", "minutes.md")):
        files = page.evaluate_handle(
            """([name]) => { const data = new DataTransfer();
            data.items.add(new File(["We met at noon and decided to leave."], name, { type: "text/plain" }));
            return data; }""",
            [name],
        )
        page.dispatch_event(target, "dragenter", {"dataTransfer": files})
        expect(page.locator("html")).to_have_class(re.compile("lc-dropping"))
        page.dispatch_event(target, "drop", {"dataTransfer": files})
        expect(page.locator("html")).not_to_have_class(re.compile("lc-dropping"))
        expect(page.locator("#doc-found")).to_contain_text(name)
        expect(page.locator("#doc-start")).to_be_enabled()


def test_the_empty_tab_says_what_to_do(page, app_server):
    open_tab(page, app_server.url)
    expect(page.locator("#doc-found")).to_contain_text("Drop in a document")
    expect(page.locator("#doc-start")).to_be_disabled()
    expect(page.locator("#doc-continue")).to_be_hidden()
    expect(page.locator("#doc-mode").get_by_label("Part by part")).to_be_checked()
    expect(page.locator("#doc-length").get_by_label("Medium")).to_be_checked()
    page.get_by_text("Style, language, other instructions").click()
    for label in ("Style", "Language", "Instead of summarizing"):
        expect(page.locator("#doc-more").get_by_label(label).first).to_be_visible()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("report.pdf", "PDF · 6 pages"),
        ("report.docx", "Word document · 3 chapters"),
        ("book.epub", "EPUB book · 3 chapters"),
        ("page.html", "web page · 4 chapters"),
        ("notes.markdown", "Markdown · 4 chapters"),
        ("novel.txt", "plain text · 2 chapters"),
    ],
)
def test_every_format_gets_a_summary(page, app_server, name, kind):
    open_tab(page, app_server.url)
    drop(page, SAMPLES / name)
    found = page.locator("#doc-found")
    expect(found).to_contain_text(name)
    expect(found).to_contain_text(re.compile(kind.replace("6 pages", r"\d+ pages")))
    expect(found).to_contain_text("tokens")
    choose(page)
    page.locator("#doc-start").click()
    expect(page.locator("#doc-progress")).to_contain_text(DONE)
    expect(page.locator("#doc-result")).to_contain_text(re.compile(r"\w+ \w+ \w+"))
    expect(page.locator("#doc-start")).to_be_visible()
    expect(page.locator("#doc-stop")).to_be_hidden()


def test_part_by_part_cites_its_pages_and_can_be_saved_and_copied(new_context, app_server, tmp_path):
    context = new_context(permissions=["clipboard-read", "clipboard-write"])
    page = open_tab(context.new_page(), app_server.url)
    text = "".join(f"# Chapter {n}\n\n{SENTENCES * 2}\n\n" for n in range(1, 4))
    (tmp_path / "log.md").write_text(text)
    drop(page, tmp_path / "log.md")
    choose(page, "parts")
    page.locator("#doc-start").click()
    expect(page.locator("#doc-progress")).to_contain_text(re.compile(r"\d+ of \d+ · \d+ %"))
    expect(page.locator("#doc-progress")).to_contain_text(DONE)
    result = page.locator("#doc-result")
    expect(result).to_contain_text("Part by part")
    for label in ("ch. 1", "ch. 2", "ch. 3"):
        expect(result.locator("li").filter(has_text=label)).to_be_visible()
    with page.expect_download() as download:
        page.locator("#doc-save").click()
    assert download.value.suggested_filename == "log-summary.md"
    saved = Path(download.value.path()).read_text()
    assert saved.startswith("# log.md\n\n")
    assert "- **ch. 1" in saved
    page.locator("#doc-copy").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).includes('Part by part')")


def test_several_files_are_one_document(page, app_server):
    open_tab(page, app_server.url)
    drop(page, SAMPLES / "notes.markdown", SAMPLES / "report.docx", SAMPLES / "encrypted.pdf")
    found = page.locator("#doc-found")
    expect(found.locator(".doc-file")).to_have_count(2)
    expect(found.locator("[role=alert]")).to_contain_text("encrypted.pdf is encrypted")
    expect(page.locator("#doc-start")).to_be_enabled()


def test_stop_keeps_what_was_read_and_go_on_goes_on(page, app_server, long_text):
    open_tab(page, app_server.url)
    drop(page, long_text)
    choose(page)
    page.locator("#doc-start").click()
    wait_for_progress(page, 0)
    expect(page.locator("#doc-progress")).to_contain_text("tokens/s")
    expect(page.locator("#doc-progress")).to_contain_text("left")
    page.locator("#doc-stop").click()
    expect(page.locator("#doc-progress")).to_contain_text("Stopped")
    offer = page.locator("#doc-jobs").get_by_label(re.compile(r"diary\.txt · \d+ % read"))
    expect(offer).to_be_checked()
    n_read = int(re.search(r"(\d+) % read", page.locator("#doc-jobs").inner_text())[1])  # type: ignore[index]
    assert n_read >= 1
    page.locator("#doc-go-on").click()
    assert wait_for_progress(page, n_read - 1) >= n_read
    page.locator("#doc-stop").click()
    expect(page.locator("#doc-progress")).to_contain_text("Stopped")
    page.locator("#doc-forget").click()
    expect(page.locator("#doc-jobs").get_by_label(re.compile(r"diary\.txt"))).to_have_count(0)
    assert not any("diary.txt" in path.read_text() for path in app_server.data_dir.glob("jobs/*/job.json"))


def test_after_kill_9_it_goes_on(page, start_app, long_text, allowed_errors):
    allowed_errors += APP_IS_GONE
    server = start_app()
    open_tab(page, server.url)
    drop(page, long_text)
    choose(page)
    page.locator("#doc-start").click()
    wait_for_progress(page, 0)
    until(page, lambda: list(server.data_dir.glob("jobs/*/job.json")))  # written last of the first checkpoint
    server.kill()
    page.goto("about:blank")  # a page that lost its app loads itself again, just when it is told to go elsewhere
    server.start()
    open_tab(page, server.url)
    offer = page.locator("#doc-jobs").get_by_label(re.compile(r"diary\.txt · \d+ % read"))
    expect(offer).to_be_visible()
    (state,) = server.data_dir.glob("jobs/*/job.json")
    job = json.loads(state.read_text())
    assert 0 < job["n_done"] < job["n_total"]
    page.locator("#doc-go-on").click()
    n_before = round(100 * job["n_done"] / job["n_total"])
    assert wait_for_progress(page, n_before) > n_before
    page.locator("#doc-stop").click()
    expect(page.locator("#doc-progress")).to_contain_text("Stopped")
    assert json.loads(state.read_text())["n_done"] > job["n_done"]


def bomb(path: Path) -> Path:
    """A Word document of some kB that unpacks to 100 MiB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        with archive.open("word/document.xml", "w", force_zip64=True) as entry:
            for _ in range(100):
                entry.write(b" " * (1 << 20))
    return path


def test_hostile_files_give_a_sentence_and_the_app_goes_on(page, app_server, tmp_path):
    xml = tmp_path / "laughs.epub"
    with zipfile.ZipFile(xml, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr(
            "META-INF/container.xml", '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><container>&b;</container>'
        )
    (tmp_path / "program.pdf").write_bytes(b"\x7fELF" + bytes(2000))
    cases = {
        bomb(tmp_path / "bomb.docx"): "bomb.docx",
        xml: "laughs.epub",
        SAMPLES / "encrypted.pdf": "password",
        SAMPLES / "scanned.pdf": "text layer",
        tmp_path / "program.pdf": "program.pdf",
    }
    open_tab(page, app_server.url)
    for path, words in cases.items():
        drop(page, path)
        alert = page.locator("#doc-found [role=alert]").filter(has_text=path.name)
        expect(alert).to_contain_text(words)
        assert str(tmp_path) not in alert.inner_text(), "no path of this machine is shown"
        expect(page.locator("#doc-start")).to_be_disabled()
        page.locator("#doc-drop").get_by_label(re.compile("Clear|Remove")).first.click()
        expect(page.locator("#doc-found")).to_contain_text("Drop in a document")
    drop(page, SAMPLES / "notes.markdown")
    expect(page.locator("#doc-start")).to_be_enabled()
    assert app_server.process.poll() is None


def test_names_and_texts_are_only_text(page, app_server, tmp_path):
    """Nothing in a file's name or text is run or fetched; the page fixture refuses foreign requests."""
    path = tmp_path / "a&lt;img src=x onerror=alert(1)&gt;.md"
    path.write_text("# <img src=http://192.0.2.1/x.png>\n\n![](http://192.0.2.1/y.png) <script>alert(1)</script>\n" * 3)
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    open_tab(page, app_server.url)
    drop(page, path)
    choose(page, "parts")
    page.locator("#doc-start").click()
    expect(page.locator("#doc-progress")).to_contain_text(DONE)
    expect(page.locator("#doc-found img, #doc-result img, #doc-result script, #doc-jobs img")).to_have_count(0)


def test_continue_as_chat(page, app_server):
    open_tab(page, app_server.url)
    drop(page, SAMPLES / "notes.markdown")
    choose(page)
    page.locator("#doc-start").click()
    expect(page.locator("#doc-progress")).to_contain_text(DONE)
    summary = page.locator("#doc-result").inner_text()
    page.locator("#doc-continue").click()
    log = page.locator("#chat-log")
    expect(log).to_be_visible()
    expect(log).to_contain_text("Summary of notes.markdown")
    expect(log).to_contain_text(summary.split("[")[0].split("\n")[0].strip()[:30])
    page.locator("#chat-input textarea").fill("What pulls the water?")
    page.locator("#chat-send").click()
    expect(log).to_contain_text("What pulls the water?")
    expect(log.get_by_label("Copy message")).to_have_count(4)


CLIENT = """
import sys
from gradio_client import Client, handle_file

client = Client(sys.argv[1], verbose=False)
print(client.predict(handle_file(sys.argv[2]), "whole", "paragraph", "short", "", "", api_name="/summarize"))
"""


def test_programs_can_summarize(app_server):
    """In a process of its own: gradio_client keeps a connection open until its process ends."""
    command = [sys.executable, "-c", CLIENT, app_server.url, str(SAMPLES / "notes.markdown")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\w+ \w+ \w+", done.stdout)
