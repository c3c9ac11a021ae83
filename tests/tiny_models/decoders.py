"""Models whose only memory is attention: one function per architecture, named as in GGUF.

Tensor names and shapes follow src/models/<arch>.cpp of the pinned llama.cpp.
"""

from __future__ import annotations

import numpy as np

from .parts import Sizes, attention, begin, feed_forward, norms, rope_freqs, yarn
from .writer import Net

MHA = {"n_head": 2, "n_head_kv": 2}  # for architectures whose query width must equal n_embd


def llama(net: Net, s: Sizes, *, freq_factors: bool = False, yarn_factor: float | None = None) -> None:
    """RoPE NORM (pairs are neighbours)."""
    begin(net, s)
    _plain_layers(net, s)
    if freq_factors:
        rope_freqs(net, s)
    if yarn_factor:
        yarn(net, yarn_factor)


def baichuan(net: Net, s: Sizes) -> None:
    """RoPE NORM with 32 layers; with 40 (the 13B model) ALiBi and no RoPE, which no metadata says."""
    begin(net, s)
    _plain_layers(net, s)


def smollm3(net: Net, s: Sizes) -> None:
    """Like llama, but every fourth layer has no RoPE."""
    begin(net, s)
    _plain_layers(net, s)


def qwen2(net: Net, s: Sizes, *, yarn_factor: float | None = None) -> None:
    """RoPE NEOX (pairs are half a head apart), biases on q, k and v."""
    begin(net, s)
    _plain_layers(net, s, bias=True)
    if yarn_factor:
        yarn(net, yarn_factor)


