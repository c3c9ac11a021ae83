"""The context's settings reach llama.cpp."""

from __future__ import annotations

import pytest

from lacache_gguf import native
from lacache_gguf.context import Context, default_n_threads
from lacache_gguf.model import Model

pytestmark = pytest.mark.native


@pytest.mark.parametrize(
    ("given", "n_write", "n_read"),
    [
        ({}, default_n_threads(), default_n_threads()),
        ({"n_threads": 1}, 1, 1),
        ({"n_threads": 1, "n_threads_batch": 3}, 1, 3),
        ({"n_threads_batch": 3}, default_n_threads(), 3),
    ],
)
def test_threads_that_write_and_that_read(tiny, given, n_write, n_read):
    lib = native.load()
    with Model(tiny("llama")) as model:
        context = Context(model, 64, n_ubatch=16, **given)
        try:
            assert lib.llama_n_threads(context.ptr) == n_write
            assert lib.llama_n_threads_batch(context.ptr) == n_read
        finally:
            context.close()
