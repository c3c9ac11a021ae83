"""A transformer in numpy whose memory is a list of unrotated keys: the meaning of compaction without its mechanism.

Keys are remembered as they are before RoPE and rotated at use, by the position noted beside them. Keeping a set of
cells is then nothing but indexing, and nothing can be rotated twice or by the wrong amount. Float64, token by token.
Architectures: the plain decoders of tests/tiny_models (llama, qwen2, qwen3 and their variants).
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from .kv_oracle import attention_layers

EPS = 1e-5


def rms_norm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * weight


class TinyForward:
    def __init__(self, path: Path, n_ctx: int) -> None:
        reader = gguf.GGUFReader(path)
        meta = {field.name: field.contents() for field in reader.fields.values()}
        self.w = {tensor.name: np.asarray(tensor.data, np.float64) for tensor in reader.tensors}
        self.n_head = meta[meta["general.architecture"] + ".attention.head_count"]
        self.layers = attention_layers(path, n_ctx)
        self.keys: list[list[np.ndarray]] = [[] for _ in self.layers]  # [layer][cell] -> [n_head_kv, head_dim]
        self.values: list[list[np.ndarray]] = [[] for _ in self.layers]
        self.pos: list[list[np.ndarray]] = [[] for _ in self.layers]  # [layer][cell] -> [n_head_kv], of the keys
        self.pos_next = 0
        self.attention: list[np.ndarray] = [np.empty(0) for _ in self.layers]  # of the last token, [n_head, n_cells]

    def thin(self, keep: np.ndarray) -> None:
        """Keep cells keep[layer] of every layer, or keep[layer][head] of every KV head; positions stay."""
        for memory in (self.keys, self.values, self.pos):
            for il, row in enumerate(np.asarray(keep)):
                heads = np.arange(memory[il][0].shape[0])
                memory[il] = list(np.stack(memory[il])[row.T if row.ndim == 2 else row[:, None], heads])

    def compact(self, keep: np.ndarray) -> None:
        """The same, and cells are numbered anew without a gap."""
        self.thin(keep)
        self.pos_next = np.shape(keep)[-1]
        self.pos = [[np.full(layer.n_head_kv, i) for i in range(self.pos_next)] for layer in self.layers]

    def turn(self, turn: np.ndarray, shift: int) -> None:
        """Move keys by turn[layer] or turn[layer][head] positions, and the next token by `shift`."""
        for il, row in enumerate(np.asarray(turn)):
            self.pos[il] = list(np.stack(self.pos[il]) + (row.T if row.ndim == 2 else row[:, None]))
        self.pos_next += shift

    def decode(self, tokens: np.ndarray | list[int]) -> np.ndarray:
        """Logits [n_tokens, n_vocab] of tokens that follow what is remembered."""
        return np.stack([self._step(int(token)) for token in tokens])

    def stored_keys(self, il: int) -> np.ndarray:
        """The rows [n_cells, n_embd_k] that a cache of rotated keys would hold for layer `il`."""
        rope, rows = self.layers[il].rope, np.stack(self.keys[il])
        return (rope.rotate(rows, np.stack(self.pos[il])) * self._magnitude(il)).reshape(len(rows), -1)

    def _magnitude(self, il: int) -> float:
        return self.layers[il].rope.magnitude

    def _linear(self, il: int, name: str, x: np.ndarray) -> np.ndarray:
        y = self.w[f"blk.{il}.{name}.weight"] @ x
        bias = self.w.get(f"blk.{il}.{name}.bias")
        return y if bias is None else y + bias

    def _step(self, token: int) -> np.ndarray:
        x = self.w["token_embd.weight"][token]
        for il in range(len(self.layers)):
            x = x + self._attend(il, rms_norm(x, self.w[f"blk.{il}.attn_norm.weight"]))
            h = rms_norm(x, self.w[f"blk.{il}.ffn_norm.weight"])
            gate, up = self._linear(il, "ffn_gate", h), self._linear(il, "ffn_up", h)
            x = x + self._linear(il, "ffn_down", gate / (1.0 + np.exp(-gate)) * up)
        self.pos_next += 1
        return self.w["output.weight"] @ rms_norm(x, self.w["output_norm.weight"])

    def _attend(self, il: int, h: np.ndarray) -> np.ndarray:
        layer = self.layers[il]
        shape = (-1, layer.head_dim)
        q, k, v = (self._linear(il, f"attn_{part}", h).reshape(shape) for part in "qkv")
        for part, heads in (("q", q), ("k", k)):
            norm = self.w.get(f"blk.{il}.attn_{part}_norm.weight")
            if norm is not None:
                heads[:] = rms_norm(heads, norm)
        self.keys[il].append(k)
        self.values[il].append(v)
        self.pos[il].append(np.full(layer.n_head_kv, self.pos_next))
        scale = self._magnitude(il) ** 2 / np.sqrt(layer.head_dim)
        keys = layer.rope.rotate(np.stack(self.keys[il]), np.stack(self.pos[il]))  # [n, n_head_kv, head_dim]
        query = layer.rope.rotate(q[None], np.array([self.pos_next]))[0]
        values = np.stack(self.values[il])
        out, weights = [], []
        for head in range(self.n_head):
            kv = head * layer.n_head_kv // self.n_head
            score = keys[:, kv] @ query[head] * scale
            weight = np.exp(score - score.max())
            weights.append(weight / weight.sum())
            out.append(weights[-1] @ values[:, kv])
        self.attention[il] = np.stack(weights)
        return self._linear(il, "attn_output", np.concatenate(out))
