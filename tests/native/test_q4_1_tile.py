"""Q4_1 weights times many columns: the same bits as llama.cpp's product of one row with one column."""

from __future__ import annotations

import ctypes
import platform

import numpy as np
import pytest

from lacache_gguf import native

pytestmark = pytest.mark.native

Q4_1, Q8_1 = 3, 9  # ggml.h
N_BLOCK_Q4_1, N_BLOCK_Q8_1 = 20, 36  # bytes of a block of 32
MIN_COLS = 4  # q4-1-tile.c

ptr, i64, size_t, i32 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_size_t, ctypes.c_int
Dot = ctypes.CFUNCTYPE(None, i32, ptr, size_t, ptr, size_t, ptr, size_t, i32)
FromFloat = ctypes.CFUNCTYPE(None, ptr, ptr, i64)


class Traits(ctypes.Structure):  # ggml_type_traits_cpu, ggml-cpu.h
    _fields_ = [("from_float", FromFloat), ("vec_dot", Dot), ("vec_dot_type", i32), ("nrows", i64)]


@pytest.fixture(scope="module")
def ggml():
    native.load()
    lib = ctypes.CDLL(str(native.library(native.lib_dir(), "ggml-cpu")))
    native.declare(lib, "ggml_get_type_traits_cpu", ctypes.POINTER(Traits), i32)
    matrix = (ptr, size_t, i64, i64)
    native.declare(lib, "ggml_mul_mat_q4_1_tile", ctypes.c_bool, i64, *matrix, *matrix, ptr, size_t)
    return lib


def quantized(ggml, type_: int, n_bytes: int, rows: np.ndarray) -> np.ndarray:
    out = np.zeros((len(rows), rows.shape[1] // 32 * n_bytes), np.uint8)
    for row, place in zip(np.ascontiguousarray(rows, np.float32), out, strict=True):
        ggml.ggml_get_type_traits_cpu(type_).contents.from_float(row.ctypes.data, place.ctypes.data, len(row))
    return out


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the kernel is written for AVX2")
@pytest.mark.parametrize(
    "shape", [(576, 576, 128), (1536, 576, 16), (33, 1536, 37), (16, 32, 4), (1, 544, 5), (17, 512, 19)]
)
def test_every_product_has_the_bits_of_the_row_wise_one(ggml, rng, shape):
    n_rows, n, n_cols = shape
    x = quantized(ggml, Q4_1, N_BLOCK_Q4_1, rng.standard_normal((n_rows, n)) * rng.uniform(0.01, 10, (n_rows, 1)))
    y = quantized(ggml, Q8_1, N_BLOCK_Q8_1, rng.standard_normal((n_cols, n)) * rng.uniform(0.01, 100, (n_cols, 1)))
    r0, c0 = n_rows // 3, (n_cols - MIN_COLS) // 3  # a part of the product, as a thread gets it

    tiled = np.full((n_cols, n_rows + 3), np.nan, np.float32)  # 3: the stride of a column is its own
    done = ggml.ggml_mul_mat_q4_1_tile(
        n // 32,
        x.ctypes.data,
        x.strides[0],
        r0,
        n_rows,
        y.ctypes.data,
        y.strides[0],
        c0,
        n_cols,
        tiled.ctypes.data,
        tiled.strides[0],
    )
    if not done:
        pytest.skip("this processor has no AVX2")

    expected = np.full_like(tiled, np.nan)
    dot = ggml.ggml_get_type_traits_cpu(Q4_1).contents.vec_dot
    for c in range(c0, n_cols):
        for r in range(r0, n_rows):
            dot(n, expected[c, r:].ctypes.data, 0, x[r].ctypes.data, 0, y[c].ctypes.data, 0, 1)
    assert np.isfinite(tiled[c0:, r0:n_rows]).all()
    assert tiled.tobytes() == expected.tobytes(), "bits differ, or something was written beside the part"


def test_few_columns_are_left_to_the_row_wise_product(ggml):
    x, y = np.zeros(N_BLOCK_Q4_1, np.uint8), np.zeros((MIN_COLS - 1, N_BLOCK_Q8_1), np.uint8)
    out = np.full((MIN_COLS - 1, 1), np.nan, np.float32)
    assert not ggml.ggml_mul_mat_q4_1_tile(
        1, x.ctypes.data, x.nbytes, 0, 1, y.ctypes.data, y.strides[0], 0, MIN_COLS - 1, out.ctypes.data, out.strides[0]
    )
    assert np.isnan(out).all()
