"""What the events of the models tab do about the hub: look a name up, download, pause, resume, cancel.

What it is: `HubPage`, one method per event. One download runs at a time, so the buttons are always about that one; of
several unfinished ones a person chooses which goes on. Downloads go on when the page is closed.
What it does not know: layout, how bytes come (downloads.py), what else is on the page.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from lacache_app.downloads import Downloads
from lacache_app.estimate import size_text
from lacache_app.ui import models_html
from lacache_app.ui.models_choice import page_words
from lacache_app.ui.models_page import Changes

from lacache_gguf import hub
from lacache_gguf.errors import LacacheError, UsageError
from lacache_gguf.hub_names import parse_ref

if TYPE_CHECKING:
    from lacache_app.ui.models_tab import ModelsTab

_POLL_S = 0.25


class HubPage:
    """The events of the download box. `relist()`: the list of models as it is now, when one was completed."""

    def __init__(self, own: ModelsTab, downloads: Downloads, relist: Callable[[], Changes]) -> None:
        self.own, self.downloads, self.relist = own, downloads, relist
        self.outputs = [
            own.downloads, own.progress, own.pause, own.resume, own.cancel, own.offer, own.models, own.unusable,
        ]  # fmt: skip

    def look_up(self, name: str) -> Changes:
        """What the hub has under a name: size, licence, quantizations."""
        own = self.own
        nothing = gr.Dropdown(choices=[], value=None, visible=False)
        ref = parse_ref(name or "")
        if ref is None:
            text = "Write user/repository or user/repository:Q4_K_M; other addresses are not downloaded."
            return {own.offer: models_html.error(text), own.variants: nothing}
        try:
            if hub.is_offline():
                raise hub.not_cached(ref)
            offer = hub.look_up(ref)
        except LacacheError as error:
            return {own.offer: models_html.error(page_words(error)), own.variants: nothing}
        choices = [(f"{tag} · {size_text(size)}", tag) for tag, size in offer.sizes.items()]
        return {
            own.offer: models_html.offer(offer, _disk_free()),
            own.variants: gr.Dropdown(choices=choices, value=offer.variant.tag, visible=True),
        }

    def use_variant(self, name: str, tag: str) -> Changes:
        """A quantization was chosen: the name says so, and its size is shown."""
        ref = parse_ref(name or "")
        if ref is None or not tag:
            return {self.own.name: name}
        full = f"{ref.repo}:{tag}"
        return {self.own.name: full, self.own.offer: self.look_up(full)[self.own.offer]}

    def download(self, name: str, chosen: str | None) -> Changes:
        """Begin a download, or go on with it."""
        try:
            self._refuse_second(name or "")
            started = self.downloads.start(name or "")
        except LacacheError as error:
            return {**self.state(chosen), self.own.offer: models_html.error(page_words(error))}
        return {**self.state(started), self.own.offer: ""}

    def resume(self, chosen: str | None) -> Changes:
        """Go on."""
        name = self._current(chosen)
        try:
            self._refuse_second(name)
        except UsageError as error:
            return {**self.state(chosen), self.own.offer: models_html.error(str(error))}
        self.downloads.resume(name)
        return self.state(chosen)

    def pause(self, chosen: str | None) -> Changes:
        """Pause."""
        self.downloads.pause(self._current(chosen))
        return self.state(chosen)

    def cancel(self, chosen: str | None) -> Changes:
        """Stop and delete what is there of it."""
        self.downloads.cancel(self._current(chosen))
        return self.state(None)

    async def follow(self, chosen: str | None) -> AsyncIterator[Changes]:
        """Keep the page up to date while something is being downloaded; what is complete appears in the list."""
        revision, n_done = -1, 0  # the list may be older than what was completed meanwhile
        while True:
            is_active = any(status.is_active for status in self.downloads.all())
            if revision != self.downloads.revision:
                revision = self.downloads.revision
                changes = self.state(chosen)
                if self._n_done() != n_done:
                    n_done = self._n_done()
                    changes |= self.relist()
                yield changes
            if not is_active:
                break
            await asyncio.sleep(_POLL_S)
        yield {self.own.progress: gr.skip()}  # Gradio repeats an event's last chunk at its end, when others painted

    def state(self, chosen: str | None) -> Changes:
        """Bars and buttons as things stand."""
        own, statuses = self.own, self.downloads.all()
        names = [status.name for status in statuses if status.state != "done"]
        current = self.downloads.status(self._current(chosen))
        state = current.state if current and current.name in names else ""
        is_active = bool(current and current.is_active)
        return {
            own.downloads: gr.Radio(
                choices=names, value=current.name if state and current else None, visible=len(names) > 1,
                interactive=not is_active,
            ),
            own.progress: models_html.progress(statuses),
            own.pause: gr.Button(visible=is_active, interactive=state != "pausing"),
            own.resume: gr.Button(visible=state in ("paused", "failed")),
            own.cancel: gr.Button(visible=bool(state)),
        }  # fmt: skip

    def _current(self, chosen: str | None) -> str:
        """The download that the buttons are about: the running one, else the chosen, else the newest unfinished."""
        statuses = self.downloads.all()
        names = [status.name for status in statuses if status.state != "done"]
        active = [status.name for status in statuses if status.is_active]
        return (active or [name for name in names if name == chosen] or names or [""])[-1]

    def _refuse_second(self, name: str) -> None:
        for status in self.downloads.all():
            if status.is_active and status.name != name:
                raise UsageError(f"{status.name} is being downloaded: wait for it, or pause or cancel it first")

    def _n_done(self) -> int:
        return sum(status.state == "done" for status in self.downloads.all())


def _disk_free() -> int:
    folder = Path(hub.cache_dir())
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
