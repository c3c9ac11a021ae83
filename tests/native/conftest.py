"""Fixtures of the tests that call the native library."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import tiny_models


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """tiny("qwen3", n_swa=...) -> path of a tiny random model, made once per test run."""
    folder = tmp_path_factory.mktemp("tiny")
    return lambda name, **options: tiny_models.cached(folder, name, **options)


@pytest.fixture
def rng(request):
    """Random numbers that depend on the test's name only, so a failure repeats alone."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.split("/")[-1].encode()))
