"""Thinning: rows move and keep every bit, keys too; the table counts backwards from the newest position."""

from __future__ import annotations

import numpy as np
import pytest
from native.checks import check_thinned, random_head_plan, random_plan, recurrent_state, same_cache
from native.kv_state import parse_seq
from native.llm import ERR_RANGE, ERR_SHARED, ERR_UNSUPPORTED, KV_TYPES, OK, Llm
from reference.kv_oracle import largest
from reference.tiny_forward import TinyForward

from lacache_gguf import native

pytestmark = pytest.mark.native

ARCHS = ["llama-hd128", "llama-freqs", "llama-yarn", "smollm3", "qwen2-yarn", "qwen3", "chatglm", "phi2", "phi3",
         "deci-empty", "openelm"]  # fmt: skip
N_CACHES = {"gemma2": 2, "gemma3": 2, "cohere2": 2}
KV = (
    [(k, k, True) for k in KV_TYPES]
    + [(k, "f16", False) for k in KV_TYPES]
    + [("f32", "f32", False), ("f32", "bf16", False), ("q8_0", "q4_0", True)]
)
HEADS = pytest.mark.parametrize("heads", [False, True], ids=["layer", "head"])
FLASH = pytest.mark.parametrize("flash_attn", [False, True], ids=["fa0", "fa1"])


def plan(rng, llm: Llm, heads: bool, n_cells: int, n_kept: int, n_pinned: int = 0) -> np.ndarray:
    if heads:
        return random_head_plan(rng, llm.n_layer, native.compact_n_head_kv(llm.ctx), n_cells, n_kept, n_pinned)
    return random_plan(rng, llm.n_layer, n_cells, n_kept, n_pinned)


def thinned(path, rng, heads, *, n=150, n_kept=70, n_pinned=4, times=1, **options):
    """Thin random tokens `times` times, growing between: positions go on as if nothing had been dropped."""
    with Llm(path, **options) as llm:
        newest = -1
        for _ in range(times):
            newest += n - llm.n_cells()
            llm.decode(rng.integers(0, llm.n_vocab, n - llm.n_cells()))
            before = parse_seq(llm.state(0)).full
            keep = plan(rng, llm, heads, n, n_kept, n_pinned)
            assert llm.thin(keep) == OK
            assert (llm.n_cells(), llm.pos_min(), llm.pos_next()) == (n_kept, newest - n_kept + 1, newest + 1)
            check_thinned(before, parse_seq(llm.state(0)).full, keep)


@HEADS
@pytest.mark.parametrize(("type_k", "type_v", "flash_attn"), KV, ids=lambda value: str(value))
def test_every_kv_type(heads, type_k, type_v, flash_attn, tiny, rng):
    thinned(tiny("llama"), rng, heads, times=2, type_k=type_k, type_v=type_v, flash_attn=flash_attn)


@HEADS
@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize(("kind", "flash_attn"), [("f16", False), ("q8_0", True)])
def test_every_architecture(heads, name, kind, flash_attn, tiny, rng):
    if heads and name in ("openelm", "deci-empty"):  # heads that differ by layer
        heads = False
    type_v = kind if flash_attn else "f16"
    thinned(tiny(name), rng, heads, type_k=kind, type_v=type_v, flash_attn=flash_attn)


@HEADS
@pytest.mark.parametrize(("kind", "flash_attn"), [("f16", False), ("q4_0", True)])
def test_again_and_again(heads, kind, flash_attn, tiny, rng):
    thinned(tiny("qwen3"), rng, heads, times=12, n_pinned=0, type_k=kind, type_v=kind, flash_attn=flash_attn)


@HEADS
@FLASH
@pytest.mark.parametrize("n_kept", [1, 2, 149])
def test_smallest_and_largest_plans(heads, flash_attn, n_kept, tiny, rng):
    thinned(tiny("llama"), rng, heads, n_kept=n_kept, n_pinned=0, flash_attn=flash_attn)


@HEADS
@FLASH
def test_a_memory_larger_than_one_block(heads, flash_attn, tiny, rng):
    path = tiny("llama", n_layer=1, n_embd=64, n_head=16, n_head_kv=16, head_dim=128)
    thinned(path, rng, heads, n=2200, n_kept=2100, n_ctx=2304, n_ubatch=512, flash_attn=flash_attn, times=2)


