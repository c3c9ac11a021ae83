"""The models tab in a real browser, against a small hub on loopback whose files are tiny models that really load."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser.helpers import APP_IS_GONE
from loopback_hub import LoopbackHub, gguf_bytes
from tiny_models import cached

from lacache_gguf.devices import cell_step

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser
REPO, FILE = "someone/tiny-GGUF", "tiny.Q4_K_M.gguf"
NAME = f"{REPO}:Q4_K_M"
HELD_AT = 500_000


def expect(locator: Locator):
    from playwright.sync_api import expect

    return expect(locator)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 2.4 MB with a tokenizer."""
    return cached(tmp_path_factory.mktemp("tiny"), "qwen3", vocab="bpe")


@pytest.fixture
def hub(tiny: Path) -> Iterator[LoopbackHub]:
    data = tiny.read_bytes()
    with LoopbackHub({REPO: {FILE: data, "tiny.Q8_0.gguf": data, "mmproj-tiny.gguf": gguf_bytes()}}) as hub:
        yield hub


@pytest.fixture
def app(start_app, hub: LoopbackHub, tmp_path: Path):
    """An app of its own for the test, with an empty hub cache."""
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "huggingface"), "HF_HUB_DOWNLOAD_TIMEOUT": "120"}
    return start_app(env=env)


@pytest.fixture
def open_tab(page: Page) -> Callable[[str], Page]:
    def open_tab(url: str) -> Page:
        page.goto(url)
        page.get_by_role("tab", name="Models").click()
        expect(page.locator("#model-estimate .lc-verdict")).to_be_visible()
        return page

    return open_tab


def field(page: Page, name: str) -> Locator:
    """The box one types in; its label holds the explanation, too."""
    return page.locator(f"#{name} :is(input, textarea)")


def set_budget(page: Page, mib: float) -> None:
    number = page.locator("#model-budget input[type=number]")
    number.fill(str(mib))
    number.press("Tab")


def policy_box(page: Page) -> Locator:
    return page.locator("#model-policy input")


def choose_policy(page: Page, words: str) -> None:
    """By the beginning of its words."""
    policy_box(page).click()
    page.get_by_role("option", name=re.compile("^" + re.escape(words))).click()


def download(page: Page, name: str = REPO) -> None:
    field(page, "model-name").fill(name)
    page.locator("#model-download").click()


def choose(page: Page, name: str) -> None:
    page.locator("#model-list label", has_text=name).locator("input").check()


def row(page: Page, state: str) -> Locator:
    return page.locator(f'#model-progress .lc-download[data-state="{state}"]')


# ---- what is here ----------------------------------------------------------------------------------------------------


def test_the_slider_answers_at_once(app_server, open_tab):
    page = open_tab(app_server.url)
    model = page.locator("#model-list input[type=radio]")
    expect(model).to_be_checked()
    expect(page.locator("#model-list")).to_contain_text("SmolLM2 135M Instruct, Q4_1 · 93.8 MiB · Apache-2.0")
    expect(page.locator("#model-details")).to_contain_text("8,192 tokens")
    answer = page.locator("#model-estimate")
    expect(answer).to_contain_text("256 cells of 22.5 KiB")
    set_budget(page, 22.5)
    expect(answer).to_contain_text("1,024 cells of 22.5 KiB")
    expect(answer).to_contain_text(
        re.compile(r"[\d.]+ pages or more sharp, the newest text; [\d.]+ pages or more faint")
    )
    expect(answer).to_contain_text(re.compile(r"Needs \d+ MiB of RAM .* are free: fits"))
    slider = page.locator("#model-budget input[type=range]")
    slider.focus()
    slider.press("ArrowRight")
    expect(answer).to_contain_text(f"{1024 + cell_step():,} cells")
    slider.press("End")
    expect(answer).to_contain_text("8,192 cells")
    expect(answer).to_contain_text("the budget uses all of it")


def test_advanced_settings_are_checked_in_the_policy_s_words(app_server, open_tab):
    page = open_tab(app_server.url)
    page.get_by_role("button", name="Advanced").click()
    answer = page.locator("#model-estimate")
    set_budget(page, 22.5)
    choose_policy(page, "Ladder: old text fades layer by layer")
    expect(answer).to_contain_text("1.4 pages sharp, 1.1 pages faint")
    page.get_by_label("Span").fill("29")
    page.get_by_label("Overlap").fill("20")
    expect(answer.get_by_role("alert")).to_contain_text("ladder: span 29, overlap 20 frees nothing on 30 layers")
    page.get_by_label("Span").fill("8")
    page.get_by_label("Overlap").fill("4")
    expect(answer.locator(".lc-verdict")).to_be_visible()
    choose_policy(page, "Window: only the first and the newest text")
    expect(answer).to_contain_text("0 pages faint")
    page.get_by_label("K stored as").click()
    page.get_by_role("option", name="q4_0").click()
    expect(answer.get_by_role("note")).to_contain_text("Try K in q8_0 and V in q4_0 instead")


