"""A summary as a page shows it: views from waiting to the end, and the HTML made of them."""

from __future__ import annotations

import pytest
from lacache_app.documents import Document, Part
from lacache_app.host import EngineHost, EngineSettings
from lacache_app.summarize import Jobs, Task, summarize
from lacache_app.summarize.reading import Reading, View
from lacache_app.ui import documents_html as html

TEXT = "".join(f"Sentence {i} of a long document. " for i in range(200))


@pytest.fixture
def host(fake_engine):
    host = EngineHost(EngineSettings(n_ctx=1024))
    yield host
    host.shutdown()


def document() -> Document:
    half = len(TEXT) // 2
    return Document("book.pdf", TEXT, "pdf", (Part("p. 1", "One", 0, half), Part("p. 2", "", half, len(TEXT))))


@pytest.mark.parametrize("mode", ["whole", "parts"])
def test_views_run_to_the_result(host, mode):
    views = list(Reading(document(), Task(mode)).start(host).views(0.0))
    assert views[-1].state == "done"
    assert views[-1].text == views[-1].result.text
    assert views[-1].fraction == 1
    fractions = [view.fraction for view in views]
    assert fractions == sorted(fractions)
    if mode == "parts":
        assert "### Part by part" in views[-1].text


def test_the_text_grows_part_by_part(fake_engine):
    reading, texts = Reading(document(), Task("parts")), []
    for event in summarize(fake_engine(n_ctx=2048), document(), Task("parts")):
        reading._take(event)
        texts.append(reading._markdown())
    n_rows = [text.count("- **") for text in texts]
    assert n_rows[0] == 0
    assert any(text.startswith("- **") and text.endswith("…") for text in texts), "what is being written is shown"
    assert texts[-1].startswith("A summary of ")
    assert n_rows[-1] == max(n_rows) >= 2


def test_an_error_is_a_view(host, fake_engine, monkeypatch):
    def fail(self, *_args, **_settings):
        raise RuntimeError("a bug")
        yield

    monkeypatch.setattr(fake_engine, "answer", fail)
    views = list(Reading(document(), Task()).start(host).views())
    assert (views[-1].state, views[-1].error) == ("failed", "internal error: RuntimeError: a bug")
    assert 'role="alert"' in html.progress(views[-1])
    monkeypatch.undo()


def test_stopping_and_going_on(host, tmp_path, fake_engine):
    jobs = Jobs(tmp_path)
    expected = list(Reading(document(), Task()).start(host).views())[-1].result
    reading = Reading(document(), Task(), jobs.create(document(), Task(), keep=True)).start(host)
    views = reading.views(0.0)
    for view in views:
        if view.fraction > 0.1 or view.is_over:
            break
    views.close()
    assert reading.run.wait(60)
    if reading.run.state == "stopped":  # the stand-in is fast: it may have been done already
        (job,) = jobs.unfinished()
        last = list(Reading(None, job.task, job).start(host).views())[-1]
        assert last.result == expected
    assert len(jobs.finished()) == 1


def view(state: str, **more) -> View:
    return View(state, title="ch. 3: <b>", n_stages=4, index=2, fraction=0.5, tokens_per_s=100.0, eta_s=200.0, **more)


@pytest.mark.parametrize(
    ("shown", "words"),
    [
        (view("waiting", place=2), "2 before this one"),
        (view("loading"), "Loading the model"),
        (view("reading"), "Reading ch. 3: &lt;b&gt; · 3 of 4 · 50 % · 100 tokens/s · 3 minutes left"),
        (view("writing"), "Writing ch. 3"),
        (view("stopped"), "Stopped. What was read is kept"),
        (view("done"), "Done."),
        (view("failed", error="no <room>"), "no &lt;room&gt;"),
    ],
)
def test_progress_in_words(shown, words):
    assert words in html.progress(shown)


def test_the_bar_has_its_numbers_for_those_who_do_not_see_it():
    bar = html.progress(view("reading"))
    for part in ('role="progressbar"', 'aria-valuenow="50"', 'aria-valuemax="100"', "aria-label="):
        assert part in bar


@pytest.mark.parametrize(
    "hostile",
    [
        "![x](http://evil.example/x.png)",
        "![x][1]\n\n[1]: http://evil.example/x.png",
        "<img src=http://evil.example/x.png>",
        "< img src=x>",
        "<IMG\nsrc=x>",
        "<svg><image href='http://evil.example'/></svg>",
        "<video poster=http://evil.example/x>",
        "<style>@import 'http://evil.example'</style>",
        "<iframe src=//evil.example>",
        "<link rel=stylesheet href=//evil.example>",
    ],
)
def test_nothing_in_a_text_is_fetched(hostile):
    safe = html.safe_markdown(f"before {hostile} after")
    assert "![" not in safe
    assert not any(f"<{tag}" in safe.lower() for tag in ("img", " img", "svg", "video", "style", "iframe", "link"))
    assert safe.startswith("before")
    assert safe.endswith("after")


def test_ordinary_markdown_is_left_alone():
    text = "# A\n\n- **b** [link](http://x) `code` 1 < 2 & a<b\n\n> q [p. 3]"
    assert html.safe_markdown(text) == text


def test_what_was_recognised():
    shown = html.recognised(document(), [html.describe(document())], ["<x> is empty"], "About 1 token.")
    assert "book.pdf · PDF · 2 pages" in shown
    assert "&lt;x&gt; is empty" in shown
    assert html.describe(Document("a", "one two")) == "a · plain text · 2 words"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "1 second"), (40, "40 seconds"), (200, "3 minutes"), (7500, "2 h 5 min")]
)
def test_duration(seconds, words):
    assert html.duration(seconds) == words
