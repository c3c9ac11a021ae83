"""Plans per KV head against the numpy oracle: every head is compacted as if it were a cache of its own."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from native.checks import check_compacted_heads, check_shifted, random_head_plan, random_plan, recurrent_state
from native.kv_state import parse_seq
from native.llm import ERR_HEADS, ERR_LENGTH, ERR_ORDER, ERR_RANGE, ERR_SHARED, KV_TYPES, OK, Llm
from reference.kv_oracle import attention_layers
from reference.tiny_forward import TinyForward

from lacache_gguf import native
from lacache_gguf.gguf_header import read_header
from lacache_gguf.kv_budget import KvGeometry

pytestmark = pytest.mark.native

ARCHS = ["llama", "llama-hd128", "llama-freqs", "llama-yarn", "smollm3", "qwen2-yarn", "qwen3", "chatglm", "phi2",
         "phi3"]  # fmt: skip
KV = (
    [(k, k, True) for k in KV_TYPES]
    + [(k, "f16", False) for k in KV_TYPES]
    + [("f32", "f32", False), ("f32", "bf16", False), ("q8_0", "q4_0", True), ("f16", "q8_0", True)]
)


def compacted(path, rng, *, n=150, n_kept=70, n_pinned=4, times=1, **options):
    """Compact random tokens `times` times by random plans per head, growing between; check every step."""
    with Llm(path, **options) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        assert native.compact_head_reason(llm.ctx) is None
        n_head = native.compact_n_head_kv(llm.ctx)
        assert n_head == layers[0].n_head_kv > 1
        for _ in range(times):
            llm.decode(rng.integers(0, llm.n_vocab, n - llm.n_cells()))
            before = parse_seq(llm.state(0)).full
            keep = random_head_plan(rng, len(layers), n_head, n, n_kept, n_pinned)
            assert llm.compact(keep) == OK
            assert (llm.n_cells(), llm.pos_min(), llm.pos_next()) == (n_kept, 0, n_kept)
            check_compacted_heads(before, parse_seq(llm.state(0)).full, keep, layers)


@pytest.mark.parametrize(("type_k", "type_v", "flash_attn"), KV, ids=lambda value: str(value))
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_every_kv_type(name, type_k, type_v, flash_attn, tiny, rng):
    compacted(tiny(name, n_head_kv=4), rng, type_k=type_k, type_v=type_v, flash_attn=flash_attn)


@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize(("kind", "flash_attn"), [("f32", False), ("f16", True), ("q8_0", True)])
def test_every_architecture(name, kind, flash_attn, tiny, rng):
    compacted(tiny(name), rng, type_k=kind, type_v=kind, flash_attn=flash_attn)


@pytest.mark.parametrize("kind", KV_TYPES)
@pytest.mark.parametrize("name", ["llama-hd32", "llama-hd96", "llama-hd192"])
def test_heads_that_share_a_block_or_a_word_are_refused(name, kind, tiny, rng):
    """32 elements of q8_0 are 34 bytes: not a whole number of 32-bit words. What is not refused is right."""
    n_values, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]]
    options = {"type_k": kind, "type_v": kind, "flash_attn": True}
    geometry = KvGeometry.from_metadata(read_header(tiny(name, n_head_kv=2)).metadata)
    assert geometry.heads_can_part(kind, kind) == (int(name[8:]) // n_values * n_bytes % 4 == 0)
    if int(name[8:]) // n_values * n_bytes % 4 == 0:
        compacted(tiny(name, n_head_kv=2), rng, **options)
        return
    with Llm(tiny(name, n_head_kv=2), **options) as llm:
        llm.decode([1, 2, 3])
        before = llm.state()
        assert "4 bytes" in native.compact_head_reason(llm.ctx)
        assert llm.compact(np.zeros((4, 2, 1))) == ERR_HEADS
        assert llm.state() == before
        assert llm.compact(np.zeros((4, 1))) == OK


@pytest.mark.parametrize(("kind", "flash_attn"), [("f16", False), ("f16", True), ("q4_0", True)])
def test_again_and_again(kind, flash_attn, tiny, rng):
    compacted(tiny("qwen3"), rng, times=8, n_pinned=0, type_k=kind, type_v=kind, flash_attn=flash_attn)


@pytest.mark.parametrize("flash_attn", [False, True], ids=["fa0", "fa1"])
@pytest.mark.parametrize("n_kept", [1, 2, 149, 150])
def test_smallest_and_largest_plans(n_kept, flash_attn, tiny, rng):
    compacted(tiny("llama"), rng, n_kept=n_kept, n_pinned=0, flash_attn=flash_attn)


@pytest.mark.parametrize("flash_attn", [False, True], ids=["fa0", "fa1"])
def test_a_memory_larger_than_one_block(flash_attn, tiny, rng):
    """2,200 cells of 16 heads of 128: more than four blocks of rows, and of heads of a transposed V."""
    path = tiny("llama", n_layer=1, n_embd=64, n_head=16, n_head_kv=16, head_dim=128)
    compacted(path, rng, n=2200, n_kept=2100, n_ctx=2304, n_ubatch=512, flash_attn=flash_attn, times=2)


@pytest.mark.parametrize(("kind", "flash_attn"), [("f32", False), ("f16", True), ("q8_0", True), ("q8_0", False)])
def test_equal_heads_are_a_plan_per_layer(kind, flash_attn, tiny, rng):
    """Bit for bit, also of the tokens that follow."""
    tokens = rng.integers(0, 256, 160)
    keep = random_plan(rng, 4, 150, 60, 2)
    results = []
    for plan in (keep, np.repeat(keep[:, None], 2, axis=1)):
        type_v = kind if flash_attn else "f16"
        with Llm(tiny("qwen3"), type_k=kind, type_v=type_v, flash_attn=flash_attn) as llm:
            llm.decode(tokens[:150])
            assert llm.compact(plan) == OK
            results.append((llm.state(), llm.decode(tokens[150:])))
    assert results[0][0] == results[1][0]
    assert np.array_equal(results[0][1], results[1][1])


@pytest.mark.parametrize("flash_attn", [False, True], ids=["fa0", "fa1"])
def test_gaps_and_cells_out_of_order(flash_attn, tiny, rng):
    path = tiny("qwen3")
    with Llm(path, flash_attn=flash_attn) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        llm.decode(rng.integers(0, llm.n_vocab, 200))
        llm.seq_rm(0, 20, 90)
        llm.decode(rng.integers(0, llm.n_vocab, 100))  # fills the gap: later tokens lie before earlier ones
        before = parse_seq(llm.state(0)).full
        for n_kept in (180, 90):
            keep = random_head_plan(rng, llm.n_layer, 2, llm.n_cells(), n_kept, 2)
            assert llm.compact(keep) == OK
            after = parse_seq(llm.state(0)).full
            check_compacted_heads(before, after, keep, layers)
            before = after


@pytest.mark.parametrize("name", ["gemma3", "lfm2"])
@pytest.mark.parametrize(("kind", "flash_attn"), [("f32", False), ("f16", True), ("q8_0", True)])
def test_windows_and_recurrent_states(name, kind, flash_attn, tiny, rng):
    path = tiny(name)
    with Llm(path, type_k=kind, type_v=kind, flash_attn=flash_attn, n_ubatch=32) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        full, window = ([layer for layer in layers if layer.is_swa is swa] for swa in (False, True))
        for _ in range(3):
            llm.decode(rng.integers(0, llm.n_vocab, 130 - llm.n_cells()))
            before = parse_seq(llm.state(0), 1 + bool(window))
            keep = random_head_plan(rng, len(full), full[0].n_head_kv, 130, 70, 3)
            assert llm.compact(keep) == OK
            after = parse_seq(llm.state(0), 1 + bool(window))
            check_compacted_heads(before.full, after.full, keep, full)
            if window:
                check_shifted(before.caches[1], after.caches[1], 70 - 130, window)
            else:
                assert recurrent_state(before)[1] == recurrent_state(after)[1]


@pytest.mark.parametrize(("kind", "flash_attn"), [("f32", False), ("f16", True), ("f16", False)])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_the_next_tokens_are_those_of_the_numpy_transformer(name, kind, flash_attn, tiny, rng):
    path = tiny(name)
    with Llm(path, type_k=kind, type_v=kind, flash_attn=flash_attn) as llm:
        twin = TinyForward(path, llm.n_ctx_seq)
        for _ in range(2):
            tokens = rng.integers(0, llm.n_vocab, 40 - llm.n_cells())
            difference = np.abs(llm.decode(tokens) - twin.decode(tokens)).max()
            assert difference < (2e-3 if kind == "f32" else 0.1)
            keep = random_head_plan(rng, llm.n_layer, 2, 40, 25, 2)
            assert llm.compact(keep) == OK
            twin.compact(keep)


def test_bad_heads(tiny, rng):
    with Llm(tiny("llama"), n_seq=2) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 50))
        llm.seq_cp(0, 1, 0, 30)
        before = llm.state()
        good = np.tile(np.arange(20, dtype=np.int32), (4, 2, 1))

        def status(keep: np.ndarray, n_head: int = 2, n_keep: int = 160) -> int:
            return llm.raw("compact", 0, np.ascontiguousarray(keep, np.int32), n_keep, 4, 20, n_head)

        for n_head in (0, -1, 3, 4, 2**31 - 1, -(2**31)):
            assert status(good, n_head) == ERR_HEADS
        for n_keep in (0, 80, 159, 161, 2**32 + 160, 2**64 - 1):
            assert status(good, 2, n_keep) == ERR_LENGTH
        assert status(good, 1, 160) == ERR_LENGTH
        for entry, value, expected in ((19, 50, ERR_RANGE), (0, -1, ERR_RANGE), (7, 8, ERR_ORDER)):
            bad = good.copy()
            bad[3, 1, entry] = value
            assert status(bad) == expected
        shared = good.copy()
        shared[2, 1, 10:] += 20  # cell 10 would change in one head, and belongs to sequence 1 too
        assert status(shared) == ERR_SHARED
        assert llm.state() == before
        assert status(good) == OK
    assert native.compact_head_reason(None)


def test_different_numbers_of_heads_are_refused(tiny, rng):
    with Llm(tiny("openelm")) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 20))
        assert "different numbers" in native.compact_head_reason(llm.ctx)
        assert not KvGeometry.from_metadata(read_header(tiny("openelm")).metadata).heads_can_part("f16", "f16")
        assert llm.compact(np.zeros((4, 2, 1))) == ERR_HEADS
