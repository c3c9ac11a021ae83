"""Fixtures of the tests that run the embedded default model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lacache_gguf import catalog

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The default model's file."""
    return catalog.resolve("smollm2-135m").path


@pytest.fixture(scope="session")
def reference():
    """Token ids and float32 NLLs of an independent computation; skips where ../shared is absent."""
    path = SHARED / "reference_wikitext2_c256.npz"
    if not path.exists():
        pytest.skip("../shared/data is not there")
    return np.load(path)
