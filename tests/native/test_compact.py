"""Compaction of one sequence against the numpy oracle: every KV type, transposed V or not, every kind of RoPE."""

from __future__ import annotations

import numpy as np
import pytest
from native.checks import check_compacted, random_plan
from native.kv_state import parse_seq
from native.llm import ERR_UNSUPPORTED, KV_TYPES, OK, Llm
from reference.kv_oracle import attention_layers

pytestmark = pytest.mark.native

ARCHS = [
    "llama",
    "llama-hd32",
    "llama-hd96",
    "llama-hd128",
    "llama-hd192",
    "llama-freqs",
    "llama-yarn",
    "smollm3",
    "qwen2",
    "qwen2-yarn",
    "qwen3",
    "chatglm",
    "phi2",
    "phi3",
    "openelm",
    "deci",
    "deci-empty",
]
# quantized V needs flash attention: upstream refuses the rest itself
KV = (
    [(k, k, True) for k in KV_TYPES]
    + [(k, v, False) for k in KV_TYPES for v in ("f16",)]
    + [("f32", "f32", False), ("f32", "bf16", False), ("q8_0", "q4_0", True), ("f16", "q8_0", True)]
)


def compacted(path, rng, *, n=150, n_kept=70, n_pinned=4, times=1, **options):
    """Compact random tokens `times` times, growing between; check every step."""
    with Llm(path, **options) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        assert llm.reason() is None
        assert llm.n_layer == len(layers)
        for _ in range(times):
            llm.decode(rng.integers(0, llm.n_vocab, n - llm.n_cells()))
            before = parse_seq(llm.state(0)).full
            keep = random_plan(rng, len(layers), n, n_kept, n_pinned)
            assert llm.compact(keep) == OK
            assert (llm.n_cells(), llm.pos_min(), llm.pos_next()) == (n_kept, 0, n_kept)
            check_compacted(before, parse_seq(llm.state(0)).full, keep, layers)


@pytest.mark.parametrize(("type_k", "type_v", "flash_attn"), KV, ids=lambda value: str(value))
@pytest.mark.parametrize("name", ["llama", "llama-hd32", "qwen3"])
def test_every_kv_type(name, type_k, type_v, flash_attn, tiny, rng):
    compacted(tiny(name), rng, type_k=type_k, type_v=type_v, flash_attn=flash_attn)


@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize(("kind", "flash_attn"), [("f32", False), ("f16", True), ("q8_0", True)])
def test_every_architecture(name, kind, flash_attn, tiny, rng):
    compacted(tiny(name), rng, type_k=kind, type_v=kind, flash_attn=flash_attn)


@pytest.mark.parametrize("kind", ["q8_0", "q5_0", "q4_0", "iq4_nl"])
def test_rows_of_an_odd_number_of_half_words_are_refused(kind, tiny):
    """One head of 96 elements is three quantized blocks: copies by 32-bit words cannot move such rows."""
    with Llm(tiny("llama-hd96", n_head_kv=1), type_k=kind, type_v=kind, flash_attn=True) as llm:
        llm.decode([1, 2, 3])
        before = llm.state()
        assert "multiple of 4 bytes" in llm.reason()
        assert llm.n_layer == 0
        assert llm.n_cells() == 0
        assert llm.compact(np.zeros((4, 1))) == ERR_UNSUPPORTED
        assert llm.state() == before


@pytest.mark.parametrize("n_ctx", [512, 1024], ids=["short", "long"])
def test_longrope_uses_the_factors_of_the_context_size(n_ctx, tiny, rng):
    compacted(tiny("phi3"), rng, n_ctx=n_ctx)


@pytest.mark.parametrize(("kind", "flash_attn"), [("f16", False), ("f16", True), ("q4_0", True)])
def test_again_and_again(kind, flash_attn, tiny, rng):
    compacted(tiny("qwen3"), rng, times=8, n_pinned=0, type_k=kind, type_v=kind, flash_attn=flash_attn)


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
@pytest.mark.parametrize("flash_attn", [False, True], ids=["fa0", "fa1"])
def test_layers_share_patterns_differently_without_a_batch_between(kind, flash_attn, tiny, rng):
    """Graphs with as many nodes and leafs, the leafs in another order: ggml would keep the plan of the previous one."""
    path = tiny("llama", n_layer=3)
    with Llm(path, type_k=kind, type_v=kind if flash_attn else "f16", flash_attn=flash_attn) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        llm.decode(rng.integers(0, llm.n_vocab, 200))
        for shared in ("aba", "aab", "abb", "aba", "bba"):
            n = llm.n_cells()
            rows = {"a": np.r_[:4, 14:n], "b": np.r_[:4, 9 : n - 5]}
            keep = np.array([rows[name] for name in shared])
            before = parse_seq(llm.state(0)).full
            assert llm.compact(keep) == OK
            check_compacted(before, parse_seq(llm.state(0)).full, keep, layers)


