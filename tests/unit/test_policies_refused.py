"""What policies, views, needs and plans refuse, and with which words."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from lacache_gguf.errors import MemoryFull, PolicyError
from lacache_gguf.policies import Full, Need, Plan, SinkWindow, View


def test_full_refuses_with_the_numbers_and_the_remedy() -> None:
    with pytest.raises(MemoryFull, match=r"full cache holds 512 cells .* 3 more .* raise --ctx-size/--kv-budget or .*"):
        Full().plan(View(n_layer=30, n_cells=512, n_free=3))
    Full().check(n_layer=30, n_ctx=512, n_pinned=511)
    with pytest.raises(PolicyError, match=r"512 pinned cells .* 512 cells"):
        Full().check(n_layer=30, n_ctx=512, n_pinned=512)


@pytest.mark.parametrize("value", [-1, 1.5, "4", True, None])
def test_sink_window_refuses_a_bad_n_sink(value: object) -> None:
    with pytest.raises(PolicyError, match=re.escape(f"got {value!r}")):
        SinkWindow(n_sink=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "numbers",
    [
        {"n_layer": 0, "n_cells": 8, "n_free": 1},
        {"n_layer": 2, "n_cells": -1, "n_free": 1},
        {"n_layer": 2, "n_cells": 8, "n_free": 0},
        {"n_layer": 2, "n_cells": 8, "n_free": 1, "n_pinned": 9},
        {"n_layer": 2, "n_cells": 8, "n_free": 1, "cursor": -1},
        {"n_layer": 2, "n_cells": 8, "n_free": 1, "sweep": -1},
        {"n_layer": 2, "n_cells": 8, "n_free": 1, "n_head_kv": 0},
        {"n_layer": 2, "n_cells": 8, "n_free": 1, "n_head_kv": 3, "scores": {"x": np.zeros((2, 1, 8), np.float32)}},
        {"n_layer": 2, "n_cells": 8, "n_free": 1, "scores": {"x": np.zeros((2, 1, 8))}},
    ],
)
def test_view_refuses_what_no_memory_can_have(numbers: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\d"):
        View(**numbers)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"kind": "luck"}, "'luck' is unknown; choose one of keydiff, attention"),
        ({"kind": "attention"}, "n_query must be at least 1, got 0"),
        ({"kind": "attention", "n_query": 1.5}, "n_query must be a whole number, got 1.5"),
        ({"kind": "attention", "n_query": 8, "decay": 1.0}, "decay must be at least 0 and below 1, got 1.0"),
        ({"kind": "attention", "n_query": 8, "decay": float("nan")}, "got nan"),
        ({"kind": "keydiff", "n_query": 8}, "see no queries: n_query 8"),
        ({"kind": "keydiff", "decay": 0.5}, r"decay 0\.5 must be 0"),
    ],
)
def test_need_refuses_what_means_nothing(kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(PolicyError, match=text):
        Need(**kwargs)


def test_plan_refuses_what_native_code_could_not_read() -> None:
    rows = np.arange(12, dtype=np.int32).reshape(3, 4)
    assert Plan(rows).n_kept == 4
    per_head = Plan(rows.reshape(3, 2, 2))
    assert (per_head.n_layer, per_head.n_kept) == (3, 2)
    for wrong in (rows.astype(np.int64), rows[0], rows.T, rows[:, ::2], rows[None, None]):
        with pytest.raises(ValueError, match="C-contiguous int32 matrix"):
            Plan(wrong)
