"""From a summary to a chat about it: the memory stays warm, also when something else was asked in between."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from lacache_app.chat import Turn, ask
from lacache_app.documents import Document
from lacache_app.host import EngineHost, EngineSettings
from lacache_app.store import Store
from lacache_app.summarize import Jobs, Task
from lacache_app.summarize.reading import Reading

from lacache_gguf.events import Progress

pytestmark = pytest.mark.model

TEXT = "The lighthouse keeper wrote one line every night. Ships came and went, and the sea kept its own diary. " * 8


@pytest.fixture
def app(model_path, tmp_path):
    """A documents page and what it works with, without a browser."""
    gradio = pytest.importorskip("gradio")
    from lacache_app.ui import documents_tab
    from lacache_app.ui.context import Context
    from lacache_app.ui.documents_page import DocumentsPage

    host = EngineHost(EngineSettings(model=str(model_path), n_ctx=256, n_threads=2))
    ctx = Context(host, Store(tmp_path / "chats.sqlite3"), tmp_path, SimpleNamespace(), SimpleNamespace())

    async def build() -> tuple:  # in a loop: Gradio would make several for its locks, and close none
        with gradio.Blocks(analytics_enabled=False):
            own = documents_tab.build(ctx)
            return own, SimpleNamespace(tabs=gradio.Tabs(), wanted=gradio.State(""))

    own, shared = asyncio.run(build())
    yield SimpleNamespace(host=host, store=ctx.store, page=DocumentsPage(ctx, own, shared), shared=shared, own=own)
    host.shutdown()
    ctx.store.close()


def summarized(app, mode: str):
    job = app.page.jobs.create(Document("diary.txt", TEXT), Task(mode, length="short"), keep=True)
    reading = Reading(Document("diary.txt", TEXT), job.task, job).start(app.host)
    view = list(reading.views())[-1]
    assert view.state == "done", view.error
    return app.page._over(reading, view)[app.own.finished]


def test_a_full_disk_at_the_end_strands_nobody(app, monkeypatch):
    """The text is there, it can be copied and gone on with, and the next one can be begun."""
    document, task = Document("diary.txt", TEXT), Task("whole", length="short")
    reading = Reading(document, task, app.page.jobs.create(document, task, keep=True)).start(app.host)
    view = list(reading.views())[-1]

    def full(*_args, **_settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lacache_app.ui.documents_page.save_value", full)
    monkeypatch.setattr("pathlib.Path.write_text", full)
    changes = app.page._over(reading, view)
    assert changes[app.own.start].visible is True
    assert changes[app.own.actions].visible is True
    assert changes[app.own.finished].result.text == view.text
    assert changes[app.own.save].interactive is False


def test_a_summary_that_waits_is_painted_and_can_be_stopped(app):
    first = app.host.start(lambda engine: iter(engine.chat([{"role": "user", "content": TEXT}], max_tokens=200)))
    document, task = Document("diary.txt", TEXT), Task("whole", length="short")
    reading = Reading(document, task).start(app.host)
    views = reading.views()
    assert next(views).state == "waiting"
    reading.stop()
    assert [view.state for view in views][-1] == "stopped"
    assert not first.is_over, "it stopped before its turn came"
    first.stop()


def first_progress(app, conversation: str) -> Progress:
    """Ask in the conversation; the first event of the reading."""
    ask(app.store, conversation, "Who writes every night?")
    turn = Turn(app.store, conversation, {"temperature": 0.0, "max_tokens": 4}).start(app.host)
    return next(view.progress for view in turn.views(0.0) if view.progress)


@pytest.mark.parametrize("mode", ["whole", "parts"])
@pytest.mark.parametrize("is_disturbed", [False, True], ids=["at once", "after another question"])
def test_the_next_question_reads_only_the_new_message(app, mode, is_disturbed):
    finished = summarized(app, mode)
    if is_disturbed:
        other = app.store.create()
        first_progress(app, other.id)
    conversation = app.page.to_chat(finished)[app.shared.wanted]
    said = app.store.messages(conversation)
    assert [message.role for message in said] == ["user", "assistant"]
    assert said[0].display.startswith("Summary of diary.txt")
    assert said[1].content == finished.result.answer
    progress = first_progress(app, conversation)
    assert progress.n_total - progress.n_before < 40
    assert progress.n_before >= 100


def test_a_forgotten_job_is_read_again(app):
    finished = summarized(app, "whole")
    first_progress(app, app.store.create().id)
    app.page.jobs.delete(finished.job_id)
    conversation = app.page.to_chat(finished)[app.shared.wanted]
    progress = first_progress(app, conversation)
    assert progress.n_before < 40, "no more than what every conversation begins with: the template's system prompt"
    assert progress.n_total > 300


def test_a_shown_job_can_be_continued_after_a_restart(app, tmp_path):
    """As after a restart: only what is on disk, and an engine that has read nothing."""
    summarized(app, "whole")
    app.host.drop()
    assert app.host.wait_idle(60)
    (job,) = Jobs(tmp_path).finished()
    shown = app.page.go_on(job.id, None, SimpleNamespace(session_hash="x"))
    finished = shown[app.own.finished]
    conversation = app.page.to_chat(finished)[app.shared.wanted]
    progress = first_progress(app, conversation)
    assert progress.n_total - progress.n_before < 40
