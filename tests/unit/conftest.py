"""What the unit tests share: they know nothing of the machine."""

from __future__ import annotations

import pytest

from lacache_gguf import native
from lacache_gguf.kv_budget import CELL_STEP


@pytest.fixture(autouse=True)
def _stock_cells(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells come in the steps of stock llama.cpp: what these tests expect must not depend on whether there is a GPU, or
    a library at all. Tests marked `native` see what this machine does."""
    if request.node.get_closest_marker("native") is None:
        monkeypatch.setattr(native, "cell_step", lambda: CELL_STEP)
