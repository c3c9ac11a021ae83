"""KeyDiff scores against the numpy oracle: every KV type, every kind of RoPE, any positions; nothing changes."""

from __future__ import annotations

import numpy as np
import pytest
from native.checks import random_head_plan, random_plan
from native.kv_state import parse_seq
from native.llm import (
    ERR_CONTEXT,
    ERR_HEADS,
    ERR_LENGTH,
    ERR_RANGE,
    ERR_SEQ,
    ERR_UNSUPPORTED,
    KV_TYPES,
    OK,
    Llm,
    compaction,
    score_raw,
)
from reference.kv_oracle import attention_layers
from reference.score_oracle import keydiff

from lacache_gguf import native

pytestmark = pytest.mark.native

ARCHS = [
    "llama",
    "llama-hd32",
    "llama-hd96",
    "llama-hd192",
    "llama-freqs",
    "llama-yarn",
    "smollm3",
    "qwen2-yarn",
    "qwen3",
    "chatglm",
    "phi2",
    "phi3",
    "gemma2",
    "gemma3",
    "cohere2",
    "lfm2",
    "jamba",
    "falcon-h1",
]
N_CACHES = {"gemma2": 2, "gemma3": 2, "cohere2": 2}


def check_scores(llm: Llm, layers: list, n_caches: int = 1, seq: int = 0, first: int = 0) -> None:
    """The scores of `seq` from cell `first` on are those of the oracle, and asking for them changes no byte."""
    before = llm.state()
    cache = parse_seq(llm.state(seq), n_caches).full
    scores = native.score_keys(llm.ctx, seq, first)
    assert llm.state() == before
    full = [layer for layer in layers if not layer.is_swa]
    assert scores.shape == (len(full), full[0].n_head_kv, len(cache.pos) - first)
    for il, layer in enumerate(full):
        exact = keydiff(cache.k[il].values()[first:], cache.k[il].type, layer, cache.pos[first:])
        # f32: ggml multiplies angles up step by step, about 4e-7 of at most pos radians; sums of unit vectors
        bound = 2e-5 + 1e-6 * cache.pos.max()
        assert np.abs(scores[il] - exact).max() < bound, f"layer {il}"
        assert np.ptp(exact) > 0.05, "scores that are all alike prove little"


@pytest.mark.parametrize("flash_attn", [False, True], ids=["fa0", "fa1"])
@pytest.mark.parametrize("kind", KV_TYPES)
@pytest.mark.parametrize("name", ["llama", "llama-hd32", "qwen3"])
def test_every_kv_type(name, kind, flash_attn, tiny, rng):
    path = tiny(name)
    with Llm(path, type_k=kind, type_v="f16", flash_attn=flash_attn) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 150))
        check_scores(llm, attention_layers(path, llm.n_ctx_seq))


@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize(("kind", "flash_attn"), [("f32", False), ("f16", True), ("q8_0", True)])
def test_every_architecture(name, kind, flash_attn, tiny, rng):
    path = tiny(name)
    with Llm(path, type_k=kind, type_v=kind, flash_attn=flash_attn, n_ubatch=32) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 150))
        check_scores(llm, attention_layers(path, llm.n_ctx_seq), N_CACHES.get(name, 1))


@pytest.mark.parametrize("first", [0, 1, 31, 32, 33, 100, 145])
@pytest.mark.parametrize(("name", "kind"), [("llama", "f32"), ("qwen3", "q8_0"), ("gemma3", "f16"), ("lfm2", "f16")])
def test_from_a_first_cell_on(name, kind, first, tiny, rng):
    """As if there were no cells before it: the mean is that of the others, too."""
    path = tiny(name)
    with Llm(path, type_k=kind, type_v="f16") as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 150))
        check_scores(llm, attention_layers(path, llm.n_ctx_seq), N_CACHES.get(name, 1), first=first)


@pytest.mark.parametrize(("name", "kind"), [("llama", "f32"), ("qwen3", "f16"), ("llama-hd128", "q8_0")])
def test_behind_the_last_gap_of_a_thinned_sequence(name, kind, tiny, rng):
    """There the table has the positions that the keys were turned by; before it, only the caller knows them."""
    path, n_recent = tiny(name), 70
    with Llm(path, type_k=kind, type_v="f16") as llm:
        layers, n_head = attention_layers(path, llm.n_ctx_seq), native.compact_n_head_kv(llm.ctx)
        for _ in range(3):
            llm.decode(rng.integers(0, llm.n_vocab, 200 - llm.n_cells()))
            old = random_head_plan(rng, len(layers), n_head, 200 - n_recent, 60)
            recent = np.broadcast_to(np.arange(200 - n_recent, 200), (len(layers), n_head, n_recent))
            assert llm.thin(np.concatenate([old, recent], axis=2)) == OK
            check_scores(llm, layers, first=60)


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 64, 100])
def test_any_number_of_cells(n, tiny, rng):
    """Blocks of 32 cells and what is left of them."""
    path = tiny("llama")
    with Llm(path) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, n))
        if n > 4:
            check_scores(llm, attention_layers(path, llm.n_ctx_seq))
        else:
            scores = native.score_keys(llm.ctx)
            assert scores.shape == (llm.n_layer, 2, n)
            assert n > 1 or np.allclose(scores, -1)


