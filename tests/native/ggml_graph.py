"""One ggml operation on the CPU, for tests of kernels: tensors in, a tensor out."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import numpy as np

from lacache_gguf import native

ptr, i32, i64, size_t, f32 = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_size_t, ctypes.c_float

F32, F16, Q4_0, Q5_1, Q8_0, IQ4_NL, I32, BF16 = 0, 1, 2, 7, 8, 20, 26, 30  # ggml.h


class InitParams(ctypes.Structure):  # ggml_init_params, ggml.h
    _fields_ = [("mem_size", size_t), ("mem_buffer", ptr), ("no_alloc", ctypes.c_bool)]


@cache
def libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """ggml-base and ggml-cpu, with the types of what is called here."""
    native.load()
    base, cpu = (ctypes.CDLL(str(native.library(native.lib_dir(), name))) for name in ("ggml-base", "ggml-cpu"))
    for name, result, *arguments in (
        ("ggml_init", ptr, InitParams),
        ("ggml_free", None, ptr),
        ("ggml_new_tensor", ptr, ptr, i32, i32, ctypes.POINTER(i64)),
        ("ggml_mul_mat", ptr, ptr, ptr, ptr),
        ("ggml_mul_mat_set_hint", None, ptr, i32),
        ("ggml_soft_max", ptr, ptr, ptr),
        ("ggml_flash_attn_ext", ptr, ptr, ptr, ptr, ptr, ptr, f32, f32, f32),
        ("ggml_rope_ext", ptr, ptr, ptr, ptr, ptr, i32, i32, i32, *[f32] * 6),
        ("ggml_rope_multi", ptr, ptr, ptr, ptr, ptr, i32, i32 * 4, i32, i32, *[f32] * 6),
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


def packed(type_: int, rows: np.ndarray) -> np.ndarray:
    """float32 [..., n], or int32 for I32, as bytes of a ggml type."""
    if type_ in (F32, I32):
        return np.ascontiguousarray(rows, np.float32 if type_ == F32 else np.int32)
    out, n = np.zeros(rows.size * 4, np.uint8), rows.shape[-1]
    base, _ = libraries()
    return out[: base.ggml_quantize_chunk(type_, rows.ctypes.data, out.ctypes.data, 0, rows.size // n, n, None)]


def computed(
    inputs: list[tuple[int, np.ndarray]], build: Callable[..., int], n_threads: int = 1
) -> Iterator[np.ndarray]:
    """The result of `build(base, context, *tensors)` as float32 [n]: by the kernels, then by the reference ("use_ref").

    inputs: (type, float32 or int32 [.., .., .., n]) of every tensor.
    """
    base, cpu = libraries()
    with ExitStack() as stack:
        backend = cpu.ggml_backend_cpu_init()
        stack.callback(base.ggml_backend_free, backend)
        context = base.ggml_init(InitParams(1 << 20, None, True))
        stack.callback(base.ggml_free, context)
        sizes = [(i64 * 4)(*reversed(rows.shape)) for _, rows in inputs]
        tensors = [base.ggml_new_tensor(context, type_, 4, ne) for (type_, _), ne in zip(inputs, sizes, strict=True)]
        result = build(base, context, *tensors)
        graph = base.ggml_new_graph(context)
        base.ggml_build_forward_expand(graph, result)
        stack.callback(base.ggml_backend_buffer_free, base.ggml_backend_alloc_ctx_tensors(context, backend))
        for tensor, (type_, rows) in zip(tensors, inputs, strict=True):
            data = packed(type_, rows)
            assert data.nbytes == base.ggml_nbytes(tensor)
            base.ggml_backend_tensor_set(tensor, data.ctypes.data, 0, data.nbytes)

        cpu.ggml_backend_cpu_set_n_threads(backend, n_threads)
        for use_ref in (False, True):
            cpu.ggml_backend_cpu_set_use_ref(backend, use_ref)
            out = np.full(base.ggml_nbytes(result) // 4, np.nan, np.float32)
            assert base.ggml_backend_graph_compute(backend, graph) == 0
            base.ggml_backend_tensor_get(result, out.ctypes.data, 0, out.nbytes)
            yield out
