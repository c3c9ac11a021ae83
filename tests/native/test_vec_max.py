"""The largest number of a row in lanes: a softmax that missed it would overflow."""

from __future__ import annotations

import numpy as np
import pytest
from native.ggml_graph import F32, computed

pytestmark = pytest.mark.native


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 31, 32, 33, 47, 100])  # lanes are 16
def test_it_is_found_at_every_place(rng, n):
    rows = rng.uniform(-1000, -500, (n, n)).astype(np.float32)
    np.fill_diagonal(rows, 500)
    for found in computed([(F32, rows[None, None])], lambda base, context, x: base.ggml_soft_max(context, x)):
        np.testing.assert_array_equal(found.reshape(n, n), np.eye(n, dtype=np.float32))


def test_masked_numbers_are_never_the_largest(rng):
    rows = np.full((3, 50), -np.inf, np.float32)
    rows[0, 20], rows[1, 49], rows[2, :2] = -700, 3, (1e30, -1e30)
    for found in computed([(F32, rows[None, None])], lambda base, context, x: base.ggml_soft_max(context, x)):
        assert np.argwhere(found.reshape(rows.shape) == 1).tolist() == [[0, 20], [1, 49], [2, 0]]
        assert found.sum() == 3