def test_keeping_every_cell_changes_no_byte(tiny, rng):
    with Llm(tiny("llama")) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 80))
        before = llm.state()
        assert llm.thin(np.tile(np.arange(80), (4, 1))) == OK
        assert llm.state() == before


@HEADS
@FLASH
def test_gaps_and_cells_out_of_order(heads, flash_attn, tiny, rng):
    """What upstream removed is a gap in the table; thinning closes it there, and turns no key."""
    with Llm(tiny("qwen3"), flash_attn=flash_attn) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 200), pos=11)
        llm.seq_rm(0, 40, 110)
        llm.decode(rng.integers(0, llm.n_vocab, 100))  # fills the gap: later tokens lie before earlier ones
        before = parse_seq(llm.state(0)).full
        for n_kept in (230, 180, 90):
            keep = plan(rng, llm, heads, llm.n_cells(), n_kept, 2)
            assert llm.thin(keep) == OK
            after = parse_seq(llm.state(0)).full
            check_thinned(before, after, keep)
            assert llm.pos_next() == 311
            before = after


@HEADS
@pytest.mark.parametrize("name", ["gemma3", "cohere2", "lfm2", "falcon-h1"])
@pytest.mark.parametrize(("kind", "flash_attn"), [("f16", False), ("q8_0", True)])
def test_windows_and_recurrent_states_are_not_touched(heads, name, kind, flash_attn, tiny, rng):
    n_caches = N_CACHES.get(name, 1)
    type_v = kind if flash_attn else "f16"
    with Llm(tiny(name), type_k=kind, type_v=type_v, flash_attn=flash_attn, n_ubatch=32) as llm:
        for times in range(3):
            llm.decode(rng.integers(0, llm.n_vocab, 130 - llm.n_cells()))
            before = parse_seq(llm.state(0), n_caches)
            keep = plan(rng, llm, heads, 130, 70, 3)
            assert llm.thin(keep) == OK
            after = parse_seq(llm.state(0), n_caches)
            check_thinned(before.full, after.full, keep)
            assert after.rest == before.rest
            if n_caches == 2:
                assert len(before.caches[1].pos) > 0
                assert same_cache(before.caches[1], after.caches[1])
            else:
                assert recurrent_state(after)[0] == 129 + 60 * times


@HEADS
@pytest.mark.parametrize("unified", [True, False], ids=["unified", "split"])
@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
def test_other_sequences_keep_every_bit(heads, unified, name, tiny, rng):
    n_caches = N_CACHES.get(name, 1)
    with Llm(tiny(name), n_ctx=768, n_seq=3, unified=unified, type_k="f16", type_v="f16") as llm:
        for seq in (0, 1, 2, 1, 0, 2, 1):
            llm.decode(rng.integers(0, llm.n_vocab, 20 + seq), seq=seq)
        newest = [llm.pos_next(seq) for seq in range(3)]
        for seq, n_kept in ((1, 30), (2, 25), (1, 11), (0, 39)):
            blobs = [llm.state(i) for i in range(3)]
            before = parse_seq(blobs[seq], n_caches).full
            keep = plan(rng, llm, heads, len(before.pos), n_kept, 2)
            assert llm.thin(keep, seq=seq) == OK
            assert all(llm.state(i) == blobs[i] for i in range(3) if i != seq)
            check_thinned(before, parse_seq(llm.state(seq), n_caches).full, keep)
        assert [llm.pos_next(seq) for seq in range(3)] == newest


def test_a_shared_prefix_would_be_renumbered(tiny, rng):
    with Llm(tiny("qwen3"), n_seq=2) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 40), seq=0)
        llm.seq_cp(0, 1)
        llm.decode(rng.integers(0, llm.n_vocab, 30), seq=1)
        before = llm.state()
        assert llm.thin(np.tile(np.r_[:40, 45:70], (4, 1)), seq=1) == ERR_SHARED  # other positions, no row moves
        assert llm.thin(np.tile(np.arange(69), (4, 1)), seq=1) == ERR_SHARED
        assert llm.state() == before
        assert llm.thin(np.tile(np.arange(70), (4, 1)), seq=1) == OK
        assert llm.state() == before
        llm.seq_rm(0)
        assert llm.thin(np.tile(np.arange(69), (4, 1)), seq=1) == OK


