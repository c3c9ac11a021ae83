"""The documents tab: drop files, see what they are, get a summary that says where it comes from.

What it is: `build` makes the components, `wire` attaches the events; what events do is in documents_page.py.
What it does not know: files, engines, jobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import gradio as gr
from lacache_app.documents import SUFFIXES
from lacache_app.ui import documents_html
from lacache_app.ui.context import Context

if TYPE_CHECKING:
    from lacache_app.ui import Shared

ID, TITLE = "documents", "Documents"
MODES = [("Part by part (better with small models)", "parts"), ("As a whole, in one pass", "whole")]
STYLES = [("Paragraph", "paragraph"), ("Bullet points", "bullets"), ("Outline", "outline"), ("Simple words", "simple")]
LENGTHS = [("Short", "short"), ("Medium", "medium"), ("Long", "long")]
_COPY_JS = "(text) => { navigator.clipboard.writeText(text); }"


@dataclass(frozen=True)
class DocumentsTab:
    """The components of the tab. `document`: what was read from the files; `due`: the summary under way;
    `finished`: the one shown; `resume`: group, choice and buttons of what can be gone on with."""

    drop: gr.File
    found: gr.HTML
    mode: gr.Radio
    style: gr.Dropdown
    length: gr.Radio
    language: gr.Textbox
    instruction: gr.Textbox
    start: gr.Button
    stop: gr.Button
    progress: gr.HTML
    result: gr.Markdown
    actions: gr.Row
    copy: gr.Button
    save: gr.DownloadButton
    to_chat: gr.Button
    resume: tuple[gr.Group, gr.Radio, gr.Button, gr.Button]
    document: gr.State
    due: gr.State
    finished: gr.State

    def options(self) -> list[gr.components.Component]:
        """What a Task is made of, in its order."""
        return [self.mode, self.style, self.length, self.language, self.instruction]


def build(ctx: Context) -> DocumentsTab:
    """The components."""
    with gr.Column(elem_id="doc-body"):
        resume = _build_resume()
        drop = gr.File(
            label="Documents (PDF, Word, EPUB, web page, Markdown, text)", file_count="multiple", file_types=SUFFIXES,
            height=150, elem_id="doc-drop",
        )  # fmt: skip
        found = gr.HTML(
            documents_html.EMPTY, elem_id="doc-found",
            head='<link rel="stylesheet" href="/lacache/assets/documents.css">',
        )  # fmt: skip
        with gr.Row(elem_id="doc-options"):
            mode = gr.Radio(
                MODES, value="parts", label="How it is read", elem_id="doc-mode", scale=2,
                info="As a whole, early text is thinned when the memory is full; part by part, all of it is sharp.",
            )  # fmt: skip
            length = gr.Radio(LENGTHS, value="medium", label="Length", elem_id="doc-length", scale=1)
        with gr.Accordion("Style, language, other instructions", open=False, elem_id="doc-more"):
            with gr.Row():
                style = gr.Dropdown(STYLES, value="paragraph", label="Style", elem_id="doc-style")
                language = gr.Textbox(
                    "", label="Language", placeholder="the document's", max_lines=1, max_length=60,
                    info="by name, such as German; small models know few", elem_id="doc-language",
                )  # fmt: skip
            instruction = gr.Textbox(
                "", label="Instead of summarizing", placeholder="List the people and what they want.", lines=2,
                max_length=4000, elem_id="doc-instruction",
            )  # fmt: skip
        with gr.Row(elem_id="doc-buttons"):
            start = gr.Button("Start", variant="primary", interactive=False, elem_id="doc-start")
            stop = gr.Button("Stop", variant="stop", visible=False, elem_id="doc-stop")
        progress = gr.HTML(elem_id="doc-progress")
        result = gr.Markdown(elem_id="doc-result", sanitize_html=True)
        with gr.Row(visible=False, elem_id="doc-actions") as actions:
            to_chat = gr.Button("Continue as chat", variant="primary", elem_id="doc-continue")
            copy = gr.Button("Copy", elem_id="doc-copy")
            save = gr.DownloadButton("Save as Markdown", elem_id="doc-save")
    return DocumentsTab(
        drop, found, mode, style, length, language, instruction, start, stop, progress, result, actions, copy, save,
        to_chat, resume, gr.State(None), gr.State(None), gr.State(None),
    )  # fmt: skip


def _build_resume() -> tuple[gr.Group, gr.Radio, gr.Button, gr.Button]:
    with gr.Group(visible=False, elem_id="doc-resume") as group:
        choice = gr.Radio([], label="Earlier documents", elem_id="doc-jobs")
        with gr.Row():
            go_on = gr.Button("Go on", size="sm", elem_id="doc-go-on")
            forget = gr.Button("Forget", size="sm", elem_id="doc-forget")
    return group, choice, go_on, forget


def wire(ctx: Context, own: DocumentsTab, shared: Shared) -> None:
    """The events. Reading files has its own lane."""
    from lacache_app.ui.documents_page import DocumentsPage

    page = DocumentsPage(ctx, own, shared)
    group, choice, go_on, forget = own.resume
    quick = {"queue": False, **shared.silent}
    paints = {  # at once, also while it waits: the engine's host lets one work at a time
        "concurrency_limit": None,
        "trigger_mode": "multiple",  # the next one may be due before the end of the last one reached the page
        **shared.silent,
    }

    own.drop.change(
        page.files.recognise, own.drop, [own.found, own.document, own.start], concurrency_id="documents",
        concurrency_limit=2, show_progress="minimal", show_progress_on=own.found, trigger_mode="always_last",
        api_visibility="private",
    )  # fmt: skip
    own.start.click(page.begin, [own.document, own.due, *own.options()], page.asking, **quick).then(
        page.follow, own.due, page.painted, **paints
    )
    go_on.click(page.go_on, [choice, own.due], page.asking, **quick).then(page.follow, own.due, page.painted, **paints)
    own.stop.click(page.stop, None, own.stop, **quick)
    forget.click(page.forget, choice, [group, choice, go_on, own.progress], **quick)
    choice.input(page.chosen, choice, go_on, **quick)
    shared.demo.load(page.offers_to_a_new_page, None, [group, choice, go_on], **paints)
    shared.demo.unload(page.leave)

    own.copy.click(None, own.result, None, js=_COPY_JS, api_visibility="private")
    own.to_chat.click(  # in the queue: outside of it Gradio does not tell listeners that a State changed
        page.to_chat, own.finished, [shared.tabs, shared.wanted], concurrency_limit=None, **shared.silent
    )
    _api(page)


def _api(page) -> None:
    """/summarize for gradio_client: components that nobody sees, so that a file is uploaded as the page does it."""
    with gr.Group(visible=False):
        file = gr.File(label="file")
        mode = gr.Radio(MODES, value="parts", label="mode")
        style = gr.Dropdown(STYLES, value="paragraph", label="style")
        length = gr.Radio(LENGTHS, value="medium", label="length")
        language, instruction = gr.Textbox("", label="language"), gr.Textbox("", label="instruction")
        text = gr.Textbox(label="summary")
        trigger = gr.Button("Summarize")
    trigger.click(
        page.summarize, [file, mode, style, length, language, instruction], text, api_name="summarize",
        concurrency_id="engine", concurrency_limit=1,
    )  # fmt: skip
