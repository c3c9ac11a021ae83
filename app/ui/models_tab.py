"""The models: which are here, what the chosen one needs, how much memory it gets; and how to get another one.

What it is: `build` makes the components, `wire` attaches the events; what events do is in models_page.py.
What it does not know: files, hubs, engines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import gradio as gr
from lacache_app.memory_flags import POLICY_FIELDS
from lacache_app.policy_words import DEFAULT, policy_choices
from lacache_app.ui import models_html
from lacache_app.ui.context import Context

from lacache_gguf.kv_budget import KV_TYPES

if TYPE_CHECKING:
    from lacache_app.ui import Shared

ID, TITLE = "models", "Models"


@dataclass(frozen=True)
class Advanced:
    """The settings behind "Advanced", in the order of Choice's fields."""

    policy: gr.Dropdown
    span: gr.Number
    overlap: gr.Number
    sink: gr.Number
    recent: gr.Number
    score: gr.Dropdown
    heads: gr.Dropdown
    type_k: gr.Dropdown
    type_v: gr.Dropdown
    flash_attn: gr.Radio
    n_gpu_layers: gr.Number
    n_threads: gr.Number

    def inputs(self) -> list[gr.components.Component]:
        """All of them, in order."""
        return [
            self.policy, *self.of_policy().values(), self.type_k, self.type_v, self.flash_attn, self.n_gpu_layers,
            self.n_threads,
        ]  # fmt: skip

    def of_policy(self) -> dict[str, gr.components.Component]:
        """The fields that only some policies have, by their names in Choice."""
        return {name: getattr(self, name) for name in POLICY_FIELDS}


@dataclass(frozen=True)
class ModelsTab:
    """The components of the tab."""

    present: gr.HTML
    models: gr.Radio
    unusable: gr.HTML
    folder: gr.Textbox
    add_folder: gr.Button
    folders: gr.Dropdown
    folder_news: gr.HTML
    name: gr.Textbox
    look_up: gr.Button
    variants: gr.Dropdown
    offer: gr.HTML
    download: gr.Button
    downloads: gr.Radio
    progress: gr.HTML
    pause: gr.Button
    resume: gr.Button
    cancel: gr.Button
    details: gr.HTML
    budget: gr.Slider
    estimate: gr.HTML
    advanced: Advanced
    load: gr.Button
    unload: gr.Button
    status: gr.HTML


def build(ctx: Context) -> ModelsTab:
    """The components."""
    present = gr.HTML(
        models_html.present(ctx.host.status()), elem_id="model-present", container=False, padding=False,
        head='<link rel="stylesheet" href="/lacache/assets/models.css">',
    )  # fmt: skip
    with gr.Row(elem_id="model-body"):
        with gr.Column(scale=1):
            models = gr.Radio([], label="Models on this computer", elem_id="model-list")
            unusable = gr.HTML(elem_id="model-unusable", padding=False, visible=False)
            folder, add_folder, folders, folder_news = _build_folders()
            name, look_up, variants, offer, download, downloads, progress, buttons = _build_downloads()
        with gr.Column(scale=1):
            details = gr.HTML(models_html.details(None), elem_id="model-details", padding=False)
            budget = gr.Slider(
                1, 1024, 22.5, step=0.5, label="Memory budget (MiB)", elem_id="model-budget", buttons=[],
                info="KV memory: what the model can look back on. It is reserved once and never grows.",
            )  # fmt: skip
            estimate = gr.HTML(elem_id="model-estimate", padding=False)
            with gr.Row():
                load = gr.Button("Load", elem_id="model-load", variant="primary")
                unload = gr.Button("Unload", elem_id="model-unload")
            status = gr.HTML(models_html.news(""), elem_id="model-status", padding=False)
            advanced = _build_advanced()
    return ModelsTab(
        present, models, unusable, folder, add_folder, folders, folder_news, name, look_up, variants, offer, download,
        downloads, progress, *buttons, details, budget, estimate, advanced, load, unload, status,
    )  # fmt: skip


def _build_folders() -> tuple[gr.Textbox, gr.Button, gr.Dropdown, gr.HTML]:
    with gr.Accordion("Models in a folder", open=False, elem_id="model-folders"):
        with gr.Row():
            folder = gr.Textbox(
                label="Folder", placeholder="/home/you/models", elem_id="model-folder", scale=3, max_lines=1,
                info="Searched with its subfolders for .gguf files, now and at every start.",
            )  # fmt: skip
            add = gr.Button("Search", elem_id="model-folder-add", scale=0, min_width=120)
        folders = gr.Dropdown(
            [], value=[], multiselect=True, label="Searched folders", elem_id="model-folder-list", visible=False,
            info="Remove one to forget it; nothing is deleted.",
        )  # fmt: skip
        news = gr.HTML(elem_id="model-folder-news", padding=False)
    return folder, add, folders, news


