"""Attention scores against what the model itself computes, and against a transformer in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from native.attention_watch import AttentionWatch, spread_tokens
from native.checks import random_plan
from native.llm import ERR_LENGTH, ERR_QUERY, ERR_SEQ, ERR_UNSUPPORTED, KV_TYPES, OK, Llm, compaction, lib, score_raw
from reference.kv_oracle import attention_layers
from reference.score_oracle import attention_scores
from reference.tiny_forward import TinyForward

from lacache_gguf import native

pytestmark = pytest.mark.native

# grouped queries, softcaps and windows, ALiBi, LongRoPE, layers without RoPE, hybrids
ARCHS = ["llama", "llama-yarn", "qwen3", "gemma2", "gemma3", "cohere2", "smollm3", "phi3", "baichuan-13b", "lfm2",
         "jamba", "falcon-h1"]  # fmt: skip


def watched(llm: Llm, watch: AttentionWatch, full: list[int], n_query: int, spread: bool = False) -> np.ndarray:
    """What the watch saw of the recorded queries, as scores; cells must lie in order of position."""
    n_head_kv = native.compact_n_head_kv(llm.ctx)
    rows = ([row[:, : llm.n_cells()] for row in watch.queries(il, n_query, spread)] for il in full)
    return np.stack([attention_scores(layer, llm.n_cells(), n_head_kv) for layer in rows])


def full_layers(name: str, llm: Llm, path) -> list[int]:
    if name.startswith("baichuan"):
        return list(range(llm.n_layer))
    return [layer.il for layer in attention_layers(path, llm.n_ctx_seq) if not layer.is_swa]


def grow(llm: Llm, rng: np.random.Generator, *steps: int) -> None:
    for n in steps:
        llm.decode(rng.integers(0, llm.n_vocab, n))


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("name", ARCHS)
def test_scores_are_the_models_own_attention(name, kind, tiny, rng):
    path, watch = tiny(name), AttentionWatch()
    with Llm(path, type_k=kind, type_v="f16", n_ubatch=32, cb_eval=watch.callback) as llm:
        assert native.query_reason(llm.ctx) is None
        native.set_n_query(llm.ctx, 16)
        full = full_layers(name, llm, path)
        for steps, n in (((100,), 16), ((1, 1, 1), 16), ((9, 1), 16)):  # a ubatch longer and shorter than the ring
            grow(llm, rng, *steps)
            assert native.n_query(llm.ctx) == n
            scores = native.score_attention(llm.ctx)
            expected = watched(llm, watch, full, n)
            assert scores.shape == expected.shape
            # the same operations on the same numbers; only the order of sums may differ
            assert np.abs(scores - expected).max() < 2e-5
            assert np.abs(scores.sum(axis=2) - 1).max() < 1e-4


@pytest.mark.parametrize("n_query", [1, 2, 7, 16])
@pytest.mark.parametrize("steps", [(100,), (1,) * 90, (60, *(1,) * 70), (3, 5, 9, 2, *(1,) * 20, 6, 16, 1, 1)], ids=len)
def test_queries_spread_over_more_tokens(steps, n_query, tiny, rng):
    path, watch = tiny("qwen3"), AttentionWatch()
    with Llm(path, n_ubatch=64, cb_eval=watch.callback) as llm:
        native.set_n_query(llm.ctx, n_query, spread=True)
        for n in steps:
            grow(llm, rng, n)
            scores = native.score_attention(llm.ctx)
            expected = watched(llm, watch, full_layers("qwen3", llm, path), n_query, spread=True)
            assert np.abs(scores - expected).max() < 2e-5


def test_which_tokens_are_spread():
    assert spread_tokens([128], 8) == [15, 31, 47, 63, 79, 95, 111, 127]
    assert spread_tokens([1] * 112 + [1] * 9, 8) == [0, 32, 48, 64, 80, 96, 112, 120]
    assert spread_tokens([1] * 5, 8) == [0, 1, 2, 3, 4]
    assert spread_tokens([1] * 50, 1) == [49]
    assert spread_tokens([8, 7], 8)[1:] == list(range(8, 15)), "no row is written twice"


@pytest.mark.parametrize("kind", KV_TYPES)
@pytest.mark.parametrize("name", ["llama", "llama-hd32", "qwen3"])
def test_every_kv_type_with_and_without_flash_attention(name, kind, tiny, rng):
    path, watch, tokens = tiny(name), AttentionWatch(), rng.integers(0, 256, 130)
    results = []
    for flash_attn in (False, True):
        options = {"cb_eval": watch.callback} if not flash_attn else {}
        with Llm(path, type_k=kind, type_v="f16", flash_attn=flash_attn, **options) as llm:
            native.set_n_query(llm.ctx, 24)
            llm.decode(tokens)
            results.append(native.score_attention(llm.ctx))
            if not flash_attn:
                expected = watched(llm, watch, full_layers(name, llm, path), 24)
    assert np.abs(results[0] - expected).max() < 2e-5
    # the first layer has the same queries and keys; behind it flash attention has rounded otherwise, and keys of few
    # bits make more of that
    assert np.abs(results[1][0] - expected[0]).max() < 2e-5
    assert np.abs(results[1] - expected).max() < 0.1
    assert np.corrcoef(results[1].ravel(), expected.ravel())[0, 1] > 0.99


@pytest.mark.parametrize("flash_attn", [False, True], ids=["fa0", "fa1"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen2-yarn"])
def test_a_transformer_in_numpy_attends_alike(name, flash_attn, tiny, rng):
    """Also after a compaction, when the recorded queries begin anew."""
    path = tiny(name)
    kind = "f16" if flash_attn else "f32"
    with Llm(path, type_k=kind, type_v=kind, flash_attn=flash_attn) as llm:
        native.set_n_query(llm.ctx, 8)
        twin = TinyForward(path, llm.n_ctx_seq)
        n_head_kv = native.compact_n_head_kv(llm.ctx)

        def step(n: int) -> list[list[np.ndarray]]:
            rows = []
            for token in rng.integers(0, llm.n_vocab, n):
                llm.decode([token])
                twin.decode([token])
                rows.append([layer.copy() for layer in twin.attention])
            return rows

        for n, n_expected in ((40, 8), (5, 5)):
            rows = step(n)[-8:]
            assert native.n_query(llm.ctx) == n_expected
            scores = native.score_attention(llm.ctx)
            for il in range(llm.n_layer):
                expected = attention_scores([row[il] for row in rows], llm.n_cells(), n_head_kv)
                assert np.abs(scores[il] - expected).max() < (0.02 if flash_attn else 1e-4)
            keep = random_plan(rng, llm.n_layer, llm.n_cells(), 25, 2)
            assert llm.compact(keep) == OK
            twin.compact(keep)
            assert native.n_query(llm.ctx) == 0


def test_cells_out_of_order_and_with_gaps(tiny, rng):
    """Freed cells are filled again: queries see cells by position, wherever they lie."""
    path, watch = tiny("qwen3"), AttentionWatch()
    with Llm(path, cb_eval=watch.callback) as llm:
        native.set_n_query(llm.ctx, 12)
        grow(llm, rng, 200)
        llm.seq_rm(0, 20, 90)
        grow(llm, rng, 100)  # beyond the end and into the gap
        n = llm.n_cells()
        assert n == 230
        assert native.n_query(llm.ctx) == 12
        scores = native.score_attention(llm.ctx)
        for il in range(llm.n_layer):
            seen = np.stack(watch.queries(il, 12)).mean(axis=0).reshape(2, -1, 256).mean(axis=1)
            assert np.allclose(np.sort(scores[il]), np.sort(seen)[:, -n:], atol=1e-6), "the same numbers"
            assert np.abs(scores[il][:, :20] - seen[:, :20]).max() < 1e-6
            assert np.abs(scores[il][:, 20:130] - seen[:, 90:200]).max() < 1e-6


def test_more_than_one_block_of_queries(tiny, rng):
    """2,000 cells and 16 heads: a block of 8 MiB holds the products of 65 queries."""
    path, watch = tiny("llama", n_layer=2, n_head=16, n_head_kv=2, head_dim=32), AttentionWatch()
    with Llm(path, n_ctx=2048, n_ubatch=512, cb_eval=watch.callback) as llm:
        native.set_n_query(llm.ctx, 700)
        grow(llm, rng, 2000)
        assert native.n_query(llm.ctx) == 700
        expected = watched(llm, watch, [0, 1], 700)
        assert np.abs(native.score_attention(llm.ctx) - expected).max() < 2e-5


@pytest.mark.parametrize("name", ["llama", "gemma3", "lfm2"])
@pytest.mark.parametrize(("kind", "flash_attn"), [("f16", True), ("f16", False), ("q8_0", True)])
def test_logits_keep_every_bit(name, kind, flash_attn, tiny, rng):
    """Never on, on, and off again; and llama.cpp reuses its graph while on."""
    tokens = rng.integers(0, 256, 150)
    logits, reused = [], []
    for history in ((), (0,), (16,), (7, 0), (3, 100)):
        options = {"type_k": kind, "type_v": kind, "flash_attn": flash_attn, "n_ubatch": 32}
        with Llm(tiny(name), **options) as llm:
            for n_query in history:
                native.set_n_query(llm.ctx, n_query)
            logits.append(np.concatenate([llm.decode(tokens[:100])] + [llm.decode([t]) for t in tokens[100:]]))
            reused.append(lib.llama_perf_context(llm.ctx).n_reused)
            assert native.n_query(llm.ctx) == (min(150, history[-1]) if history else 0)
    assert all(np.array_equal(logits[0], other) for other in logits[1:])
    assert len(set(reused)) == 1
    assert reused[0] > 40


CHANGES = {
    "rm-middle": lambda llm, _: llm.seq_rm(0, 5, 9),
    "rm-end": lambda llm, _: llm.seq_rm(0, 15, -1),
    "add": lambda llm, _: llm.seq_add(0, 3, -1, 4),
    "div": lambda llm, _: lib.llama_memory_seq_div(llm.memory, 0, 8, -1, 2),
    "clear": lambda llm, _: lib.llama_memory_clear(llm.memory, True),
    "restore": lambda llm, states: llm.restore(states[0]),
    "restore-seq": lambda llm, states: llm.restore(states[1], 0),
    "record-anew": lambda llm, _: native.set_n_query(llm.ctx, 10),
    "compact": lambda llm, _: llm.compact(np.tile(np.arange(3), (llm.n_layer, 1))),
}


@pytest.mark.parametrize("change", sorted(CHANGES))
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_what_changes_the_numbering_makes_queries_invalid(name, change, tiny, rng):
    with Llm(tiny(name)) as llm:
        native.set_n_query(llm.ctx, 10)
        grow(llm, rng, 20)
        states = llm.state(), llm.state(0)
        assert native.n_query(llm.ctx) == 10
        native.score_attention(llm.ctx)
        native.score_keys(llm.ctx)
        assert native.n_query(llm.ctx) == 10, "scores change nothing"
        CHANGES[change](llm, states)
        assert native.n_query(llm.ctx) == 0
        if llm.n_cells():
            assert score_raw(llm, "attention", 0, np.zeros(99), 99) == ERR_QUERY
        grow(llm, rng, 3)
        assert native.n_query(llm.ctx) == 3
        assert np.allclose(native.score_attention(llm.ctx).sum(axis=2), 1, atol=1e-5)


def test_bad_arguments(tiny, rng):
    call = compaction().llama_memory_set_n_query
    with Llm(tiny("llama")) as llm:
        grow(llm, rng, 20)
        n = 4 * 2 * 20
        scores = np.full(n + 64, 7, np.float32)
        assert score_raw(llm, "attention", 0, scores, n) == ERR_QUERY, "recording is off"
        for n_query in (-1, -(2**31), llm.n_ctx_seq + 1, 2**31 - 1):
            assert call(llm.ctx, n_query, False) == ERR_QUERY
        assert native.n_query(llm.ctx) == 0
        assert call(llm.ctx, llm.n_ctx_seq, False) == OK
        assert score_raw(llm, "attention", 0, scores, n) == ERR_QUERY, "nothing was recorded yet"
        grow(llm, rng, 1)
        n = 4 * 2 * 21
        for seq in (-1, 1, 2, 256, 2**31 - 1, -(2**31)):
            assert score_raw(llm, "attention", seq, scores, n) == ERR_SEQ
            assert native.n_query(llm.ctx, seq) == 0
        for size in (0, 1, n - 1, n + 1, 2 * n, n // 2, 2**32 + n, 2**64 - 1):
            assert score_raw(llm, "attention", 0, scores, size) == ERR_LENGTH
        assert score_raw(llm, "attention", 0, None, n) == ERR_LENGTH
        assert (scores == 7).all()
        assert score_raw(llm, "attention", 0, scores, n) == OK
        assert (scores[n:] == 7).all()
        assert np.allclose(scores[:n].reshape(-1, 21).sum(axis=1), 1, atol=1e-5)
        lib.llama_set_causal_attn(llm.ctx, False)
        assert "causal" in native.query_reason(llm.ctx)
        assert score_raw(llm, "attention", 0, scores, n) == ERR_QUERY
    assert call(None, 4, False) == -1
    assert compaction().llama_memory_seq_score_attention(None, 0, None, 0) == -1
    assert native.n_query(None) == 0
    assert native.query_reason(None)


@pytest.mark.parametrize(("name", "n_seq", "reason"), [("llama", 2, "one sequence"), ("openelm", 1, "numbers of KV")])
def test_refused_with_a_reason(name, n_seq, reason, tiny, rng):
    with Llm(tiny(name), n_seq=n_seq) as llm:
        assert reason in native.query_reason(llm.ctx)
        with pytest.raises(native.NativeError, match=reason):
            native.set_n_query(llm.ctx, 8)
        native.set_n_query(llm.ctx, 0)  # off is always possible
        grow(llm, rng, 20)
        assert score_raw(llm, "attention", 0, np.zeros(99), 99) == ERR_QUERY


def test_a_model_without_attention(tiny):
    with Llm(tiny("mamba")) as llm:
        assert compaction().llama_memory_set_n_query(llm.ctx, 4, False) == ERR_UNSUPPORTED
        assert score_raw(llm, "attention", 0, None, 0) == ERR_UNSUPPORTED
