"""Models with another memory than plain attention: recurrent, hybrid and compressed (MLA) ones."""

from __future__ import annotations

import numpy as np

from .parts import Sizes, attention, begin, feed_forward, norms, rope_freqs
from .writer import Net

D_CONV, D_STATE = 4, 16


def lfm2(net: Net, s: Sizes, *, n_swa: int | None = None) -> None:
    """Hybrid: layers with KV heads attend (RoPE NEOX, qk norm), the others are short convolutions."""
    begin(net, s)
    net.set(".shortconv.l_cache", 3)
    if n_swa:
        net.set(".attention.sliding_window", n_swa)
    for il in range(s.n_layer):
        norms(net, s, il, "attn_norm", "ffn_norm")
        if s.heads(il)[1] > 0:
            attention(net, s, il, qk_norm=True)
        else:
            net.tensor(f"blk.{il}.shortconv.conv.weight", (s.n_embd, 3), scale=0.6)
            net.matrix(f"blk.{il}.shortconv.in_proj.weight", s.n_embd, 3 * s.n_embd)
            net.matrix(f"blk.{il}.shortconv.out_proj.weight", s.n_embd, s.n_embd)
        feed_forward(net, s, il)
    net.norm("token_embd_norm.weight", s.n_embd)  # LFM2's name for the output norm


def jamba(net: Net, s: Sizes) -> None:
    """Hybrid: attention without any RoPE beside Mamba layers."""
    begin(net, s)
    _ssm_metadata(net, s)
    for il in range(s.n_layer):
        norms(net, s, il, "attn_norm", "ffn_norm")
        if s.heads(il)[1] > 0:
            attention(net, s, il)
        else:
            _mamba(net, s, il, inner_norms=True)
        feed_forward(net, s, il)
    net.norm("output_norm.weight", s.n_embd)


def falcon_h1(net: Net, s: Sizes, *, freq_factors: bool = False) -> None:
    """Hybrid: every layer has both attention (RoPE NEOX) and a Mamba-2 state.

    Upstream loads frequency factors if a file has them, but its attention does not use them.
    """
    begin(net, s)
    if freq_factors:
        rope_freqs(net, s)
    n_inner, n_group, n_ssm_head = 2 * s.n_embd, 1, 4
    n_conv = n_inner + 2 * n_group * D_STATE
    net.set(".ssm.conv_kernel", D_CONV)
    net.set(".ssm.inner_size", n_inner)
    net.set(".ssm.state_size", D_STATE)
    net.set(".ssm.time_step_rank", n_ssm_head)
    net.set(".ssm.group_count", n_group)
    for il in range(s.n_layer):
        blk = f"blk.{il}."
        norms(net, s, il, "attn_norm")
        net.norm(blk + "ffn_norm", s.n_embd)  # upstream reads this one without ".weight"
        attention(net, s, il)
        net.matrix(blk + "ssm_in.weight", s.n_embd, n_inner + n_conv + n_ssm_head)
        net.tensor(blk + "ssm_conv1d.weight", (n_conv, D_CONV), scale=0.5)
        net.tensor(blk + "ssm_conv1d.bias", (n_conv,), scale=0.1)
        net.tensor(blk + "ssm_dt.bias", (n_ssm_head,), scale=0.5)
        net.exact(blk + "ssm_a", -np.arange(1, n_ssm_head + 1, dtype=np.float32)[:, None])  # decay: negative
        net.tensor(blk + "ssm_d", (n_ssm_head, 1), scale=0.2, mean=1.0)
        net.matrix(blk + "ssm_out.weight", n_inner, s.n_embd)
        feed_forward(net, s, il)
    net.norm("output_norm.weight", s.n_embd)


def mamba(net: Net, s: Sizes) -> None:
    """Purely recurrent: no KV memory at all."""
    begin(net, s)
    for key in (".attention.head_count", ".attention.head_count_kv"):
        net.set(key, 0)
    _ssm_metadata(net, s)
    for il in range(s.n_layer):
        norms(net, s, il, "attn_norm")
        _mamba(net, s, il, inner_norms=False)
    net.norm("output_norm.weight", s.n_embd)