def test_every_policy_shows_the_fields_it_has(app_server, open_tab):
    page = open_tab(app_server.url)
    page.get_by_role("button", name="Advanced").click()
    fields = ("span", "overlap", "sink", "recent", "score", "heads")
    expect(policy_box(page)).to_have_value("Best choice: keeps what stands out")
    for policy, shown in (
        ("Ladder: old text", ("span", "overlap", "sink", "recent")),
        ("Scored ladder:", ("sink", "recent", "score", "heads")),
        ("Salience:", ("sink", "recent", "heads")),
        ("Window:", ("sink",)),
        ("Full:", ()),
        ("Best choice:", ()),
    ):
        choose_policy(page, policy)
        for name in fields:
            expect(page.locator(f"#model-{name}")).to_be_visible(visible=name in shown)
    choose_policy(page, "H2O:")
    answer = page.locator("#model-estimate")
    expect(answer).to_contain_text("of older text of any length, the words that were looked back at most")
    expect(answer).to_contain_text("records of attention 8.4 MiB")


def test_a_policy_with_settings_that_have_no_field_stays_as_it_is(start_app, open_tab):
    app = start_app("--offline")  # a flag about the memory would win over what is stored
    policy = {"name": "scored_ladder", "n_sink": 4, "n_recent": None, "heads": "layer", "n_src": 4, "n_dst": 2,
              "score": "keydiff", "n_query": 32, "decay": 0.0, "n_pos": 0}  # fmt: skip
    engine = {"model": "smollm2-135m", "n_ctx": 512, "n_threads": 2, "policy": policy}
    (app.data_dir / "settings.json").write_text(json.dumps({"welcome_seen": True, "engine": engine}))
    app.restart()
    page = open_tab(app.url)
    page.get_by_role("button", name="Advanced").click()
    expect(policy_box(page)).to_have_value("As it is: Scored ladder, src 4, dst 2")
    set_budget(page, 22.5)
    page.locator("#model-load").click()
    expect(page.locator("#model-present")).to_contain_text("1,024 cells, policy scored_ladder")
    stored = json.loads((app.data_dir / "settings.json").read_text())["engine"]
    assert (stored["n_ctx"], stored["policy"]) == (1024, policy)
    choose_policy(page, "Best choice:")
    page.locator("#model-load").click()
    expect(page.locator("#model-present")).not_to_contain_text("scored_ladder")
    assert json.loads((app.data_dir / "settings.json").read_text())["engine"]["policy"] is None


def test_load_unload_and_the_next_start(start_app, open_tab):
    app = start_app()
    page = open_tab(app.url)
    expect(page.locator("#model-present")).to_contain_text("Nothing is loaded")
    set_budget(page, 11.25)
    page.locator("#model-load").click()
    expect(page.locator("#model-status")).to_contain_text("is loaded")
    expect(page.locator("#model-present")).to_contain_text(
        "Loaded: smollm2-135m, 11.2 MiB KV memory, 512 cells, policy salience"
    )
    page.locator("#model-unload").click()
    expect(page.locator("#model-status")).to_contain_text("Unloaded")
    expect(page.locator("#model-present")).to_contain_text("Nothing is loaded")
    stored = json.loads((app.data_dir / "settings.json").read_text())
    assert stored["engine"]["n_ctx"] == 512


