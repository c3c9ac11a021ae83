"""Rows of one position that follow each other share their sines and cosines: the same bits as each row alone."""

from __future__ import annotations

import numpy as np
import pytest
from native.ggml_graph import F32, I32, computed, i32

pytestmark = pytest.mark.native

NORM, NEOX, MROPE, IMROPE = 0, 2, 8, 40  # GGML_ROPE_TYPE_*, ggml.h
N_DIM, N_HEAD, N_ROWS = 64, 3, 40
YARN = (8192, 1e5, 0.5, 1.0, 1.0, 32.0, 1.0)  # n_ctx_orig, freq_base, freq_scale, ext_factor, attn_factor, beta_*


def turned(mode: int, rows: np.ndarray, pos: np.ndarray, n_threads: int) -> np.ndarray:
    """float32 [n, N_HEAD, N_DIM] turned by pos int32 [1 or 4, n]."""

    def build(base, context, a, b):
        if mode >= MROPE:
            return base.ggml_rope_multi(context, a, b, None, N_DIM, (i32 * 4)(10, 8, 8, 6), mode, *YARN)
        return base.ggml_rope_ext(context, a, b, None, N_DIM, mode, *YARN)

    result, _ = computed([(F32, rows[None]), (I32, pos.reshape(1, 1, 1, -1))], build, n_threads)
    return result.reshape(rows.shape)


@pytest.mark.parametrize("mode", [NORM, NEOX, MROPE, IMROPE])
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_every_row_has_the_bits_that_it_has_alone(rng, mode, n_threads):
    rows = rng.standard_normal((N_ROWS, N_HEAD, N_DIM)).astype(np.float32)
    pos = np.repeat(rng.integers(-300, 300, (4 if mode >= MROPE else 1, N_ROWS // 4)), 4, axis=1).astype(np.int32)
    pos[:, -8:] = 0  # a long run, of the position that an empty cache might be taken for
    pos[-1, 5] += 1  # the last section alone tells these rows apart
    alone = [turned(mode, rows[[i]], pos[:, [i]], 1)[0] for i in range(N_ROWS)]
    assert turned(mode, rows, pos, n_threads).tobytes() == np.stack(alone).tobytes()
