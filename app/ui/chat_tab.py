"""The chat: conversations on the left, the open one beside them, what is typed below.

What it is: `build` makes the components, `wire` attaches the events; what events do is in chat_page.py (messages) and
chat_conversations.py (conversations).
What it does not know: the store, the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from lacache_app.chat import DEFAULT_PRESET, PRESETS
from lacache_app.ui import chat_html
from lacache_app.ui.context import Context

if TYPE_CHECKING:
    from lacache_app.ui import Shared

ID, TITLE = "chat", "Chat"
CUSTOM = "Custom"
EXAMPLES = (
    "Explain how a rainbow forms, for a child of eight.",
    "Write a short, friendly reminder to return a borrowed book.",
    "What should I look at when I compare two bicycles?",
)
_PLACEHOLDER = (
    "### What shall we talk about?\n"
    "Write below, as much as you like: a message may be longer than the memory, and the conversation never gets full."
)
_LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
]
_LIST_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-id]');
  if (button) trigger('click', { id: button.dataset.id });
});
"""


@dataclass(frozen=True)
class Sampling:
    """The settings of an answer. `sliders` in the order of a preset's values."""

    system: gr.Textbox
    preset: gr.Radio
    sliders: tuple[gr.Slider, ...]
    max_tokens: gr.Number
    seed: gr.Number

    def inputs(self) -> list[gr.components.Component]:
        """All of them, in order."""
        return [self.system, self.preset, *self.sliders, self.max_tokens, self.seed]


@dataclass(frozen=True)
class ChatTab:
    """The components of the tab. `opened`: the conversation shown; `asked`: the answer under way, an Asked."""

    new: gr.Button
    search: gr.Textbox
    talks: gr.HTML
    bar: gr.Row
    title: gr.HTML
    rename: gr.Button
    markdown: gr.Button
    json: gr.Button
    delete: gr.Button
    rename_row: gr.Row
    name: gr.Textbox
    rename_yes: gr.Button
    rename_no: gr.Button
    confirm_row: gr.Row
    delete_yes: gr.Button
    delete_no: gr.Button
    log: gr.Chatbot
    note: gr.HTML
    status: gr.HTML
    input: gr.Textbox
    send: gr.Button
    stop: gr.Button
    sampling: Sampling
    bridge: gr.HTML
    opened: gr.State
    asked: gr.State


def build(_ctx: Context) -> ChatTab:
    """The components."""
    with gr.Row(elem_id="chat-body"):
        with gr.Column(elem_id="chat-sidebar", scale=0):
            new = gr.Button("New chat", elem_id="chat-new", variant="secondary")
            search = gr.Textbox(
                label="Search conversations", show_label=False, placeholder="Search", container=False,
                elem_id="chat-search",
            )  # fmt: skip
            talks = gr.HTML(elem_id="chat-list", js_on_load=_LIST_JS)  # filled when the page is loaded
        with gr.Column(elem_id="chat-main", scale=1):
            with gr.Row(elem_id="chat-bar") as bar:
                title = gr.HTML(chat_html.title(None), elem_id="chat-title")
                with gr.Row(elem_id="chat-tools"):
                    rename = gr.Button("Rename", elem_id="chat-rename-open", size="sm")
                    markdown = gr.Button("Save as Markdown", elem_id="chat-markdown", size="sm")
                    json = gr.Button("Save as JSON", elem_id="chat-json", size="sm")
                    delete = gr.Button("Delete", elem_id="chat-delete", size="sm")
            with gr.Row(elem_id="chat-rename", visible=False) as rename_row:
                name = gr.Textbox(label="New title", show_label=False, container=False, elem_id="chat-name", scale=1)
                rename_yes = gr.Button("Rename", elem_id="chat-rename-yes", variant="primary", size="sm")
                rename_no = gr.Button("Cancel", elem_id="chat-rename-no", size="sm")
            with gr.Row(elem_id="chat-confirm", visible=False) as confirm_row:
                gr.HTML("Delete this conversation for good?")
                delete_yes = gr.Button("Delete", elem_id="chat-delete-yes", variant="stop", size="sm")
                delete_no = gr.Button("Keep", elem_id="chat-delete-no", size="sm")
            log = gr.Chatbot(
                label="Conversation", show_label=False, elem_id="chat-log", height="calc(100dvh - 21rem)",
                min_height=260, editable="all", buttons=["copy"], group_consecutive_messages=False,
                placeholder=_PLACEHOLDER, examples=[{"text": text} for text in EXAMPLES], latex_delimiters=_LATEX,
                feedback_options=None, sanitize_html=True, allow_file_downloads=False,
            )  # fmt: skip
            with gr.Row(elem_id="chat-news"):
                status = gr.HTML(chat_html.news(None), elem_id="chat-status")
                note = gr.HTML(elem_id="chat-note")
            with gr.Row(elem_id="chat-entry"):
                text = gr.Textbox(
                    label="Message", show_label=False, placeholder="Write a message. Shift+Enter begins a new line.",
                    lines=1, max_lines=10, container=False, elem_id="chat-input", scale=1,
                )  # fmt: skip
                send = gr.Button("Send", elem_id="chat-send", variant="primary", scale=0)
                stop = gr.Button("Stop", elem_id="chat-stop", variant="stop", scale=0)
            sampling = _build_sampling()
            bridge = gr.HTML(
                elem_id="chat-bridge", html_template="", visible="hidden", js_on_load=_asset("chat.js"),
                head='<link rel="stylesheet" href="/lacache/assets/chat.css">',
            )  # fmt: skip
    return ChatTab(
        new, search, talks, bar, title, rename, markdown, json, delete, rename_row, name, rename_yes, rename_no,
        confirm_row, delete_yes, delete_no, log, note, status, text, send, stop, sampling, bridge, gr.State(""),
        gr.State(None),
    )  # fmt: skip


