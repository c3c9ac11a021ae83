"""Short rows of 16 bits times many columns: the same bits as llama.cpp's product of the same matrices."""

from __future__ import annotations

import numpy as np
import pytest
from native.ggml_graph import F16, F32, computed

pytestmark = pytest.mark.native


def product(base, context, x, y):
    return base.ggml_mul_mat(context, x, y)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize(
    ("n", "n_rows", "n_cols", "n_heads"),
    [
        (64, 1024, 48, (3, 3)),  # attention scores of the default model
        (64, 32, 8, (1, 1)),
        (16, 16, 11, (2, 6)),  # a head of keys for three of queries
        (128, 48, 71, (1, 2)),  # more columns than go through a tile at a time
        (256, 64, 130, (2, 2)),
        (80, 32, 9, (1, 1)),
    ],
)
def test_every_product_has_upstreams_bits(rng, n, n_rows, n_cols, n_heads, n_threads):
    x, y = (
        (rng.standard_normal((1, heads, m, n)) * rng.uniform(0.01, 30, (m, 1))).astype(np.float32)
        for heads, m in zip(n_heads, (n_rows, n_cols), strict=True)
    )
    ours, upstreams = computed([(F16, x), (F32, y)], product, n_threads)
    assert np.isfinite(upstreams).all()
    assert ours.tobytes() == upstreams.tobytes()
    x, y = (rounded.astype(np.float16).astype(np.float64) for rounded in (x, y))
    expected = y @ np.repeat(x, n_heads[1] // n_heads[0], axis=1).swapaxes(-1, -2)
    np.testing.assert_allclose(ours.reshape(expected.shape), expected, rtol=0, atol=0.5)


@pytest.mark.parametrize(("n", "n_rows", "n_cols"), [(64, 33, 48), (64, 32, 7), (272, 32, 16), (24, 32, 16)])
def test_what_it_does_not_take_is_left_to_upstream(rng, n, n_rows, n_cols):
    x, y = (rng.standard_normal((1, 1, m, n)).astype(np.float32) for m in (n_rows, n_cols))
    ours, upstreams = computed([(F16, x), (F32, y)], product)
    assert ours.tobytes() == upstreams.tobytes()
