"""The memory map: the text of what was read, token by token, and what other threads see of it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from lacache_app import memory_map as module
from lacache_app.memory_map import MemoryMap

from lacache_gguf.policies import Ladder, Policy


def looked_at(fake_engine: Any, text: str, policy: Policy | None = None) -> tuple[Any, MemoryMap]:
    engine, memory_map = fake_engine(n_ctx=128, policy=policy), MemoryMap()
    list(engine.read(engine.tokenize(text)))
    memory_map.observe(engine)
    return engine, memory_map


def test_text_is_what_was_read_also_after_the_engine_was_closed(fake_engine: Any) -> None:
    text = "Call me Ishmael. " * 40
    engine, memory_map = looked_at(fake_engine, text)
    engine.close()
    engine.piece = None  # a call would fail
    assert memory_map.text(17, 33) == text[17:33]
    assert memory_map.text(0, 10**9) == text[: module.N_TEXT_TOKENS]
    assert memory_map.text(-5, 4) == text[:4]
    assert memory_map.text(len(text), len(text) + 5) == memory_map.text(7, 7) == memory_map.text(9, 3) == ""


def test_characters_of_several_tokens_are_put_together(fake_engine: Any) -> None:
    _, memory_map = looked_at(fake_engine, "Größe 漢字")
    assert memory_map.text(0, 99) == "Größe 漢字"
    pieces = memory_map.close_up(0, 99).pieces
    assert pieces[2:4] == ("", "ö")
    assert memory_map.text(3, 6) == "\N{REPLACEMENT CHARACTER}ß"  # begins inside a character


def test_a_close_up_shows_which_layers_hold_each_token(fake_engine: Any) -> None:
    engine, memory_map = looked_at(fake_engine, "0123456789" * 100, policy=Ladder(span=15))
    close_up = memory_map.close_up(800, 1000)
    expected = [[int(token in row) for token in range(800, 1000)] for row in np.array(engine.held).tolist()]
    assert close_up.n_kept.tolist() == expected
    n_layers = close_up.n_kept.sum(axis=0)
    assert n_layers[-1] == 30
    assert ((n_layers > 0) & (n_layers < 30)).any()


def test_only_new_tokens_cost_a_call(fake_engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, memory_map = fake_engine(n_ctx=128), MemoryMap()
    asked: list[int] = []
    piece = engine.piece
    monkeypatch.setattr(engine, "piece", lambda token: asked.append(token) or piece(token))
    for _ in engine.read(engine.tokenize("abcabcabd" * 100)):
        memory_map.observe(engine, force=True)
    engine.reset()
    list(engine.read(engine.tokenize("dcbae")))
    memory_map.observe(engine, force=True)
    assert sorted(asked) == sorted(b"abcde")
    assert memory_map.text(0, 9) == "dcbae"


def test_other_threads_see_whole_snapshots_while_the_engine_works(fake_engine: Any) -> None:
    engine, memory_map = fake_engine(n_ctx=128), MemoryMap()
    is_done, wrong = threading.Event(), []

    def look() -> None:
        newest = 0
        while not is_done.is_set():
            snapshot = memory_map.snapshot()
            if snapshot is None:
                continue
            if snapshot.revision < newest or len(snapshot.seen) != snapshot.n_seen:
                wrong.append(snapshot)
            newest = snapshot.revision
            if not set(memory_map.text(snapshot.n_seen - 3, snapshot.n_seen)) <= set("xyz"):
                wrong.append(snapshot)
            close_up = memory_map.close_up(0, 4)  # pinned
            if not (close_up.n_kept == snapshot.n_head).all():
                wrong.append(close_up)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in engine.read(engine.tokenize("xyz" * 1000), n_pinned=4):
        memory_map.observe(engine, force=True)
    is_done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