def _build_downloads() -> tuple:
    with gr.Accordion("Get a model from the Hugging Face hub", open=True, elem_id="model-get"):
        with gr.Row():
            name = gr.Textbox(
                label="Name", placeholder="user/repository or user/repository:Q4_K_M", elem_id="model-name", scale=3,
                max_lines=1, info="A repository with GGUF files. This is the only thing that uses the network.",
            )  # fmt: skip
            look_up = gr.Button("Look up", elem_id="model-look-up", scale=0, min_width=120)
        variants = gr.Dropdown([], label="Quantization", elem_id="model-variants", visible=False, filterable=False)
        offer = gr.HTML(elem_id="model-offer", padding=False)
        download = gr.Button("Download", elem_id="model-download")
        downloads = gr.Radio([], label="Downloads", elem_id="model-downloads", visible=False)
        progress = gr.HTML(models_html.progress(()), elem_id="model-progress", padding=False)
        with gr.Row():
            pause = gr.Button("Pause", elem_id="model-pause", visible=False, size="sm")
            resume = gr.Button("Resume", elem_id="model-resume", visible=False, size="sm")
            cancel = gr.Button("Cancel and delete", elem_id="model-cancel", visible=False, size="sm", variant="stop")
    return name, look_up, variants, offer, download, downloads, progress, (pause, resume, cancel)


def _build_advanced() -> Advanced:
    def number(label: str, elem_id: str, info: str, **more: bool) -> gr.Number:
        return gr.Number(None, label=label, info=info, precision=0, elem_id=elem_id, min_width=130, **more)

    def words(label: str, elem_id: str, info: str, choices: list[tuple[str, str]]) -> gr.Dropdown:
        return gr.Dropdown(
            [("usual", ""), *choices], value="", label=label, info=info, elem_id=elem_id, min_width=130, visible=False
        )

    with gr.Accordion("Advanced", open=False, elem_id="model-advanced"):
        policy = gr.Dropdown(
            policy_choices(), value=DEFAULT, label="When the memory is full", elem_id="model-policy", filterable=False,
            info="What is kept of a text that is longer than the memory.",
        )  # fmt: skip
        with gr.Row():
            span = number("Span", "model-span", "layers that keep a token; empty = half", visible=False)
            overlap = number("Overlap", "model-overlap", "below span; empty = 0", visible=False)
            sink = number("Sinks", "model-sink", "first tokens, always kept; empty = as usual", visible=False)
            recent = number("Recent", "model-recent", "newest tokens, always kept; empty = as usual", visible=False)
            score = words(
                "Judged by", "model-score", "what makes a token worth keeping",
                [("how rare its key is", "keydiff"), ("how much it is looked at", "attention")],
            )  # fmt: skip
            heads = words(
                "Heads", "model-heads", "whether the heads of a layer keep the same",
                [("each its own", "each"), ("all the same", "layer")],
            )  # fmt: skip
        with gr.Row():
            type_k = gr.Dropdown(list(KV_TYPES), value="f16", label="K stored as", elem_id="model-type-k")
            type_v = gr.Dropdown(list(KV_TYPES), value="f16", label="V stored as", elem_id="model-type-v")
            flash = gr.Radio(["auto", "on", "off"], value="auto", label="Flash attention", elem_id="model-flash")
        with gr.Row():
            layers = gr.Number(
                -1, label="Layers on the GPU", info="-1 = all, 0 = none", precision=0, minimum=-1, elem_id="model-ngl"
            )
            threads = number("CPU threads", "model-threads", "empty = one for each core")
    return Advanced(policy, span, overlap, sink, recent, score, heads, type_k, type_v, flash, layers, threads)


def wire(ctx: Context, own: ModelsTab, shared: Shared) -> None:
    """The events. Arithmetic needs no queue and answers at once; what waits for the hub or the engine is in it."""
    from lacache_app.ui.models_hub import HubPage
    from lacache_app.ui.models_page import ModelsPage

    page = ModelsPage(ctx, own)
    hub = HubPage(own, ctx.downloads, page.relist)
    quick, slow = {"queue": False, **shared.silent}, {"concurrency_limit": None, **shared.silent}
    chosen = [own.models, own.budget, *own.advanced.inputs()]
    types = (own.advanced.type_k, own.advanced.type_v)
    arithmetic = [own.budget, *(box for box in own.advanced.inputs() if box not in types)]

    shared.demo.load(page.opened, None, page.everything, **quick)
    shared.demo.load(hub.follow, own.downloads, hub.outputs, **slow)
    shared.tabs.select(page.selected, own.models, page.everything, **quick)
    own.models.input(page.choose, own.models, page.about, **quick)
    gr.on([box.input for box in arithmetic], page.explain, chosen, own.estimate, trigger_mode="always_last", **quick)
    own.advanced.policy.input(page.fields, own.advanced.policy, [*own.advanced.of_policy().values()], **quick)
    gr.on([box.input for box in types], page.rerange, chosen, [own.budget, own.estimate], **quick)

    own.load.click(page.load, chosen, page.loaded, **slow)
    own.unload.click(page.unload, None, page.loaded, **quick)

    gr.on([own.add_folder.click, own.folder.submit], page.add_folder, [own.folder, own.models], page.scanned, **slow)
    own.folders.input(page.set_folders, [own.folders, own.models], page.scanned, **slow)

    gr.on([own.look_up.click, own.name.submit], hub.look_up, own.name, [own.variants, own.offer], **slow)
    own.variants.input(hub.use_variant, [own.name, own.variants], [own.name, own.offer], **slow)
    for button, work, inputs in (
        (own.download, hub.download, [own.name, own.downloads]),
        (own.resume, hub.resume, own.downloads),
    ):
        button.click(work, inputs, hub.outputs, **quick).then(
            hub.follow, own.downloads, hub.outputs, trigger_mode="multiple", **slow
        )
    own.pause.click(hub.pause, own.downloads, hub.outputs, **quick)
    own.cancel.click(hub.cancel, own.downloads, hub.outputs, **quick)
    own.downloads.input(hub.state, own.downloads, hub.outputs, **quick)
