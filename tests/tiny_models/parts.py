"""What most architectures share: sizes, embeddings, attention and feed-forward tensors, RoPE metadata."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .vocab import add_vocab
from .writer import Net

# queries and keys this large make attention choose, so a wrong key row changes the logits clearly
GAIN_QK = 1.6


@dataclass(frozen=True)
class Sizes:
    """Sizes of a tiny model. A tuple gives one value per layer."""

    n_layer: int = 4
    n_embd: int = 128
    n_head: int | tuple[int, ...] = 4
    n_head_kv: int | tuple[int, ...] = 2
    head_dim: int = 64
    n_rot: int | None = None  # rotated elements of a head; None = all
    n_ff: int = 96
    n_ctx_train: int = 4096
    freq_base: float = 10000.0
    vocab: str = "none"

    def heads(self, il: int) -> tuple[int, int]:
        """Query and KV heads of layer `il`."""
        pick = [n if isinstance(n, int) else n[il] for n in (self.n_head, self.n_head_kv)]
        return pick[0], pick[1]

    def with_defaults(self, **changes: object) -> Sizes:
        """The same sizes with only those changes whose value is not None."""
        return replace(self, **{key: value for key, value in changes.items() if value is not None})


def begin(net: Net, s: Sizes, *, tied: bool = False, layer_norm: bool = False) -> int:
    """Metadata that every attention model has, token embeddings and output; returns the vocabulary size."""
    for n in (s.n_head, s.n_head_kv):
        if not isinstance(n, int) and len(n) != s.n_layer:
            raise ValueError(f"{n} must have one entry for each of {s.n_layer} layers")
    net.set(".block_count", s.n_layer)
    net.set(".context_length", s.n_ctx_train)
    net.set(".embedding_length", s.n_embd)
    net.set(".feed_forward_length", s.n_ff)
    net.set(".attention.head_count", s.n_head if isinstance(s.n_head, int) else list(s.n_head))
    net.set(".attention.head_count_kv", s.n_head_kv if isinstance(s.n_head_kv, int) else list(s.n_head_kv))
    net.set(".attention.key_length", s.head_dim)
    net.set(".attention.value_length", s.head_dim)
    net.set(".rope.dimension_count", s.head_dim if s.n_rot is None else s.n_rot)
    net.set(".rope.freq_base", s.freq_base)
    net.set(".attention.layer_norm_epsilon" if layer_norm else ".attention.layer_norm_rms_epsilon", 1e-5)
    n_vocab = add_vocab(net, s.vocab)
    # logits of about +-3: far from constant, far from one-hot
    net.matrix("token_embd.weight", s.n_embd, n_vocab, gain=3.0)
    if not tied:
        net.matrix("output.weight", s.n_embd, n_vocab, gain=3.0)
    return n_vocab


def attention(
    net: Net,
    s: Sizes,
    il: int,
    *,
    fused: bool = False,
    bias: bool = False,
    out_bias: bool = False,
    qk_norm: bool = False,
    n_in: int | None = None,
) -> None:
    """Query, key, value and output projections of layer `il`."""
    blk = f"blk.{il}."
    n_head, n_head_kv = s.heads(il)
    n_q, n_kv, n_in = n_head * s.head_dim, n_head_kv * s.head_dim, n_in or s.n_embd
    if fused:
        net.matrix(blk + "attn_qkv.weight", n_in, n_q + 2 * n_kv, gain=GAIN_QK)
        if bias:
            net.tensor(blk + "attn_qkv.bias", (n_q + 2 * n_kv,), scale=0.5)
    else:
        for part, n_out, gain in (("q", n_q, GAIN_QK), ("k", n_kv, GAIN_QK), ("v", n_kv, 1.0)):
            net.matrix(f"{blk}attn_{part}.weight", n_in, n_out, gain)
            if bias:
                net.tensor(f"{blk}attn_{part}.bias", (n_out,), scale=0.5)
    net.matrix(blk + "attn_output.weight", n_q, s.n_embd)
    if out_bias:
        net.tensor(blk + "attn_output.bias", (s.n_embd,), scale=0.1)
    if qk_norm:
        net.norm(blk + "attn_q_norm.weight", s.head_dim)
        net.norm(blk + "attn_k_norm.weight", s.head_dim)


def feed_forward(net: Net, s: Sizes, il: int) -> None:
    """A gated feed-forward network (three matrices) of layer `il`."""
    blk = f"blk.{il}."
    net.matrix(blk + "ffn_gate.weight", s.n_embd, s.n_ff)
    net.matrix(blk + "ffn_up.weight", s.n_embd, s.n_ff)
    net.matrix(blk + "ffn_down.weight", s.n_ff, s.n_embd)


def norms(net: Net, s: Sizes, il: int, *names: str) -> None:
    for name in names:
        net.norm(f"blk.{il}.{name}.weight", s.n_embd)


def rope_freqs(net: Net, s: Sizes) -> None:
    """Frequency factors in the style of Llama 3: 1 for fast pairs, 8 for slow ones, a ramp between."""
    n_pair = (s.n_rot or s.head_dim) // 2
    ramp = np.clip((np.arange(n_pair) / n_pair - 0.25) / 0.5, 0.0, 1.0)
    net.exact("rope_freqs.weight", 1.0 + 7.0 * ramp)


def yarn(net: Net, factor: float, n_ctx_orig: int = 2048) -> None:
    """YaRN scaling: pairs that turn often in `n_ctx_orig` positions keep their frequency, slow ones are divided."""
    net.set(".rope.scaling.type", "yarn")
    net.set(".rope.scaling.factor", factor)
    net.set(".rope.scaling.original_context_length", n_ctx_orig)