def test_several_cells_at_one_position(tiny, rng):
    """llama_memory_seq_div() makes them; counting backwards would end below 0."""
    with Llm(tiny("llama")) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 60))
        llm.seq_div(0, 0, -1, 4)  # newest is 14
        assert llm.decode([1]).shape[0] == 1  # the queued shift runs
        before = llm.state()
        assert llm.thin(np.tile(np.arange(17), (4, 1))) == ERR_RANGE
        assert llm.state() == before
        assert llm.thin(np.tile(np.arange(16), (4, 1))) == OK
        assert (llm.pos_min(), llm.pos_next()) == (0, 16)


@pytest.mark.parametrize("name", ["deepseek2", "mamba"])
def test_what_cannot_be_compacted_cannot_be_thinned(name, tiny):
    with Llm(tiny(name)) as llm:
        llm.decode([1, 2, 3])
        assert llm.thin(np.zeros((4, 1))) == ERR_UNSUPPORTED


@HEADS
@pytest.mark.parametrize(
    ("kind", "flash_attn", "tolerance"), [("f32", False, 2e-3), ("f16", False, 0.1), ("f16", True, 0.15)]
)
@pytest.mark.parametrize("name", ["llama", "llama-freqs", "llama-yarn", "qwen2", "qwen3"])
def test_the_next_tokens_are_those_of_a_memory_with_original_positions(
    heads, name, kind, flash_attn, tolerance, tiny, rng
):
    path = tiny(name)
    with Llm(path, type_k=kind, type_v=kind, flash_attn=flash_attn) as llm:
        twin = TinyForward(path, llm.n_ctx_seq)
        for _ in range(4):
            tokens = rng.integers(0, llm.n_vocab, 45 - llm.n_cells())
            assert largest(llm.decode(tokens) - twin.decode(tokens)) < tolerance
            keep = plan(rng, llm, heads, 45, 25, 2)
            assert llm.thin(keep) == OK
            twin.thin(keep)
        assert llm.pos_next() == twin.pos_next == 45 + 3 * 20


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "lfm2"])
@pytest.mark.parametrize("kind", ["f16", "q4_0"])
def test_saved_and_restored_memory_answers_the_same(name, kind, tiny, rng):
    options = {"type_k": kind, "type_v": kind, "flash_attn": True}
    with Llm(tiny(name), **options) as llm, Llm(tiny(name), **options) as fresh:
        tokens = rng.integers(0, llm.n_vocab, 150)
        llm.decode(tokens[:120])
        assert llm.thin(random_plan(rng, llm.n_layer, 120, 50, 3)) == OK
        fresh.restore(llm.state())
        assert fresh.pos_next() == 120
        differences = [largest(llm.decode([token]) - fresh.decode([token])) for token in tokens[120:]]
        if name == "gemma3":  # the visible part of a window is restored in other cells, thinned or not
            assert max(differences) < 0.02
        else:
            assert max(differences) == 0
            assert fresh.state(0) == llm.state(0)


def test_the_newest_cells_can_be_taken_back(tiny, rng):
    """Behind the last gap the table has the true positions: what was read there can be removed and read again."""
    with Llm(tiny("qwen3")) as llm:
        tokens = rng.integers(0, llm.n_vocab, 110)
        llm.decode(tokens[:100])
        keep = np.concatenate([random_plan(rng, llm.n_layer, 60, 20), np.tile(np.r_[60:100], (llm.n_layer, 1))], axis=1)
        assert llm.thin(keep) == OK
        before, cells = llm.decode(tokens[100:]), parse_seq(llm.state(0)).full
        assert llm.seq_rm(0, 90, -1)
        assert (llm.n_cells(), llm.pos_next()) == (50, 90)
        check_thinned(cells, parse_seq(llm.state(0)).full, np.tile(np.r_[:50], (llm.n_layer, 1)), newest=89)
        llm.seq_rm(0)
        llm.decode(tokens[:100])
        assert llm.thin(keep) == OK
        for n in (10, 3):
            assert llm.decode(tokens[100 : 100 + n]).shape[0] == n
            assert llm.seq_rm(0, 100, -1)
        assert largest(llm.decode(tokens[100:]) - before) < 1e-3
