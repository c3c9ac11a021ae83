"""The whole page is built without being served: tabs, API names, and that nothing runs the model beside the queue."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import gradio as gr
import pytest
from lacache_app.host import EngineHost, EngineSettings
from lacache_app.ui import TABS, build_app
from lacache_app.ui.context import Context, Runs, make_context

API = {
    "/chat": ["message", "conversation", "max_tokens"],
    "/summarize": ["file", "mode", "style", "length", "language", "instruction"],
    "/compare": ["prompt", "document", "memories", "mib", "max_tokens"],
    "/memory": [],
}
"""Chosen on purpose: programs rely on these names. Everything else is private."""


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    ctx = make_context(EngineSettings(), tmp_path_factory.mktemp("data"))
    yield ctx
    ctx.host.shutdown()
    ctx.store.close()


@pytest.fixture(scope="module")
def demo(ctx: Context) -> gr.Blocks:
    async def build() -> gr.Blocks:  # without a running loop Gradio makes several and leaves them open
        return build_app(ctx)

    return asyncio.run(build())


def test_tabs_have_a_name_and_an_id():
    assert [tab.ID for tab in TABS] == ["chat", "documents", "models", "compare"]
    assert all(tab.TITLE and tab.__doc__ for tab in TABS)


def test_api_names(demo):
    endpoints = demo.get_api_info()["named_endpoints"]
    assert {name: [one["parameter_name"] for one in api["parameters"]] for name, api in endpoints.items()} == API
    for name, api in endpoints.items():
        assert api["description"], name  # what a program is told about it
    assert demo.get_api_info()["unnamed_endpoints"] == {}


def test_one_at_a_time_runs_the_model(demo):
    in_queue = [fn for fn in demo.fns.values() if fn.concurrency_id == "engine"]
    assert {fn.api_name for fn in in_queue} == {"chat", "summarize", "compare"}
    assert {fn.concurrency_limit for fn in in_queue} == {1}
    assert all(fn.queue for fn in in_queue)


def test_what_waits_for_the_engine_is_painted_at_once(demo):
    """In a lane of Gradio's it would show nothing before its turn, and could not be stopped."""
    limits = {fn.fn.__qualname__: fn.concurrency_limit for fn in demo.fns.values() if fn.fn is not None}
    asking = ("ChatPage.send", "ChatPage.edit", "ChatPage.redo")
    for name in (*asking, "DocumentsPage.follow", "ModelsPage.load", "wire.<locals>.run"):
        assert limits[name] is None, name


def test_ids_are_unique(demo):
    ids = [block.elem_id for block in demo.blocks.values() if getattr(block, "elem_id", None)]
    assert len(ids) == len(set(ids))
    for wanted in (
        "chat-input",
        "chat-send",
        "chat-stop",
        "chat-log",
        "chat-new",
        "chat-list",
        "doc-drop",
        "doc-start",
    ):
        assert wanted in ids


def test_building_loads_no_model(ctx, demo):
    assert not ctx.host.is_loaded


class OverRun:
    """Stands for a Run in `Runs`."""

    def __init__(self) -> None:
        self.is_over, self.n_stops = False, 0

    def stop(self) -> None:
        self.n_stops += 1


def test_a_visitor_stops_only_what_is_his(fake_engine):
    runs, mine, other, theirs = Runs(), OverRun(), OverRun(), OverRun()
    runs.set("me", mine, "chat")
    runs.set("me", other, "documents")
    runs.set("they", theirs, "chat")
    assert runs.stop("me", "chat")
    assert (mine.n_stops, other.n_stops, theirs.n_stops) == (1, 0, 0)
    assert not runs.stop("me", "chat")  # once
    assert runs.stop("me")
    assert (mine.n_stops, other.n_stops, theirs.n_stops) == (1, 1, 0)
    assert runs.get("they", "chat") is theirs
    theirs.is_over = True
    assert runs.get("they", "chat") is None
    assert not runs.stop("they")
    assert not runs.stop(None)


def test_runs_that_are_over_are_forgotten(fake_engine):
    runs = Runs()
    for i in range(100):
        run = OverRun()
        runs.set(f"visitor {i}", run)
        run.is_over = True
    assert len(list(runs)) <= 1


def test_runs_hold_real_runs(fake_engine):
    host, runs = EngineHost(EngineSettings()), Runs()
    run = host.start(lambda _engine: iter([1]))
    runs["me"] = run
    assert runs["me"] is run or run.is_over
    assert run.wait(30)
    with pytest.raises(KeyError):
        runs["me"]
    assert host.shutdown(30)
