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
    x = rng.standard_normal((1, n_heads[0], n_rows, n)) * rng.uniform(0.01, 30, (n_rows, 1))
    y = rng.standard_normal((1, n_heads[1], n_cols, n)) * rng.uniform(0.01, 30, (n_cols, 1))
    ours, upstreams = computed([(F16, x.astype(np.float32)), (F32, y.astype(np.float32))], product, n_threads)
    assert np.isfinite(upstreams).all()
    assert ours.tobytes() == upstreams.tobytes()
    expected = np.repeat(x, n_heads[1] // n_heads[0], axis=1) @ y.swapaxes(-1, -2)
    np.testing.assert_allclose(ours.reshape(expected.swapaxes(-1, -2).shape), expected.swapaxes(-1, -2), rtol=0, atol=30)


@pytest.mark.parametrize(("n", "n_rows", "n_cols"), [(64, 33, 48), (64, 32, 7), (272, 32, 16), (24, 32, 16)])
def test_what_it_does_not_take_is_left_to_upstream(rng, n, n_rows, n_cols):
    x, y = (rng.standard_normal((1, 1, m, n)).astype(np.float32) for m in (n_rows, n_cols))
    ours, upstreams = computed([(F16, x), (F32, y)], product)
    assert ours.tobytes() == upstreams.tobytes()