def deepseek2(net: Net, s: Sizes, *, n_lora: int = 64, n_nope: int = 32) -> None:
    """MLA: the cache holds one compressed row per token (`n_lora` + `n_rot` wide) and no V."""
    n_rot, n_v = s.n_rot or 32, 32
    n_head, _ = s.heads(0)
    begin(net, s)
    net.set(".attention.head_count_kv", 1)
    net.set(".attention.key_length", n_lora + n_rot)
    net.set(".attention.value_length", n_lora)
    net.set(".attention.key_length_mla", n_nope + n_rot)
    net.set(".attention.value_length_mla", n_v)
    net.set(".attention.q_lora_rank", n_lora)
    net.set(".attention.kv_lora_rank", n_lora)
    net.set(".rope.dimension_count", n_rot)
    net.set(".leading_dense_block_count", s.n_layer)  # no experts: the memory is what matters here
    net.set(".expert_feed_forward_length", s.n_ff)
    net.set(".expert_shared_count", 0)
    net.set(".vocab_size", net.tensors["token_embd.weight"].shape[0])
    for il in range(s.n_layer):
        blk = f"blk.{il}."
        norms(net, s, il, "attn_norm", "ffn_norm")
        net.norm(blk + "attn_q_a_norm.weight", n_lora)
        net.norm(blk + "attn_kv_a_norm.weight", n_lora)
        net.matrix(blk + "attn_q_a.weight", s.n_embd, n_lora)
        net.matrix(blk + "attn_q_b.weight", n_lora, n_head * (n_nope + n_rot))
        net.matrix(blk + "attn_kv_a_mqa.weight", s.n_embd, n_lora + n_rot)
        net.tensor(blk + "attn_k_b.weight", (n_head, n_lora, n_nope), scale=n_nope**-0.5)
        net.tensor(blk + "attn_v_b.weight", (n_head, n_v, n_lora), scale=n_lora**-0.5)
        net.matrix(blk + "attn_output.weight", n_head * n_v, s.n_embd)
        feed_forward(net, s, il)
    net.norm("output_norm.weight", s.n_embd)


def _ssm_metadata(net: Net, s: Sizes) -> None:
    net.set(".ssm.conv_kernel", D_CONV)
    net.set(".ssm.inner_size", 2 * s.n_embd)
    net.set(".ssm.state_size", D_STATE)
    net.set(".ssm.time_step_rank", 8)


def _mamba(net: Net, s: Sizes, il: int, *, inner_norms: bool) -> None:
    blk, n_inner, n_dt = f"blk.{il}.", 2 * s.n_embd, 8
    net.matrix(blk + "ssm_in.weight", s.n_embd, 2 * n_inner)
    net.tensor(blk + "ssm_conv1d.weight", (n_inner, D_CONV), scale=0.5)
    net.tensor(blk + "ssm_conv1d.bias", (n_inner,), scale=0.1)
    net.matrix(blk + "ssm_x.weight", n_inner, n_dt + 2 * D_STATE)
    net.matrix(blk + "ssm_dt.weight", n_dt, n_inner)
    net.tensor(blk + "ssm_dt.bias", (n_inner,), scale=0.5)
    net.exact(blk + "ssm_a", np.tile(-np.arange(1, D_STATE + 1, dtype=np.float32), (n_inner, 1)))  # decay: negative
    net.tensor(blk + "ssm_d", (n_inner,), scale=0.2, mean=1.0)
    net.matrix(blk + "ssm_out.weight", n_inner, s.n_embd)
    if inner_norms:
        net.norm(blk + "ssm_dt_norm.weight", n_dt)
        net.norm(blk + "ssm_b_norm.weight", D_STATE)
        net.norm(blk + "ssm_c_norm.weight", D_STATE)
