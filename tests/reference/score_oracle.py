"""Slow twins of the native scores, in numpy and float64, from the bytes of the cache alone."""

from __future__ import annotations

import gguf
import numpy as np

from .kv_oracle import Layer, change_basis, hadamard_size


def key_heads(values: np.ndarray, kind: gguf.GGMLQuantizationType, layer: Layer) -> np.ndarray:
    """Stored key rows [n_cells, n_embd] as heads out of the Hadamard basis, float64 [n_cells, n_head_kv, head_dim]."""
    heads = values.astype(np.float64).reshape(len(values), layer.n_head_kv, layer.head_dim)
    return change_basis(heads, hadamard_size(kind, layer.head_dim))


def keydiff(values: np.ndarray, kind: gguf.GGMLQuantizationType, layer: Layer, pos: np.ndarray) -> np.ndarray:
    """KeyDiff (arXiv 2504.15364, equation 5) of one layer, float64 [n_head_kv, n_cells].

    -cos(k, m) with m the mean of the normalized keys; every key turned back by its position first.
    """
    keys = layer.rope.rotate(key_heads(values, kind, layer), -pos)
    keys = keys / np.linalg.norm(keys, axis=-1, keepdims=True)
    mean = keys.mean(axis=0)
    mean = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    return -np.einsum("chd,hd->hc", keys, mean)


def attention_scores(rows: list[np.ndarray], n_cells: int, n_head_kv: int) -> np.ndarray:
    """Mean over queries and over the query heads of a KV head, float64 [n_head_kv, n_cells].

    `rows`: for every query the attention [n_head, cells that the query sees]; later cells get none.
    """
    total = np.zeros((n_head_kv, n_cells))
    for row in rows:
        total[:, : row.shape[1]] += row.reshape(n_head_kv, -1, row.shape[1]).mean(axis=1)
    return total / len(rows)
