"""What the events of the models tab do.

What it is: `ModelsPage`, one method per event. Nothing of a visitor is kept here: what is on the page comes with the
event, what is on the disk is looked at again. Handlers return {component: new value}; what is left out stays.
What it does not know: layout, what the fields say (models_choice.py), downloads (models_hub.py), how models are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr
from lacache_app.calibrated import calibrated_policy
from lacache_app.estimate import FreeMemory, Load, ModelShape, estimate, free_memory, load_for
from lacache_app.load_choice import (
    Choice,
    SliderRange,
    budget_of,
    budget_range,
    cells_of,
    choice_of,
    explain,
    kv_types_for,
    settings_of,
)
from lacache_app.model_library import Entry, entry_for, folder_path, library
from lacache_app.policy_words import DEFAULT
from lacache_app.settings import load_value, save_settings, save_value
from lacache_app.ui import models_html
from lacache_app.ui.context import Context
from lacache_app.ui.models_choice import choice_from, filled, page_words, shown_fields

from lacache_gguf.errors import LacacheError, UsageError

if TYPE_CHECKING:
    from lacache_app.run import Run
    from lacache_app.ui.models_tab import ModelsTab

    from lacache_gguf.engine import Engine

Changes = dict[Any, Any]  # component -> new value


class ModelsPage:
    """The events of one models tab."""

    def __init__(self, ctx: Context, own: ModelsTab) -> None:
        self.ctx, self.host, self.own = ctx, ctx.host, own
        self.about = [own.details, own.budget, own.estimate, *own.advanced.inputs()]
        self.scanned = [own.models, own.unusable, own.folder, own.folders, own.folder_news]
        self.loaded = [own.present, own.status, own.load]
        self.everything = list(dict.fromkeys([own.present, *self.scanned, *self.about]))

    # ---- the list ----------------------------------------------------------------------------------------------------

    def opened(self) -> Changes:
        """A page was opened: everything as it is now, the present model chosen."""
        return {**self.list(self._present_id()), **self._about(self._present_id()), **self._present()}

    def selected(self, model: str | None, event: gr.SelectData) -> Changes:
        """A tab was chosen; if it is this one, files and engine are looked at again."""
        if event.value != "Models":
            return {self.own.present: gr.skip()}
        return {**self.list(model or self._present_id()), **self._present()}

    def relist(self) -> Changes:
        """The list as it is now; what is chosen stays chosen."""
        entries = self._entries()
        return {
            self.own.models: gr.Radio(choices=_choices(entries)),
            self.own.unusable: _unusable(entries),
        }

    def choose(self, model: str) -> Changes:
        """Another model was chosen: what it is, its range of budgets, what the usual settings mean for it."""
        return self._about(model)

    def _entries(self) -> list[Entry]:
        entries = library(self._folders(), self.ctx.downloads.licence)
        if not any(entry.id == self._present_id() for entry in entries):
            entries.append(entry_for(self._present_id()))
        return entries

    def _entry(self, model: str | None) -> Entry | None:
        return next((entry for entry in self._entries() if entry.id == model), None)

    def _present_id(self) -> str:
        return self.host.settings.model

    def _folders(self) -> list[str]:
        folders = load_value(self.ctx.data_dir, "model_folders", [])
        return [folder for folder in folders if isinstance(folder, str)] if isinstance(folders, list) else []

    def list(self, model: str | None) -> Changes:
        """The models and folders as they are now, `model` chosen if it is among them."""
        entries, own, folders = self._entries(), self.own, self._folders()
        choices = _choices(entries)
        value = model if any(model == id for _label, id in choices) else None
        return {
            own.models: gr.Radio(choices=choices, value=value),
            own.unusable: _unusable(entries),
            own.folders: gr.Dropdown(choices=folders, value=folders, visible=bool(folders)),
        }

    def _present(self) -> Changes:
        return {self.own.present: models_html.present(self.host.status())}

    def add_folder(self, folder: str, model: str | None) -> Changes:
        """A folder was named: remember it and list what is in it."""
        try:
            path = str(folder_path(folder or ""))
        except UsageError as error:
            return {self.own.folder_news: models_html.error(str(error))}
        n_before = len(self._entries())
        save_value(self.ctx.data_dir, "model_folders", list(dict.fromkeys([*self._folders(), path])))
        n_new = len(self._entries()) - n_before
        found = f"{n_new} model files found in {path}." if n_new != 1 else f"1 model file found in {path}."
        if not n_new:
            found = f"No new .gguf file in {path}."
        return {**self.list(model), self.own.folder: "", self.own.folder_news: models_html.news(found, "good")}

    def set_folders(self, folders: list[str], model: str | None) -> Changes:
        """A folder was taken out of the list."""
        kept = [folder for folder in self._folders() if folder in (folders or [])]
        save_value(self.ctx.data_dir, "model_folders", kept)
        return self.list(model)

    # ---- the chosen model --------------------------------------------------------------------------------------------

    def explain(self, model: str | None, budget_mib: float, *advanced: Any) -> Any:
        """The slider or a setting was moved: what it means."""
        entry = self._entry(model)
        if entry is None or entry.path is None:
            return models_html.error("Choose a model first.")
        try:
            return self._explained(entry, choice_from(model or "", budget_mib, advanced))
        except LacacheError as error:
            return models_html.error(page_words(error))

    def _explained(self, entry: Entry, choice: Choice) -> str:
        try:
            shape = _shape(entry)
            size = shape.geometry, cells_of(shape, choice)
            is_found = choice.policy == DEFAULT and entry.path is not None
            found = calibrated_policy(entry.path, lambda: size, choice.type_k, choice.type_v) if is_found else None
            return models_html.explanation(explain(choice, shape, self._free(), found))
        except LacacheError as error:
            return models_html.error(page_words(error))

    def rerange(self, model: str | None, budget_mib: float, *advanced: Any) -> Changes:
        """Other KV types: cells cost something else, so the slider's notches move."""
        own, entry = self.own, self._entry(model)
        changes: Changes = {own.estimate: self.explain(model, budget_mib, *advanced)}
        if entry is not None and entry.path is not None:
            try:
                found = self._range(_shape(entry), choice_from(model or "", budget_mib, advanced))
                changes[own.budget] = _slider(found)
                changes[own.estimate] = self.explain(model, found.value, *advanced)
            except LacacheError:
                pass  # the estimate says it
        return changes

    def fields(self, policy: str) -> Changes:
        """Another policy was chosen: its fields."""
        return shown_fields(self.own.advanced, policy)

    def _about(self, model: str | None) -> Changes:
        own, entry = self.own, self._entry(model)
        changes: Changes = {own.details: models_html.details(entry)}
        if entry is None or entry.path is None or not entry.can_load:
            return {**changes, own.estimate: models_html.error(entry.reason) if entry else ""}
        try:
            shape = _shape(entry)
            choice = self._usual(entry, shape)
            found = self._range(shape, choice)
            choice = replace(choice, budget_mib=found.value)
        except LacacheError as error:
            return {**changes, own.estimate: models_html.error(page_words(error))}
        changes |= filled(own.advanced, choice, kv_types_for(shape))
        return {**changes, own.budget: _slider(found), own.estimate: self._explained(entry, choice)}

    def _usual(self, entry: Entry, shape: ModelShape) -> Choice:
        """What is set now, for the present model; 1,024 cells and the defaults for another one."""
        if entry.id == self._present_id():
            return choice_of(shape, self.host.settings)
        n_mib = shape.geometry.bytes(min(1024, shape.geometry.n_ctx_train or 1024)) / 2**20
        return Choice(entry.id, n_mib, "full" if entry.state == "full only" else DEFAULT)

    def _range(self, shape: ModelShape, choice: Choice) -> SliderRange:
        return budget_range(shape, choice, max(device.free_bytes for device in self._free()))

    def _free(self) -> list[FreeMemory]:
        """Free memory of every device once the present model has made way, as it does before another one is loaded."""
        devices = free_memory()
        settings = self.host.settings
        entry = self._entry(self._present_id()) if self.host.is_loaded else None
        if entry is None or entry.path is None or not entry.can_load:
            return devices
        shape = _shape(entry)
        n_mib = budget_of(shape.geometry, settings)
        n_cells = shape.geometry.cells_for(round(n_mib * 2**20) + 512, 512, settings.type_k, settings.type_v)
        load = Load(
            n_cells, settings.n_ubatch, settings.type_k, settings.type_v, settings.flash_attn, settings.n_gpu_layers
        )
        if settings.policy is not None:
            load = load_for(settings.policy, load)
        held = {share.device.name: share for share in estimate(shape, load, devices).shares}
        found = []
        for device in devices:
            share = held.get(device.name)
            n_held = 0 if share is None else share.need_bytes - (share.weights_bytes if device.name == "RAM" else 0)
            free = min(device.free_bytes + n_held, device.total_bytes or 1 << 62) if device.free_bytes else 0
            found.append(FreeMemory(device.name, free, device.total_bytes))
        return found

    # ---- loading -----------------------------------------------------------------------------------------------------

    def load(self, model: str | None, budget_mib: float, *advanced: Any) -> Iterator[Changes]:
        """Load the chosen model; if that fails the present one stays, and the reason is shown."""
        own, entry = self.own, self._entry(model)
        try:
            if entry is None or entry.path is None:
                raise UsageError("Choose a model first.")
            choice = choice_from(model or "", budget_mib, advanced)
            settings = settings_of(_shape(entry), choice, self.host.settings)
        except LacacheError as error:
            yield {own.status: models_html.error(page_words(error))}
            return
        run: Run[str] = self.host.start(_touch, settings)
        yield {own.status: models_html.news(f"Loading {entry.name} …", "busy"), own.load: gr.Button(interactive=False)}
        try:
            for _batch in run.batches(0.2):
                if run.state == "waiting" and run.place:
                    text = f"Waiting until the answer before this one is done ({run.place} before it) …"
                    yield {own.status: models_html.news(text, "busy")}
                elif run.state == "loading":
                    yield {own.status: models_html.news(f"Loading {entry.name} …", "busy")}
        except LacacheError as error:
            kept = f" {self._present_id()} is still loaded." if self.host.is_loaded else ""
            text = f"{entry.name} was not loaded: {page_words(error)}.{kept}"
            yield {**self._present(), own.status: models_html.error(text), own.load: gr.Button(interactive=True)}
            return
        news = models_html.news(f"{entry.name} is loaded.", "good")
        try:
            save_settings(self.ctx.data_dir, settings)
        except OSError as error:
            text = f"{entry.name} is loaded, but not remembered for the next start: {error.strerror or error}."
            news = models_html.error(text)
        yield {**self._present(), own.status: news, own.load: gr.Button(interactive=True)}

    def unload(self) -> Changes:
        """Free the memory; the next question loads the model again."""
        own = self.own
        if not self.host.is_loaded:
            return {**self._present(), own.status: models_html.news("Nothing is loaded.")}
        is_busy = self.host.is_busy
        self.host.drop()
        if is_busy or not self.host.wait_idle(20):
            return {own.status: models_html.news("It will be unloaded when what is running is done.", "busy")}
        return {**self._present(), own.status: models_html.news("Unloaded; its memory is free again.", "good")}


def _touch(engine: Engine) -> Iterator[str]:
    yield engine.model.name


def _shape(entry: Entry) -> ModelShape:
    if entry.header is None:
        raise UsageError(entry.reason or "its header could not be read")
    return ModelShape.from_header(entry.header, entry.size_bytes)


def _choices(entries: list[Entry]) -> list[tuple[str, str]]:
    return [(models_html.label(entry), entry.id) for entry in entries if entry.can_load]


def _unusable(entries: list[Entry]) -> gr.HTML:
    text = models_html.unusable(entries)
    return gr.HTML(text, visible=bool(text))


def _slider(found: SliderRange) -> gr.Slider:
    return gr.Slider(minimum=found.minimum, maximum=found.maximum, step=found.step, value=found.value)