def qwen2vl(net: Net, s: Sizes) -> None:
    """M-RoPE: positions of three axes."""
    begin(net, s)
    net.set(".rope.dimension_sections", [s.head_dim // 8, s.head_dim // 8, s.head_dim // 4, 0])
    _plain_layers(net, s, bias=True)


def qwen3(net: Net, s: Sizes) -> None:
    """RoPE NEOX after a norm of each query and key head."""
    begin(net, s)
    _plain_layers(net, s, qk_norm=True)


def hunyuan_dense(net: Net, s: Sizes) -> None:
    """Keys are normalized AFTER RoPE with a weight per element: rotating a cached key is not exact."""
    begin(net, s)
    _plain_layers(net, s, qk_norm=True)


def chatglm(net: Net, s: Sizes) -> None:
    """RoPE NORM on a part of each head, one fused projection."""
    begin(net, s)
    for il in range(s.n_layer):
        norms(net, s, il, "attn_norm", "ffn_norm")
        attention(net, s, il, fused=True, bias=True)
        net.matrix(f"blk.{il}.ffn_up.weight", s.n_embd, 2 * s.n_ff)
        net.matrix(f"blk.{il}.ffn_down.weight", s.n_ff, s.n_embd)
    net.norm("output_norm.weight", s.n_embd)


def phi2(net: Net, s: Sizes) -> None:
    """RoPE NEOX on a part of each head, layer norms with biases, parallel attention and feed-forward."""
    n_vocab = begin(net, s, layer_norm=True)
    net.tensor("output.bias", (n_vocab,), scale=0.1)
    for il in range(s.n_layer):
        norms(net, s, il, "attn_norm")
        net.tensor(f"blk.{il}.attn_norm.bias", (s.n_embd,), scale=0.1)
        attention(net, s, il, bias=True, out_bias=True)
        for name, n_in, n_out in (("ffn_up", s.n_embd, s.n_ff), ("ffn_down", s.n_ff, s.n_embd)):
            net.matrix(f"blk.{il}.{name}.weight", n_in, n_out)
            net.tensor(f"blk.{il}.{name}.bias", (n_out,), scale=0.1)
    net.norm("output_norm.weight", s.n_embd)
    net.tensor("output_norm.bias", (s.n_embd,), scale=0.1)


def phi3(net: Net, s: Sizes) -> None:
    """LongRoPE: one set of frequency factors for short contexts, one for long ones, chosen by the context size."""
    begin(net, s)
    n_pair = (s.n_rot or s.head_dim) // 2
    net.set(".rope.scaling.type", "longrope")
    net.set(".rope.scaling.original_context_length", 512)
    net.set(".rope.scaling.attn_factor", 1.19)
    net.exact("rope_factors_short.weight", 1.0 + np.arange(n_pair) / n_pair)
    net.exact("rope_factors_long.weight", np.geomspace(1.0, 40.0, n_pair))
    for il in range(s.n_layer):
        norms(net, s, il, "attn_norm", "ffn_norm")
        attention(net, s, il, fused=True)
        net.matrix(f"blk.{il}.ffn_up.weight", s.n_embd, 2 * s.n_ff)
        net.matrix(f"blk.{il}.ffn_down.weight", s.n_ff, s.n_embd)
    net.norm("output_norm.weight", s.n_embd)


def gemma2(net: Net, s: Sizes, *, n_swa: int = 24) -> None:
    """Every second layer has a sliding window; logits are capped."""
    begin(net, s, tied=True)
    net.set(".attention.sliding_window", n_swa)
    net.set(".attn_logit_softcapping", 50.0)
    net.set(".final_logit_softcapping", 30.0)
    _gemma_layers(net, s, qk_norm=False)


def gemma3(net: Net, s: Sizes, *, n_swa: int = 24, swa_period: int = 3) -> None:
    """All but every `swa_period`-th layer have a sliding window, with another RoPE base than the full layers."""
    begin(net, s, tied=True)
    net.set(".attention.sliding_window", n_swa)
    net.set(".attention.sliding_window_pattern", swa_period)
    net.set(".rope.freq_base_swa", 1000.0)
    _gemma_layers(net, s, qk_norm=True)


def cohere2(net: Net, s: Sizes, *, n_swa: int = 24, swa_period: int = 2, logit_scale: float = 1.0) -> None:
    """Sliding-window layers with RoPE, full layers WITHOUT RoPE."""
    begin(net, s, tied=True, layer_norm=True)
    net.set(".attention.sliding_window", n_swa)
    net.set(".attention.sliding_window_pattern", swa_period)
    net.set(".logit_scale", logit_scale)
    for il in range(s.n_layer):
        norms(net, s, il, "attn_norm")
        attention(net, s, il)
        feed_forward(net, s, il)
    net.norm("output_norm.weight", s.n_embd)


def openelm(net: Net, s: Sizes) -> None:
    """A number of query and KV heads per layer."""
    begin(net, s, tied=True)
    for il in range(s.n_layer):
        norms(net, s, il, "attn_norm", "ffn_norm")
        attention(net, s, il, fused=True, qk_norm=True)
        feed_forward(net, s, il)
    net.norm("output_norm.weight", s.n_embd)


def deci(net: Net, s: Sizes) -> None:
    """A number of heads per layer, where a layer with none has no attention (and an empty KV row)."""
    begin(net, s)
    net.metadata["deci.feed_forward_length"] = [s.n_ff] * s.n_layer
    for il in range(s.n_layer):
        if s.heads(il)[0] > 0:
            norms(net, s, il, "attn_norm")
            attention(net, s, il)
        norms(net, s, il, "ffn_norm")
        feed_forward(net, s, il)
    net.norm("output_norm.weight", s.n_embd)


def _plain_layers(net: Net, s: Sizes, *, bias: bool = False, qk_norm: bool = False) -> None:
    for il in range(s.n_layer):
        norms(net, s, il, "attn_norm", "ffn_norm")
        attention(net, s, il, bias=bias, qk_norm=qk_norm)
        feed_forward(net, s, il)
    net.norm("output_norm.weight", s.n_embd)


def _gemma_layers(net: Net, s: Sizes, *, qk_norm: bool) -> None:
    for il in range(s.n_layer):
        norms(net, s, il, "attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm")
        attention(net, s, il, qk_norm=qk_norm)
        feed_forward(net, s, il)
    net.norm("output_norm.weight", s.n_embd)