@pytest.mark.parametrize("flash_attn", [False, True], ids=["fa0", "fa1"])
@pytest.mark.parametrize("n_kept", [1, 2, 149, 150])
def test_smallest_and_largest_plans(n_kept, flash_attn, tiny, rng):
    compacted(tiny("llama"), rng, n_kept=n_kept, n_pinned=0, flash_attn=flash_attn)


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_keeping_every_cell_changes_no_byte(kind, tiny, rng):
    with Llm(tiny("llama"), type_k=kind, type_v=kind, flash_attn=True) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 80))
        before = llm.state()
        assert llm.compact(np.tile(np.arange(80), (4, 1))) == OK
        assert llm.state() == before


def test_more_layers_than_fit_into_one_graph(tiny, rng):
    """phi3 has few tensors a layer, so llama.cpp's graphs have little room: 31 of these layers share one."""
    path = tiny("phi3", n_layer=48, n_embd=64, n_head=1, n_head_kv=1, head_dim=64, n_ff=64)
    compacted(path, rng, n=250, n_kept=230, type_k="q8_0", type_v="f16", flash_attn=False, times=2)


@pytest.mark.parametrize("flash_attn", [False, True], ids=["fa0", "fa1"])
def test_a_memory_larger_than_one_block(flash_attn, tiny, rng):
    """Rows of 8 KiB: a block of 8 MiB holds 1,024 of them, and about 1,000 channels of a transposed V."""
    path = tiny("llama", n_layer=1, n_embd=64, n_head=16, n_head_kv=16, head_dim=128)
    compacted(path, rng, n=2200, n_kept=2100, n_ctx=2304, n_ubatch=512, flash_attn=flash_attn, times=2)


@pytest.mark.parametrize("flash_attn", [False, True], ids=["fa0", "fa1"])
def test_positions_with_a_gap(flash_attn, tiny, rng):
    """After llama_memory_seq_rm() in the middle, cells are counted by rank, not by position."""
    path = tiny("qwen3")
    with Llm(path, flash_attn=flash_attn) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        llm.decode(rng.integers(0, llm.n_vocab, 100))
        assert llm.seq_rm(0, 20, 50)
        assert llm.n_cells() == 70
        before = parse_seq(llm.state(0)).full
        keep = random_plan(rng, len(layers), 70, 40, 3)
        assert llm.compact(keep) == OK
        check_compacted(before, parse_seq(llm.state(0)).full, keep, layers)


@pytest.mark.parametrize("flash_attn", [False, True], ids=["fa0", "fa1"])
def test_a_sequence_that_does_not_start_at_zero(flash_attn, tiny, rng):
    path = tiny("llama")
    with Llm(path, flash_attn=flash_attn) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        llm.decode(rng.integers(0, llm.n_vocab, 60), pos=17)
        before = parse_seq(llm.state(0)).full
        assert before.pos[0] == 17
        keep = np.tile(np.arange(60), (len(layers), 1))  # keeps all, moves all
        assert llm.compact(keep) == OK
        check_compacted(before, parse_seq(llm.state(0)).full, keep, layers)


@pytest.mark.parametrize("flash_attn", [False, True], ids=["fa0", "fa1"])
def test_cells_that_lie_in_another_order_than_their_positions(flash_attn, tiny, rng):
    """Freed cells are filled again: later tokens then lie before earlier ones."""
    path = tiny("llama")
    with Llm(path, flash_attn=flash_attn, n_seq=2) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        llm.decode(rng.integers(0, llm.n_vocab, 64), seq=1)
        llm.decode(rng.integers(0, llm.n_vocab, 160), seq=0)
        llm.seq_rm(1)
        llm.decode(rng.integers(0, llm.n_vocab, 60), seq=0)  # wraps to the freed cells
        before = parse_seq(llm.state(0)).full
        for n_kept in (150, 90):
            keep = random_plan(rng, len(layers), len(before.pos), n_kept, 2)
            assert llm.compact(keep) == OK
            after = parse_seq(llm.state(0)).full
            check_compacted(before, after, keep, layers)
            before = after


@pytest.mark.parametrize("drop", [30, 1])
def test_a_shift_that_is_still_queued_is_done_first(drop, tiny, rng):
    """llama_memory_seq_add() only takes note; the rows turn later. Compaction in between must see both."""
    path = tiny("qwen3")
    with Llm(path) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        tokens = rng.integers(0, llm.n_vocab, 100)
        llm.decode(tokens)
        before = parse_seq(llm.state(0)).full
        llm.seq_rm(0, 0, drop)
        llm.seq_add(0, drop, -1, -drop)
        keep = random_plan(rng, len(layers), 100 - drop, 50, 2)
        assert llm.compact(keep) == OK
        # in f32 two rotations are as good as one
        check_compacted(before, parse_seq(llm.state(0)).full, keep + drop, layers)