def test_after_a_compaction(tiny, rng):
    path = tiny("qwen3")
    with Llm(path, type_k="f16", flash_attn=True) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 200))
        assert llm.compact(random_plan(rng, llm.n_layer, 200, 90)) == OK
        check_scores(llm, attention_layers(path, llm.n_ctx_seq))
        llm.decode(rng.integers(0, llm.n_vocab, 40))
        check_scores(llm, attention_layers(path, llm.n_ctx_seq))


def test_positions_with_gaps_and_a_late_start(tiny, rng):
    path = tiny("qwen3")
    with Llm(path) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 160), pos=17)
        for first in (30, 90, 140):
            assert llm.seq_rm(0, first, first + 7)
        check_scores(llm, attention_layers(path, llm.n_ctx_seq))


def test_cells_that_share_a_position_are_no_block(tiny, rng):
    """Positions 0-9 twice over and a gap: first and last of 32 cells are 31 apart, as in a block."""
    path = tiny("qwen3")
    with Llm(path) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 80))
        llm.seq_div(0, 10, 20, 2)
        llm.decode([1])  # the queued shift runs before the next batch
        pos = parse_seq(llm.state(0)).full.pos
        assert pos[31] - pos[0] == 31
        assert len(set(pos[:32])) < 32
        check_scores(llm, attention_layers(path, llm.n_ctx_seq))


def test_a_shift_that_is_still_queued_is_done_first(tiny, rng):
    path = tiny("qwen3")
    with Llm(path) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 100))
        before = native.score_keys(llm.ctx)
        llm.seq_add(0, 0, -1, 50)
        assert np.abs(native.score_keys(llm.ctx) - before).max() < 1e-4, "keys without their position"


@pytest.mark.parametrize("unified", [True, False], ids=["unified", "split"])
def test_every_sequence_has_its_own(unified, tiny, rng):
    path = tiny("llama")
    with Llm(path, n_ctx=512, n_seq=2, unified=unified) as llm:
        for seq in (0, 1, 0, 1):
            llm.decode(rng.integers(0, llm.n_vocab, 45), seq=seq)
        for seq in (0, 1):
            check_scores(llm, attention_layers(path, llm.n_ctx_seq), seq=seq)


def test_a_memory_larger_than_one_block(tiny, rng):
    """Rows of 8 KiB: a block of 8 MiB holds 1,024 of them, so the keys are read twice. The last layer has no RoPE."""
    path = tiny("smollm3", n_layer=4, n_embd=2048, n_head=16, n_head_kv=16, head_dim=128)
    with Llm(path, n_ctx=2304, n_ubatch=512, flash_attn=True, type_k="f16", type_v="f16") as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 2250))
        check_scores(llm, attention_layers(path, llm.n_ctx_seq))


def test_the_next_tokens_are_the_same_with_and_without_scores(tiny, rng):
    tokens = rng.integers(0, 256, 120)
    logits = []
    for asked in (False, True):
        with Llm(tiny("llama"), type_k="f16", type_v="f16", flash_attn=True) as llm:
            llm.decode(tokens[:80])
            if asked:
                native.score_keys(llm.ctx)
            logits.append(np.concatenate([llm.decode(tokens[80:100])] + [llm.decode([t]) for t in tokens[100:]]))
    assert np.array_equal(*logits)


def test_different_numbers_of_heads_are_refused(tiny, rng):
    with Llm(tiny("openelm")) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 20))
        assert native.compact_n_head_kv(llm.ctx) == 0
        assert score_raw(llm, "keys", 0, np.zeros(80, np.float32), 80) == ERR_HEADS


def test_bad_arguments(tiny, rng):
    with Llm(tiny("llama"), n_seq=2) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 20))
        n = 4 * 2 * 20
        scores = np.full(n + 64, 7, np.float32)
        for seq in (-1, 1, 2, 256, 2**31 - 1, -(2**31)):
            assert score_raw(llm, "keys", seq, scores, n) == ERR_SEQ
        for size in (0, 1, n - 1, n + 1, 2 * n, n // 2, 2**32 + n, 2**64 - 1):
            assert score_raw(llm, "keys", 0, scores, size) == ERR_LENGTH
        assert score_raw(llm, "keys", 0, None, n) == ERR_LENGTH
        assert (scores == 7).all()
        for first in (-1, 20, 21, 2**31 - 1, -(2**31)):
            for size in (0, n, 4 * 2 * ((20 - first) % 2**61)):
                assert score_raw(llm, "keys", 0, scores, size, first) == ERR_RANGE
        for size in (n, 4 * 2 * 17 - 1, 4 * 2 * 17 + 1):
            assert score_raw(llm, "keys", 0, scores, size, 3) == ERR_LENGTH
        assert (scores == 7).all()
        assert score_raw(llm, "keys", 0, scores, 4 * 2 * 17, 3) == OK
        assert (scores[: 4 * 2 * 17] <= 1.001).all()
        assert (scores[4 * 2 * 17 :] == 7).all()
        assert score_raw(llm, "keys", 0, scores, 4 * 2, 19) == OK
        assert (scores[4 * 2 : 4 * 2 * 17] <= 1.001).all()
        assert score_raw(llm, "keys", 0, scores, n) == OK
        assert (scores[n:] == 7).all()
    assert compaction().llama_memory_seq_score_keys(None, 0, 0, None, 0) == ERR_CONTEXT
    assert native.compact_n_head_kv(None) == 0
    with Llm(tiny("mamba")) as llm:
        llm.decode([1, 2])
        assert score_raw(llm, "keys", 0, scores, n) == ERR_UNSUPPORTED
        assert native.compact_n_head_kv(llm.ctx) == 0
