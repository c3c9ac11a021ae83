"""Attention of a few queries: the same bits as llama.cpp's own, which takes one query row after the other."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import pytest

from lacache_gguf import native

pytestmark = pytest.mark.native

ptr, i32, i64, size_t, f32 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_size_t, ctypes.c_float

F32, F16, Q4_0, Q5_1, Q8_0, IQ4_NL, BF16 = 0, 1, 2, 7, 8, 20, 30  # ggml.h
PAIRS = [(F16, F16), (Q8_0, Q4_0), (Q8_0, Q8_0), (Q5_1, Q4_0), (F16, Q8_0), (Q8_0, F16), (BF16, BF16), (Q4_0, IQ4_NL)]
GROUPS = [(9, 3), (8, 2), (7, 1), (4, 4)]  # heads, KV heads
TOKENS = [1, 3, 17]


class InitParams(ctypes.Structure):  # ggml_init_params, ggml.h
    _fields_ = [("mem_size", size_t), ("mem_buffer", ptr), ("no_alloc", ctypes.c_bool)]


@pytest.fixture(scope="module")
def ggml():
    native.load()
    base, cpu = (ctypes.CDLL(str(native.library(native.lib_dir(), name))) for name in ("ggml-base", "ggml-cpu"))
    for name, result, *arguments in (
        ("ggml_init", ptr, InitParams),
        ("ggml_free", None, ptr),
        ("ggml_new_tensor", ptr, ptr, i32, i32, ctypes.POINTER(i64)),
        ("ggml_flash_attn_ext", ptr, ptr, ptr, ptr, ptr, ptr, f32, f32, f32),
        ("ggml_quantize_chunk", size_t, i32, ptr, ptr, i64, i64, i64, ptr),
        ("ggml_nbytes", size_t, ptr),
        ("ggml_new_graph", ptr, ptr),
        ("ggml_build_forward_expand", None, ptr, ptr),
        ("ggml_backend_alloc_ctx_tensors", ptr, ptr, ptr),
        ("ggml_backend_buffer_free", None, ptr),
        ("ggml_backend_tensor_set", None, ptr, ptr, size_t, size_t),
        ("ggml_backend_tensor_get", None, ptr, ptr, size_t, size_t),
        ("ggml_backend_graph_compute", i32, ptr, ptr),
        ("ggml_backend_free", None, ptr),
    ):
        native.declare(base, name, result, *arguments)
    native.declare(cpu, "ggml_backend_cpu_init", ptr)
    native.declare(cpu, "ggml_backend_cpu_set_n_threads", None, ptr, i32)
    native.declare(cpu, "ggml_backend_cpu_set_use_ref", None, ptr, ctypes.c_bool)
    return base, cpu


def packed(base, type_: int, rows: np.ndarray) -> np.ndarray:
    """float32 [..., n] as bytes of a ggml type."""
    if type_ == F32:
        return np.ascontiguousarray(rows, np.float32)
    out = np.zeros(rows.size * 4, np.uint8)
    n = rows.shape[-1]
    return out[: base.ggml_quantize_chunk(type_, rows.ctypes.data, out.ctypes.data, 0, rows.size // n, n, None)]


def attention(ggml, inputs: list[tuple[int, np.ndarray]], softcap: float, n_threads: int) -> Iterator[np.ndarray]:
    """Of q, k, v, mask, each (type, float32 [.., .., .., n]): with the kernel, then by llama.cpp alone ("use_ref")."""
    base, cpu = ggml
    with ExitStack() as stack:
        backend = cpu.ggml_backend_cpu_init()
        stack.callback(base.ggml_backend_free, backend)
        context = base.ggml_init(InitParams(1 << 20, None, True))
        stack.callback(base.ggml_free, context)
        sizes = [(i64 * 4)(*reversed(rows.shape)) for _, rows in inputs]
        tensors = [base.ggml_new_tensor(context, type_, 4, ne) for (type_, _), ne in zip(inputs, sizes, strict=True)]
        result = base.ggml_flash_attn_ext(context, *tensors, inputs[0][1].shape[-1] ** -0.5, 0.0, softcap)
        graph = base.ggml_new_graph(context)
        base.ggml_build_forward_expand(graph, result)
        stack.callback(base.ggml_backend_buffer_free, base.ggml_backend_alloc_ctx_tensors(context, backend))
        for tensor, (type_, rows) in zip(tensors, inputs, strict=True):
            data = packed(base, type_, rows)
            assert data.nbytes == base.ggml_nbytes(tensor)
            base.ggml_backend_tensor_set(tensor, data.ctypes.data, 0, data.nbytes)

        cpu.ggml_backend_cpu_set_n_threads(backend, n_threads)
        for use_ref in (False, True):
            cpu.ggml_backend_cpu_set_use_ref(backend, use_ref)
            out = np.full(base.ggml_nbytes(result) // 4, np.nan, np.float32)
            assert base.ggml_backend_graph_compute(backend, graph) == 0
            base.ggml_backend_tensor_get(result, out.ctypes.data, 0, out.nbytes)
            yield out


def masked(rng, n_tokens: int, n_cells: int) -> np.ndarray:
    """Causal for the newest cells, holes elsewhere, and whole stretches that no row sees."""
    mask = np.where(rng.random((n_tokens, n_cells)) < 0.1, -np.inf, 0).astype(np.float32)
    mask[:, n_cells // 3 : n_cells // 2] = -np.inf
    mask[:, n_cells - n_tokens :] = np.where(np.tri(n_tokens) > 0, 0, -np.inf)
    return mask[None, None]


@pytest.mark.parametrize("n_head", [64, 128, 96, 256])
@pytest.mark.parametrize("types", PAIRS)
def test_every_row_has_the_bits_of_one_row_at_a_time(ggml, rng, types, n_head):
    for (heads, heads_kv), n_tokens, n_cells in itertools.product(GROUPS, TOKENS, (32, 200, 544)):
        shape = (1, heads_kv, n_cells, n_head)
        inputs = [
            (F32, rng.standard_normal((1, heads, n_tokens, n_head), np.float32) * 4),
            *((type_, rng.standard_normal(shape, np.float32)) for type_ in types),
            (F16, masked(rng, n_tokens, n_cells)),
        ]
        ours, theirs = attention(ggml, inputs, softcap=0.0, n_threads=1)
        assert np.isfinite(theirs).all()
        assert ours.tobytes() == theirs.tobytes(), (heads, heads_kv, n_tokens, n_cells)


def test_several_sequences_threads_and_a_capped_score(ggml, rng):
    inputs = [
        (F32, rng.standard_normal((2, 9, 5, 64), np.float32) * 4),
        *((F16, rng.standard_normal((2, 3, 96, 64), np.float32)) for _ in "kv"),
        (F16, masked(rng, 5, 96)),
    ]
    for n_threads in (1, 2, 5):  # threads begin in the midst of a group
        ours, theirs = attention(ggml, inputs, softcap=30.0, n_threads=n_threads)
        assert np.isfinite(theirs).all()
        assert ours.tobytes() == theirs.tobytes(), n_threads


def test_a_row_that_sees_nothing_is_zero(ggml, rng):
    inputs = [
        (F32, rng.standard_normal((1, 3, 2, 64), np.float32)),
        *((F16, rng.standard_normal((1, 1, 64, 64), np.float32)) for _ in "kv"),
        (F16, np.stack([np.full(64, -np.inf, np.float32), np.zeros(64, np.float32)])[None, None]),
    ]
    ours, theirs = attention(ggml, inputs, softcap=0.0, n_threads=1)
    assert ours.tobytes() == theirs.tobytes()
    assert (ours.reshape(2, 3, 64)[0] == 0).all()
    assert (ours.reshape(2, 3, 64)[1] != 0).all()
