"""The app in the browser: one file per tab, each with ID, TITLE, `build(ctx)` and `wire(ctx, own, shared)`.

What it is: `TABS` and `build_app`, which builds all tabs (components first, then events, so that an event may refer to
any tab), the header, the welcome and the memory panel beside them.
What it does not know: how it is served (server.py) or what the tabs do. A new tab is one file and one line in `TABS`.

    demo = build_app(ctx)              # gr.Blocks
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import gradio as gr
from lacache_app.environment import UPLOAD_MAX_S
from lacache_app.ui import chat_tab, compare_tab, documents_tab, memory_panel, models_tab, shell
from lacache_app.ui.context import Context

TABS: tuple[ModuleType, ...] = (chat_tab, documents_tab, models_tab, compare_tab)


@dataclass(frozen=True)
class Shared:
    """Components that several tabs use."""

    tabs: gr.Tabs  # select one with gr.Tabs(selected=ID)
    wanted: gr.State  # id of a conversation that a tab wants the chat to open
    demo: gr.Blocks

    @property
    def silent(self) -> dict[str, Any]:
        """Keyword arguments of events that say themselves how far they are. Gradio's page has a state of progress for
        every component that an event names, and goes through all of them with every piece of an answer: one is named
        that is nowhere on the page."""
        return {"show_progress": "hidden", "show_progress_on": self.wanted, "api_visibility": "private"}


def build_app(ctx: Context) -> gr.Blocks:
    """All components and their events."""
    built: list[tuple[ModuleType, Any]] = []
    kept = (3600, UPLOAD_MAX_S)  # how often it is looked, how long files stay
    with gr.Blocks(title="LaCache", fill_width=True, delete_cache=kept, analytics_enabled=False) as demo:
        wanted = gr.State("")
        shell.build_header()
        with gr.Row(elem_id="lc-body"):
            with gr.Column(elem_id="lc-main", scale=3, min_width=320), gr.Tabs(elem_id="lc-tabs") as tabs:
                for tab in TABS:
                    with gr.Tab(tab.TITLE, id=tab.ID, elem_id=f"tab-{tab.ID}"):
                        built.append((tab, tab.build(ctx)))
            with gr.Column(elem_id="lc-side", scale=1, min_width=300):
                built.append((memory_panel, memory_panel.build(ctx)))
        shared = Shared(tabs, wanted, demo)
        for module, own in built:
            module.wire(ctx, own, shared)
    return demo