def test_a_folder_with_good_and_bad_files(start_app, open_tab, tiny, tmp_path):
    folder = tmp_path / "my models"
    folder.mkdir()
    (folder / "good.gguf").write_bytes(tiny.read_bytes())
    (folder / "half.gguf").write_bytes(tiny.read_bytes()[: tiny.stat().st_size // 2])
    (folder / "page.gguf").write_text("<html><script>alert(1)</script>not found</html>")
    (folder / "<img src=x onerror=alert(1)>.gguf").write_text("x")
    (folder / "mmproj-good.gguf").write_bytes(gguf_bytes())
    app = start_app()
    page = open_tab(app.url)
    page.get_by_role("button", name="Models in a folder").click()
    field(page, "model-folder").fill("/no/such/folder")
    page.locator("#model-folder-add").click()
    expect(page.locator("#model-folder-news")).to_contain_text("there is no folder /no/such/folder")
    field(page, "model-folder").fill(str(folder))
    field(page, "model-folder").press("Enter")
    expect(page.locator("#model-folder-news")).to_contain_text("4 model files found")
    bad = page.locator("#model-unusable")
    expect(bad).to_contain_text("half.gguf damaged: it is incomplete")
    expect(bad).to_contain_text("page.gguf damaged: it is not a GGUF model: it is an HTML or XML page")
    expect(bad).to_contain_text("<img src=x onerror=alert(1)>.gguf")
    expect(bad).not_to_contain_text("mmproj")
    choose(page, "good.gguf")
    expect(page.locator("#model-details h3")).to_have_text("good.gguf")
    expect(page.locator("#model-estimate")).to_contain_text("1,024 cells of 2 KiB")
    page.reload()
    page.get_by_role("tab", name="Models").click()
    expect(page.locator("#model-list")).to_contain_text("good.gguf")  # the folder is remembered


# ---- the hub ---------------------------------------------------------------------------------------------------------


def test_look_up_download_pause_resume_load(app, hub, open_tab):
    page = open_tab(app.url)
    field(page, "model-name").fill(REPO)
    page.locator("#model-look-up").click()
    offer = page.locator("#model-offer")
    expect(offer).to_contain_text(NAME)
    expect(offer).to_contain_text("licence apache-2.0")
    expect(offer).to_contain_text("are free on the disk")
    expect(page.locator("#model-variants input")).to_have_value(re.compile("Q4_K_M"))

    hub.hold_at[FILE] = HELD_AT
    page.locator("#model-download").click()
    expect(row(page, "running")).to_contain_text("488 KiB of 2.3 MiB")
    page.locator("#model-pause").click()
    expect(page.locator("#model-pause")).to_be_disabled()
    hub.release()
    expect(row(page, "paused")).to_contain_text(NAME)
    page.locator("#model-resume").click()
    expect(row(page, "done")).to_contain_text("complete and verified")
    assert [start > 0 for _name, start in hub.starts] == [False, True], "the second request asked for the rest only"

    choose(page, NAME)
    expect(page.locator("#model-details")).to_contain_text("apache-2.0")
    page.locator("#model-load").click()
    expect(page.locator("#model-present")).to_contain_text(f"Loaded: {NAME}, 2 MiB KV memory, 1,024 cells")


def test_a_download_goes_on_after_a_crash(app, hub, open_tab, allowed_errors):
    allowed_errors += APP_IS_GONE
    page = open_tab(app.url)
    hub.hold_at[FILE] = HELD_AT
    download(page, NAME)
    expect(row(page, "running")).to_contain_text("488 KiB")
    page.goto("about:blank")
    app.restart()
    hub.release()
    open_tab(app.url)
    expect(row(page, "paused")).to_contain_text("paused at 488 KiB of 2.3 MiB")
    page.locator("#model-resume").click()
    expect(row(page, "done")).to_be_visible()
    assert hub.starts == [(FILE, 0), (FILE, HELD_AT)]


def test_a_closed_page_does_not_end_a_download(app, hub, open_tab, new_context):
    page = open_tab(app.url)
    hub.hold_at[FILE] = HELD_AT
    download(page, NAME)
    expect(row(page, "running")).to_contain_text("488 KiB")
    page.close()
    other = new_context().new_page()
    other.goto(app.url)
    other.get_by_role("tab", name="Models").click()
    expect(row(other, "running")).to_contain_text("488 KiB")
    hub.release()
    expect(row(other, "done")).to_be_visible()
    expect(other.locator("#model-list")).to_contain_text(NAME)


def test_wrong_content_is_thrown_away_and_tried_again(app, hub, open_tab):
    page = open_tab(app.url)
    hub.wrong_content.add(FILE)
    download(page, NAME)
    expect(row(page, "failed")).to_contain_text("was damaged on the way: its SHA-256 begins with")
    hub.wrong_content.clear()
    page.locator("#model-resume").click()
    expect(row(page, "done")).to_be_visible()


def test_cancel_and_errors_in_place(app, hub, open_tab, tmp_path):
    page = open_tab(app.url)
    download(page, "https://example.org/model.gguf")
    expect(page.locator("#model-offer").get_by_role("alert")).to_contain_text("other addresses are not downloaded")
    download(page, "someone/nothing")
    expect(row(page, "failed")).to_contain_text("no model repository 'someone/nothing'")
    page.locator("#model-cancel").click()
    expect(page.locator("#model-progress")).to_contain_text("Nothing is being downloaded")
    hub.hold_at[FILE] = HELD_AT
    download(page, NAME)
    expect(row(page, "running")).to_contain_text("488 KiB")
    page.locator("#model-cancel").click()
    hub.release()
    expect(page.locator("#model-progress")).to_contain_text("Nothing is being downloaded")
    assert list((tmp_path / "huggingface").rglob("*.incomplete")) == []


def test_a_model_that_does_not_load_leaves_the_present_one(start_app, open_tab, tiny, tmp_path):
    """The header of this file is sound, so it is listed; its tensors are not what the header promises."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "hollow.gguf").write_bytes(tiny.read_bytes().replace(b"blk.3.attn_q.weight", b"blk.3.attn_x.weight"))
    app = start_app()
    (app.data_dir / "settings.json").write_text(json.dumps({"welcome_seen": True, "model_folders": [str(folder)]}))
    page = open_tab(app.url)
    page.locator("#model-load").click()
    expect(page.locator("#model-present")).to_contain_text("Loaded: smollm2-135m")
    choose(page, "hollow.gguf")
    expect(page.locator("#model-details h3")).to_have_text("hollow.gguf")
    page.locator("#model-load").click()
    expect(page.locator("#model-status").get_by_role("alert")).to_contain_text("hollow.gguf was not loaded")
    expect(page.locator("#model-status")).to_contain_text("smollm2-135m is still loaded")
    expect(page.locator("#model-present")).to_contain_text("Loaded: smollm2-135m")
