"""K rows behind the thinned part turn by one angle, whose sines and cosines are computed once for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from native.checks import check_compacted
from native.kv_state import parse_seq
from native.llm import KV_TYPES, OK, Llm
from reference.kv_oracle import attention_layers

from lacache_gguf.policies import Ladder, SinkWindow, View

pytestmark = pytest.mark.native

N, N_FREE = 200, 40


def ladder_plan(n_layer: int) -> np.ndarray:
    """What the product sends: sinks stay, rungs are thinned by layer, everything behind them moves by one step."""
    return Ladder(span=2, overlap=0, n_sink=4, n_recent=60).plan(View(n_layer, N, N_FREE, 0, cursor=0, sweep=0)).keep


@pytest.mark.parametrize("kind", KV_TYPES)
@pytest.mark.parametrize("name", ["llama", "llama-hd96", "llama-yarn", "phi3", "smollm3", "chatglm"])
def test_a_ladder_against_the_oracle(name, kind, tiny, rng):
    path = tiny(name)
    with Llm(path, type_k=kind, type_v="f16") as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        llm.decode(rng.integers(0, llm.n_vocab, N))
        keep = ladder_plan(len(layers))
        delta = keep - np.arange(keep.shape[1])
        assert (delta[:, -60:] == delta[0, -1]).all()
        assert len(np.unique(delta[0])) > 10
        before = parse_seq(llm.state(0)).full
        assert llm.compact(keep) == OK
        check_compacted(before, parse_seq(llm.state(0)).full, keep, layers)


@pytest.mark.parametrize("kind", KV_TYPES)
@pytest.mark.parametrize("name", ["llama", "llama-hd96", "qwen3", "qwen2-yarn"])
def test_one_angle_for_all_is_the_same_as_one_for_each(name, kind, tiny, rng):
    """A last cell that turns otherwise makes every row before it turn by an angle of its own: no bit may differ."""
    path = tiny(name)
    with Llm(path, type_k=kind, type_v="f16") as llm:
        tokens = rng.integers(0, llm.n_vocab, N)
        kept = {}
        for shared, row in (
            (True, np.r_[:7, 31 : N - 9]),  # one run behind the sinks
            (False, np.r_[:7, 31 : N - 10, N - 2]),
        ):
            llm.seq_rm(0)
            llm.decode(tokens)
            assert llm.compact(np.tile(row, (llm.n_layer, 1))) == OK
            kept[shared] = parse_seq(llm.state(0)).full
        for il in range(llm.n_layer):
            assert np.array_equal(kept[True].k[il].raw[:-1], kept[False].k[il].raw[:-1]), f"K of layer {il}"
            assert np.array_equal(kept[True].v[il].raw[:-1], kept[False].v[il].raw[:-1]), f"V of layer {il}"


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_a_tail_longer_than_a_block(kind, tiny, rng):
    """Rows of 8 KiB in f32, so 1,024 to a block: the first block ends in the tail, the others are tail throughout."""
    path = tiny("llama", n_layer=1, n_embd=64, n_head=16, n_head_kv=16, head_dim=128)
    with Llm(path, type_k=kind, type_v="f16", n_ctx=2560, n_ubatch=512) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        llm.decode(rng.integers(0, llm.n_vocab, 2500))
        before = parse_seq(llm.state(0)).full
        keep = np.r_[:4, 4:200:2, 200:2500][None]
        assert llm.compact(keep) == OK
        check_compacted(before, parse_seq(llm.state(0)).full, keep, layers)


def test_a_window_is_one_tail(tiny, rng):
    """SinkWindow: the sinks do not turn, all others by one angle; again and again."""
    path = tiny("qwen3")
    with Llm(path) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        policy = SinkWindow(n_sink=4)
        for _ in range(4):
            llm.decode(rng.integers(0, llm.n_vocab, N - llm.n_cells()))
            before = parse_seq(llm.state(0)).full
            keep = policy.plan(View(len(layers), N, N_FREE, 0, cursor=0, sweep=0)).keep
            assert llm.compact(keep) == OK
            check_compacted(before, parse_seq(llm.state(0)).full, keep, layers)
