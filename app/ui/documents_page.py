"""What the events of the documents tab do, but for the files (documents_files.py).

What it is: `DocumentsPage`, one method per event. A visitor has one summary under way at a time; it is in the State
`due`, and its run in the context, where Stop finds it.
What it does not know: layout, how a file is read, how a summary is made.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from lacache_app.documents import Document, read_document
from lacache_app.settings import load_value, save_value
from lacache_app.summarize import Job, Jobs, Result, Task, message
from lacache_app.summarize.reading import Reading, View, fingerprint
from lacache_app.ui import documents_html as show
from lacache_app.ui.context import Context
from lacache_app.ui.documents_files import DroppedFiles

from lacache_gguf.errors import LacacheError, UsageError

if TYPE_CHECKING:
    from lacache_app.ui import Shared
    from lacache_app.ui.documents_tab import DocumentsTab

    from lacache_gguf.engine import Engine

ID = "documents"
N_LISTED = 8  # jobs offered to go on with
Changes = dict[Any, Any]  # component -> new value


@dataclass
class Due:
    """A summary that is due or being shown."""

    reading: Reading
    is_taken: bool = False


@dataclass(frozen=True)
class Finished:
    """What "Continue as chat", "Save" and the places need of a summary."""

    name: str
    task: Task
    result: Result
    pinned: str
    job_id: str = ""
    fingerprint: bytes = field(default=b"", repr=False)


class DocumentsPage:
    """The events of one documents tab; nothing of a visitor is kept here."""

    def __init__(self, ctx: Context, own: DocumentsTab, shared: Shared) -> None:
        self.ctx, self.own, self.shared = ctx, own, shared
        self.files = DroppedFiles(ctx, own)
        self.jobs = Jobs(ctx.data_dir)
        self.painted = [own.progress, own.result, own.start, own.stop, own.actions, own.save, own.finished, *own.resume]
        self.asking = [*self.painted, own.due]

    # ---- the summary -----------------------------------------------------------------------------------------------

    def begin(
        self, document: Document | None, due: Due | None, mode: str, style: str, length: str, language: str | None,
        instruction: str | None, request: gr.Request,
    ) -> Changes:  # fmt: skip
        """Start: queue the summary and paint it as waiting."""
        if document is None:
            return {self.own.progress: show.alert("There is no document yet: drop one above.")}
        if _is_busy(due):
            return self._nothing()
        try:
            task = Task(mode, style, length, (language or "").strip(), (instruction or "").strip())
            self.jobs.prune()
            job = self.jobs.create(document, task, keep=True)
            return self._queue(Reading(document, task, job), request)
        except LacacheError as error:
            return {self.own.progress: show.alert(str(error))}

    def go_on(self, job_id: str | None, due: Due | None, request: gr.Request) -> Changes:
        """Go on with a job; a finished one is shown again."""
        if _is_busy(due):
            return self._nothing()
        try:
            job = self.jobs.get(job_id or "")
            if job.result is not None:
                finished = _finished(job, job.result, b"")
                return {**self._settled(), **self._show(job.result.text, finished), self.own.progress: ""}
            return self._queue(Reading(None, job.task, job), request)
        except LacacheError as error:
            return {**self._settled(), self.own.progress: show.alert(str(error))}

    def _queue(self, reading: Reading, request: gr.Request) -> Changes:
        own = self.own
        reading.start(self.ctx.host)
        assert reading.run is not None
        self.ctx.runs.set(request.session_hash, reading.run, ID)
        waiting = show.progress(View("waiting", place=reading.run.place))
        return {
            own.due: Due(reading),
            own.progress: waiting,
            own.result: "",
            own.finished: None,
            own.actions: gr.Row(visible=False),
            own.start: gr.Button(visible=False),
            own.stop: gr.Button(visible=True, interactive=True),
        }

    def follow(self, due: Due | None) -> Iterator[Changes]:
        """Paint the summary that is due until it is over."""
        own = self.own
        if due is None or due.is_taken:
            yield self._nothing()
            return
        due.is_taken, shown, view = True, "", View("waiting")
        for view in due.reading.views():
            if view.is_over:
                break
            changes: Changes = {own.progress: show.progress(view)}
            if view.text != shown:
                shown = view.text
                changes[own.result] = show.safe_markdown(view.text)
            yield changes
        yield self._over(due.reading, view)
        yield self._nothing()  # Gradio repeats an event's last chunk at its end, when others may have painted

    def _over(self, reading: Reading, view: View) -> Changes:
        changes = {**self._settled(), self.own.progress: show.progress(view)}
        with contextlib.suppress(OSError):  # a full disk: the next one is told no times beforehand
            self._remember(reading, view)
        self.jobs.prune()
        job = reading.job
        if view.result is None or job is None:
            return {**changes, self.own.result: show.safe_markdown(view.text)}
        return {**changes, **self._show(view.text, _finished(job, view.result, reading.fingerprint))}

    def _show(self, text: str, finished: Finished) -> Changes:
        own = self.own
        try:
            save = gr.DownloadButton(value=self._file(finished), interactive=True)
        except OSError:  # a full disk; the text can still be copied
            save = gr.DownloadButton(value=None, interactive=False)
        return {
            own.result: show.safe_markdown(text),
            own.finished: finished,
            own.actions: gr.Row(visible=True),
            own.save: save,
        }

    def _file(self, finished: Finished) -> str:
        """The summary as a Markdown file in the folder of uploads, from where it is served and, in a day, deleted."""
        folder = self.files.folder / os.urandom(8).hex()
        folder.mkdir(mode=0o700, parents=True)
        stem = re.sub(r"[^\w.-]+", "-", Path(finished.name).stem, flags=re.ASCII).strip("-.")[:60] or "document"
        path = folder / f"{stem}-summary.md"
        path.write_text(f"# {finished.name}\n\n{finished.result.text}\n", encoding="utf-8")
        return str(path)

    def _nothing(self) -> Changes:
        return {self.own.progress: gr.skip()}

    def _settled(self) -> Changes:
        """Nothing is under way."""
        own = self.own
        return {
            own.start: gr.Button(visible=True),
            own.stop: gr.Button(visible=False, interactive=True),
            **self.offers(),
        }

    def _remember(self, reading: Reading, view: View) -> None:
        """Speeds and characters per token, to say beforehand how long the next one takes."""
        meter = reading.meter
        if view.state != "done" or meter.tokens_per_s <= 0:
            return
        known = load_value(self.ctx.data_dir, "pace", {})
        chars = round(reading.chars_per_token, 2) or known.get("chars_per_token")
        pace = {"tokens_per_s": round(meter.tokens_per_s, 1), "write_s": meter.write_s, "chars_per_token": chars}
        save_value(self.ctx.data_dir, "pace", pace)

    def stop(self, request: gr.Request) -> Changes:
        """Stop at once; what was read is kept."""
        self.ctx.runs.stop(request.session_hash, ID)
        return {self.own.stop: gr.Button(interactive=False)}

    def leave(self, request: gr.Request) -> None:
        """The page was closed: nobody waits any more; the job can be gone on with."""
        self.ctx.runs.stop(request.session_hash, ID)

    # ---- what can be gone on with ----------------------------------------------------------------------------------

    def offers(self) -> Changes:
        """The list of jobs that can be gone on with or shown again, hidden if there are none."""
        group, choice, go_on, _ = self.own.resume
        jobs = [*self.jobs.unfinished(), *self.jobs.finished()][:N_LISTED]
        choices = [(_offer(job), job.id) for job in jobs]
        return {
            group: gr.Group(visible=bool(jobs)),
            choice: gr.Radio(choices=choices, value=jobs[0].id if jobs else None),
            go_on: self._label(jobs[0] if jobs else None),
        }

    def offers_to_a_new_page(self) -> Iterator[Changes]:
        """The list; once more when the summary of a page that was just closed has written what it had read."""
        yield self.offers()
        for n_waits in range(20):
            if not self.jobs.is_any_running:
                if n_waits:
                    yield self.offers()
                return
            time.sleep(0.5)

    def chosen(self, job_id: str | None) -> gr.Button:
        """Another job was chosen: the button says what it does."""
        try:
            return self._label(self.jobs.get(job_id or ""))
        except LacacheError:
            return self._label(None)

    @staticmethod
    def _label(job: Job | None) -> gr.Button:
        return gr.Button("Show" if job is not None and job.state == "done" else "Go on")

    def forget(self, job_id: str | None) -> Changes:
        """Delete a job with the text it keeps."""
        try:
            self.jobs.delete(job_id or "")
        except LacacheError as error:
            return {**self.offers(), self.own.progress: show.alert(str(error))}
        return {**self.offers(), self.own.progress: ""}

    # ---- after it --------------------------------------------------------------------------------------------------

    def to_chat(self, finished: Finished | None) -> Changes:
        """Make a conversation of what was asked and answered, and open it; the memory is warm, or is loaded again."""
        if finished is None:
            return {self.shared.wanted: gr.skip()}
        result = finished.result
        talk = self.ctx.store.create(f"{finished.name}", settings={"pinned": finished.pinned})
        how = "part by part, from their summaries" if finished.task.mode == "parts" else "as a whole"
        self.ctx.store.append(talk.id, "user", result.prompt, display=f"Summary of {finished.name}, read {how}.")
        self.ctx.store.append(talk.id, "assistant", result.answer)
        self.ctx.host.start(lambda engine: self._warm(engine, finished))
        return {self.shared.tabs: gr.Tabs(selected="chat"), self.shared.wanted: talk.id}

    def _warm(self, engine: Engine, finished: Finished) -> Iterator[None]:
        """For the host's thread: the memory as it was at the end of the summary, if it is not that already."""
        if finished.fingerprint and fingerprint(engine) == finished.fingerprint:
            return
        try:
            path = self.jobs.get(finished.job_id).path / "memory.kv"
            if path.exists():
                engine.load(path)
        except LacacheError:
            pass  # the chat reads the document again
        yield from ()

    # ---- for programs ----------------------------------------------------------------------------------------------

    def summarize(
        self, file: str, mode: str, style: str, length: str, language: str, instruction: str
    ) -> Iterator[str]:
        """Summarize one uploaded file; yields the Markdown so far, at last the whole. Raises gr.Error."""
        try:
            if not file:
                raise UsageError("no file was given; upload one")
            document = read_document(self.files.uploaded(file), name=Path(file).name)
            task = Task(mode, style, length, language or "", instruction or "")
            reading = Reading(document, task).start(self.ctx.host)
        except LacacheError as error:
            raise gr.Error(str(error), print_exception=False) from None
        shown, shown_at = "", 0.0
        for view in reading.views():
            if view.error:
                raise gr.Error(view.error, print_exception=False)
            if view.text != shown and (view.is_over or time.monotonic() - shown_at > 1):
                shown, shown_at = view.text, time.monotonic()
                yield shown


def _finished(job: Job, result: Result, memory: bytes) -> Finished:
    kind = "notes" if len(job.nodes) > 1 else "whole"
    return Finished(job.name, job.task, result, message(job.task, kind, "")[1], job.id, memory)


def _offer(job: Job) -> str:
    name = job.name if len(job.name) <= 80 else f"{job.name[:77]}..."
    if job.state == "done":
        return f"{name} · done {time.strftime('%d %b %H:%M', time.localtime(job.updated))}"
    return f"{name} · {100 * job.fraction:.0f} % read"


def _is_busy(due: Due | None) -> bool:
    return due is not None and not due.reading.is_over
