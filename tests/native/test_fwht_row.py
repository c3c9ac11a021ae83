"""The Walsh-Hadamard transform in registers: the same bits as butterflies done number by number."""

from __future__ import annotations

import numpy as np
import pytest
from native.ggml_graph import F32, computed

pytestmark = pytest.mark.native

HADAMARD = 1  # GGML_HINT_SRC0_IS_HADAMARD, ggml.h


def butterflies(rows: np.ndarray) -> np.ndarray:
    """float32 [n_rows, n] transformed: sums and differences of numbers 1, 2, 4, ... apart, in that order."""
    n = rows.shape[-1]
    x = rows * (np.float32(1) / np.sqrt(np.float32(n)))
    length = 1
    while length < n:
        pairs = x.reshape(len(x), -1, 2, length)
        x = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2).reshape(len(x), n)
        length *= 2
    return x


def transformed(base, context, matrix, rows):
    result = base.ggml_mul_mat(context, matrix, rows)
    base.ggml_mul_mat_set_hint(result, HADAMARD)
    return result


@pytest.mark.parametrize("n", [16, 32, 64, 128, 256, 512])  # 16 and 512 are left to llama.cpp's loops
@pytest.mark.parametrize("n_threads", [1, 2])
def test_every_row_has_the_bits_of_plain_butterflies(rng, n, n_threads):
    rows = (rng.standard_normal((33, n)) * rng.uniform(0.01, 100, (33, 1))).astype(np.float32)
    rows[5] = 0
    matrix = butterflies(np.eye(n, dtype=np.float32))
    ours, product = computed([(F32, matrix[None, None]), (F32, rows[None, None])], transformed, n_threads)
    assert ours.tobytes() == butterflies(rows).tobytes()
    np.testing.assert_allclose(product.reshape(rows.shape), butterflies(rows), rtol=1e-4, atol=1e-3)
