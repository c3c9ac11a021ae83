"""What a model attends to, seen by llama.cpp's own eyes: the softmax nodes of its graph without flash attention."""

from __future__ import annotations

import ctypes
from collections import defaultdict

import numpy as np
from native.llm import lib

from lacache_gguf import native


class Tensor(ctypes.Structure):
    """The head of struct ggml_tensor."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
    ]


class AttentionWatch:
    """Pass `callback` as cb_eval; `queries(il, n)` are then rows float32 [n_head, n_kv] of layer `il`: of the newest n
    tokens or, with `spread`, of those that `spread_tokens` names."""

    def __init__(self) -> None:
        base = ctypes.CDLL(str(native.library(native.lib_dir(), "ggml-base")))
        base.ggml_get_name.restype, base.ggml_get_name.argtypes = ctypes.c_char_p, (ctypes.c_void_p,)
        read = base.ggml_backend_tensor_get  # wherever it is; (tensor, data, offset, size)
        read.restype, read.argtypes = None, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
        self.ubatches: dict[int, list[list[np.ndarray]]] = defaultdict(list)

        @lib.ggml_backend_sched_eval_callback
        def callback(tensor, ask: bool, _user_data) -> bool:
            name = base.ggml_get_name(tensor).decode()
            if not name.startswith("kq_soft_max-"):
                return not ask
            if not ask:
                shape = Tensor.from_address(tensor).ne
                n_kv, n_token, n_head = shape[0], shape[1], shape[2]
                rows = np.empty((n_head, n_token, n_kv), dtype=np.float32)
                read(tensor, rows.ctypes.data, 0, rows.nbytes)
                self.ubatches[int(name.split("-")[1])].append([rows[:, i] for i in range(n_token)])
            return True

        self.callback = callback

    def queries(self, il: int, n: int, spread: bool = False) -> list[np.ndarray]:
        rows = [row for ubatch in self.ubatches[il] for row in ubatch]
        return [rows[i] for i in spread_tokens([len(u) for u in self.ubatches[il]], n)] if spread else rows[-n:]


def spread_tokens(ubatches: list[int], n: int) -> list[int]:
    """Tokens, counted from 0, whose queries are recorded after ubatches of so many, as llama-lacache.h says."""
    kept: list[tuple[int, int]] = []  # (number since all rows were new, token)
    n_seen, stride, end = 0, 1, 0
    for size in ubatches:
        end += size
        count = min(size, n)
        if count == n:
            kept, n_seen, stride = [], 0, 1
        n_before = n_seen
        for token in list(range(end - 1, end - size - 1, -(size // count)))[:count][::-1]:
            old = [one for one in kept if one[0] < n_before]  # no row is written twice by a ubatch
            if len(kept) == n and kept[-1] in old and kept[-1][0] % stride:
                kept.pop()
            elif len(kept) == n:
                while stride <= n_seen and all(number % stride == 0 for number, _ in old):
                    stride *= 2
                kept.remove(next((one for one in old if one[0] % stride), old[0]))
            kept.append((n_seen, token))
            n_seen += 1
    return [token for _, token in kept]