def _build_sampling() -> Sampling:
    values = PRESETS[DEFAULT_PRESET]
    with gr.Accordion("System prompt and style", open=False, elem_id="chat-settings"):
        system = gr.Textbox(
            label="System prompt", info="Tells the model how to behave. Pinned: it is never thinned or forgotten.",
            lines=2, max_lines=10, elem_id="chat-system",
        )  # fmt: skip
        preset = gr.Radio(
            [*PRESETS, CUSTOM], value=DEFAULT_PRESET, label="Style", elem_id="chat-preset",
            info="Precise keeps to the likeliest words, Creative surprises.",
        )  # fmt: skip
        with gr.Row():
            sliders = (
                gr.Slider(0, 2, values["temperature"], step=0.05, label="Temperature", elem_id="chat-temperature"),
                gr.Slider(0, 200, values["top_k"], step=1, label="Top k (0 = all)", elem_id="chat-top-k"),
                gr.Slider(0, 1, values["top_p"], step=0.01, label="Top p", elem_id="chat-top-p"),
                gr.Slider(0, 1, values["min_p"], step=0.01, label="Min p", elem_id="chat-min-p"),
                gr.Slider(1, 2, values["repeat_penalty"], step=0.05, label="Repeat penalty", elem_id="chat-repeat"),
            )
        with gr.Row():
            max_tokens = gr.Number(
                2048, label="Longest answer", info="in tokens; 0 = until it is done", precision=0, minimum=0,
                elem_id="chat-max-tokens",
            )  # fmt: skip
            seed = gr.Number(
                -1, label="Seed", info="the same seed gives the same answer; -1 = random", precision=0, minimum=-1,
                elem_id="chat-seed",
            )  # fmt: skip
    return Sampling(system, preset, sliders, max_tokens, seed)


def wire(ctx: Context, own: ChatTab, shared: Shared) -> None:
    """The events. Those that only paint need no queue; those that wait for an answer to end, or write it, are in it.
    None of them waits there for another one: the engine's host lets one answer at a time be written."""
    from lacache_app.ui.chat_page import ChatPage

    page = ChatPage(ctx, own)
    s = own.sampling
    quick, slow = {"queue": False, **shared.silent}, {"concurrency_limit": None, **shared.silent}
    asks = {**slow, "trigger_mode": "multiple"}  # the next question may come before the last answer's end is shown
    here = [own.opened, own.search]

    gr.on(
        [own.input.submit, own.send.click], page.answering(page.send),
        [own.input, *here, *s.inputs()], page.asking, **asks,
    )  # fmt: skip
    own.log.edit(page.answering(page.edit), [own.log, *here, own.asked, *s.inputs()], page.asking, **asks)
    own.log.retry(page.answering(page.redo), [*here, own.asked, *s.inputs()], page.asking, **asks)
    own.stop.click(page.stop, [own.asked, *here], page.painted, **quick)
    own.bridge.remove(page.remove, [own.log, *here, own.asked], page.painted, **slow)
    own.log.clear(page.repaint, here, page.painted, **quick)
    own.log.example_select(page.use_example, None, own.input, **quick)

    own.new.click(page.new, [own.search, own.asked], page.everything, **slow)
    own.talks.click(page.open, [own.search, own.asked], page.everything, **slow)
    shared.wanted.change(page.follow, [shared.wanted, own.search, own.asked], page.everything, **slow)
    shared.demo.load(page.load, [own.search], page.everything, **quick)
    # Not `input`, which misses Backspace and what is pasted.
    own.search.change(page.list, here, own.talks, trigger_mode="always_last", **quick)

    rows = [own.bar, own.rename_row, own.confirm_row]
    own.rename.click(page.ask_name, own.opened, [*rows, own.name], **quick)
    own.delete.click(page.ask_delete, None, rows, **quick)
    gr.on([own.rename_no.click, own.delete_no.click], page.close_rows, None, rows, **quick)
    gr.on(
        [own.rename_yes.click, own.name.submit], page.rename, [own.name, *here], [*rows, own.talks, own.title], **quick
    )
    own.delete_yes.click(page.delete, [*here, own.asked], page.everything, **slow)
    own.markdown.click(page.export_markdown, own.opened, own.bridge, **quick)
    own.json.click(page.export_json, own.opened, own.bridge, **quick)

    s.preset.input(page.use_preset, s.preset, [*s.sliders], **quick)
    gr.on([slider.input for slider in s.sliders], lambda: CUSTOM, None, s.preset, **quick)

    shared.demo.unload(page.leave)
    gr.api(page.chat, api_name="chat", concurrency_id="engine", concurrency_limit=1)


def _asset(name: str) -> str:
    return (Path(__file__).parent / "assets" / name).read_text("utf-8")
