"""The memory map: what the panel's routes answer to whom."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lacache_app.memory_map import MemoryMap
from lacache_app.memory_strips import Strip


@pytest.fixture
def client(fake_engine: Any) -> Any:
    """A client of the panel's routes, whose `.memory_map` is the map behind them."""
    pytest.importorskip("gradio")
    from lacache_app.ui import memory_panel
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    ctx = SimpleNamespace(memory_map=MemoryMap(), host=SimpleNamespace(status=lambda: SimpleNamespace(state="busy")))
    client = TestClient(Starlette(routes=memory_panel.routes(ctx)))
    client.memory_map = ctx.memory_map
    return client


def test_news_only_when_there_are_some(client: Any, fake_engine: Any) -> None:
    assert client.get("/lacache/memory").status_code == 204
    engine = fake_engine(n_ctx=128)
    list(engine.read([65] * 300))
    client.memory_map.observe(engine)
    answer = client.get("/lacache/memory?since=0")
    assert (answer.status_code, answer.headers["x-lacache-state"], answer.headers["cache-control"]) == (
        200,
        "busy",
        "no-store",
    )
    news = answer.json()
    assert (news["n_seen"], news["n_cells"], news["n_ctx"]) == (300, engine.stats.n_cells, 128)
    again = client.get(f"/lacache/memory?since={news['revision']}")
    assert (again.status_code, again.content, again.headers["x-lacache-state"]) == (204, b"", "busy")


def test_rows_arrive_as_they_are(client: Any, fake_engine: Any) -> None:
    engine = fake_engine(n_ctx=128)
    list(engine.read([65] * 3000))
    client.memory_map.observe(engine)
    news = client.get("/lacache/memory").json()
    for name in ("overview", "recent"):
        strip: Strip = getattr(client.memory_map.snapshot(), name)
        rows = np.frombuffer(base64.b64decode(news[name]["rows"]), dtype=np.uint8).reshape(-1, news[name]["n_bins"])
        assert np.array_equal(rows[news["row_of"]], strip.share)


def test_the_answer_does_not_grow_with_what_was_seen(client: Any, fake_engine: Any) -> None:
    sizes = []
    for n_seen in (20_000, 100_000):
        engine = fake_engine(n_ctx=1024)
        list(engine.read([65] * n_seen))
        client.memory_map.observe(engine, force=True)
        sizes.append(len(client.get("/lacache/memory").content))
    assert max(sizes) < 16_000
    assert len(json.dumps(client.get("/lacache/memory").json())) > 1_000  # it is not empty either


def test_text_under_the_cursor(client: Any, fake_engine: Any) -> None:
    engine = fake_engine(n_ctx=128)
    list(engine.read(engine.tokenize("<script>" * 100)))
    client.memory_map.observe(engine)
    answer = client.get("/lacache/memory/text?first=8&last=24").json()
    assert "".join(answer["pieces"]) == "<script><script>"
    assert len(base64.b64decode(answer["kept"])) == 30 * 16
    assert client.get("/lacache/memory/text?first=100000&last=100001").json()["pieces"] == []


@pytest.mark.parametrize(
    "path",
    [
        "/lacache/memory?since=-1",
        "/lacache/memory?since=x",
        "/lacache/memory?since=",
        "/lacache/memory?since=99999999999999999999",
        "/lacache/memory?since=1e3",
        "/lacache/memory?since=%C2%B2",
        "/lacache/memory/text",
        "/lacache/memory/text?first=1",
        "/lacache/memory/text?first=1&last=1",
        "/lacache/memory/text?first=9&last=1",
        "/lacache/memory/text?first=0&last=100000",
        "/lacache/memory/text?first=-4&last=4",
        "/lacache/memory/text?first=1.5&last=4",
    ],
)
def test_parameters_out_of_range_are_refused_in_words(client: Any, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 400
    assert "give a whole number" in answer.json()["error"] or "ask for" in answer.json()["error"]


def test_nothing_was_loaded_yet() -> None:
    pytest.importorskip("gradio")
    from lacache_app.ui.memory_panel import summary

    assert MemoryMap().snapshot() is None
    assert MemoryMap().text(0, 5) == ""
    assert summary(None)["n_seen"] == 0
