"""Turning the keys of every cell by a number of positions of its own, against the numpy oracle."""

from __future__ import annotations

import numpy as np
import pytest
from native.checks import check_shifted, check_turned, random_head_plan, recurrent_state
from native.kv_state import parse_seq
from native.llm import ERR_RANGE, ERR_SHARED, ERR_UNSUPPORTED, KV_TYPES, OK, Llm
from reference.kv_oracle import attention_layers, key_bound, largest, worst
from reference.tiny_forward import TinyForward

from lacache_gguf import native

pytestmark = pytest.mark.native

N, TURN_MAX = 150, 1 << 24
ARCHS = ["llama-hd128", "llama-freqs", "llama-yarn", "smollm3", "qwen2-yarn", "qwen3", "chatglm", "phi2", "phi3"]
KV = [(k, k, True) for k in KV_TYPES] + [(k, "f16", False) for k in KV_TYPES]
HEADS = pytest.mark.parametrize("heads", [False, True], ids=["layer", "head"])


def random_turn(rng, llm: Llm, heads: bool, n_cells: int, largest_turn: int = 100) -> np.ndarray:
    """Turns int32 [n_layer, n_cells] or [n_layer, n_head_kv, n_cells], many of them 0, some layers alike."""
    shape = (llm.n_layer, native.compact_n_head_kv(llm.ctx), n_cells) if heads else (llm.n_layer, n_cells)
    turn = rng.integers(-largest_turn, largest_turn + 1, shape) * (rng.random(shape) < 0.7)
    turn[-1] = turn[0]
    turn[..., n_cells // 2 :] = -7  # what is recent turns by one angle
    return turn.astype(np.int32)


def turned(path, rng, heads, *, n=N, shift=-20, times=1, largest_turn=100, **options):
    with Llm(path, **options) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        llm.decode(rng.integers(0, llm.n_vocab, n), pos=50)
        for _ in range(times):
            before = parse_seq(llm.state(0)).full
            turn = random_turn(rng, llm, heads, n, largest_turn)
            assert llm.turn(turn, shift) == OK
            check_turned(before, parse_seq(llm.state(0)).full, turn, shift, layers)
            assert (llm.n_cells(), llm.pos_next()) == (n, before.pos[-1] + shift + 1)


@HEADS
@pytest.mark.parametrize(("type_k", "type_v", "flash_attn"), KV, ids=lambda value: str(value))
def test_every_kv_type(heads, type_k, type_v, flash_attn, tiny, rng):
    turned(tiny("llama"), rng, heads, times=2, type_k=type_k, type_v=type_v, flash_attn=flash_attn)


@HEADS
@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize(("kind", "flash_attn"), [("f32", False), ("f16", True), ("q8_0", True)])
def test_every_architecture(heads, name, kind, flash_attn, tiny, rng):
    turned(tiny(name), rng, heads, type_k=kind, type_v=kind, flash_attn=flash_attn)


@HEADS
@pytest.mark.parametrize("largest_turn", [1, 5000, 200_000])
def test_small_and_large_turns(heads, largest_turn, tiny, rng):
    turned(tiny("llama"), rng, heads, largest_turn=largest_turn)


@HEADS
def test_a_memory_larger_than_one_block(heads, tiny, rng):
    path = tiny("llama", n_layer=1, n_embd=64, n_head=16, n_head_kv=16, head_dim=128)
    turned(path, rng, heads, n=2200, n_ctx=2304, n_ubatch=512)


@pytest.mark.parametrize("shift", [-50, -1, 0, 1, 1000])
def test_without_a_turn_only_the_table_changes(shift, tiny, rng):
    with Llm(tiny("llama")) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, N), pos=50)
        before = parse_seq(llm.state(0)).full
        assert llm.turn(np.zeros((4, N)), shift) == OK
        after = parse_seq(llm.state(0)).full
        assert after.pos.tolist() == (before.pos + shift).tolist()
        assert all(np.array_equal(a.raw, b.raw) for a, b in zip(before.k + before.v, after.k + after.v, strict=True))


@HEADS
def test_gaps_and_cells_out_of_order(heads, tiny, rng):
    path = tiny("qwen3")
    with Llm(path) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        llm.decode(rng.integers(0, llm.n_vocab, 200))
        llm.seq_rm(0, 20, 90)
        llm.decode(rng.integers(0, llm.n_vocab, 100))
        before = parse_seq(llm.state(0)).full
        turn = random_turn(rng, llm, heads, 230)
        assert llm.turn(turn, 3) == OK
        check_turned(before, parse_seq(llm.state(0)).full, turn, 3, layers)


@HEADS
@pytest.mark.parametrize("name", ["gemma3", "lfm2"])
@pytest.mark.parametrize("shift", [-60, 0, 9])
def test_windows_and_recurrent_states_are_shifted(heads, name, shift, tiny, rng):
    path, n_caches = tiny(name), 2 if name == "gemma3" else 1
    with Llm(path) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        full, window = ([layer for layer in layers if layer.is_swa is swa] for swa in (False, True))
        llm.decode(rng.integers(0, llm.n_vocab, 130))
        keep = random_head_plan(rng, llm.n_layer, full[0].n_head_kv, 130, 70)
        assert llm.thin(keep) == OK  # so that the table begins at 60
        before = parse_seq(llm.state(0), n_caches)
        turn = random_turn(rng, llm, heads, 70)
        assert llm.turn(turn, shift) == OK
        after = parse_seq(llm.state(0), n_caches)
        check_turned(before.full, after.full, turn, shift, full)
        if window:
            check_shifted(before.caches[1], after.caches[1], shift, window)
        else:
            assert recurrent_state(after) == (129 + shift, recurrent_state(before)[1])
        assert llm.pos_next() == 130 + shift
        assert np.isfinite(llm.decode([1, 2])).all()


@HEADS
@pytest.mark.parametrize("unified", [True, False], ids=["unified", "split"])
def test_other_sequences_keep_every_bit(heads, unified, tiny, rng):
    path = tiny("qwen3")
    with Llm(path, n_ctx=512, n_seq=2, unified=unified) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        for seq in (0, 1, 0, 1):
            llm.decode(rng.integers(0, llm.n_vocab, 40), seq=seq)
        blob, before = llm.state(1), parse_seq(llm.state(0)).full
        turn = random_turn(rng, llm, heads, 80)
        assert llm.turn(turn, 5, seq=0) == OK
        assert llm.state(1) == blob
        check_turned(before, parse_seq(llm.state(0)).full, turn, 5, layers)


def test_only_shared_cells_that_change_are_refused(tiny, rng):
    with Llm(tiny("qwen3"), n_seq=2) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 40), seq=0)
        llm.seq_cp(0, 1)
        llm.decode(rng.integers(0, llm.n_vocab, 30), seq=1)
        before = llm.state()
        turn = np.zeros((llm.n_layer, 70), np.int32)
        assert llm.turn(turn, 1, seq=1) == ERR_SHARED
        assert llm.turn(turn, 0, seq=1) == OK  # changes nothing
        turn[1, 39] = 1
        assert llm.turn(turn, 0, seq=1) == ERR_SHARED
        assert llm.state() == before
        blob = llm.state(0)
        turn[1, 39:] = 0, *range(30)
        assert llm.turn(turn, 0, seq=1) == OK
        assert llm.state(0) == blob
        assert llm.state() != before


def test_impossible_turns_and_positions(tiny, rng):
    with Llm(tiny("llama")) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 20), pos=7)
        before = llm.state()
        zero = np.zeros((4, 20), np.int32)
        for shift in (-8, -(2**31), -(2**31) + 1, TURN_MAX - 25, 2**31 - 1):  # newest is 26
            assert llm.turn(zero, shift) == ERR_RANGE
        for value in (TURN_MAX + 1, -TURN_MAX - 1, 2**31 - 1, -(2**31)):
            for turn in (zero.copy(), np.zeros((4, 2, 20), np.int32)):
                turn[..., -1, 19] = value
                assert llm.turn(turn) == ERR_RANGE
        assert llm.state() == before
        assert llm.turn(zero, -7) == OK
        assert llm.turn(zero, TURN_MAX - 19) == OK
        assert llm.pos_next() == TURN_MAX + 1
        assert llm.turn(zero, 1) == ERR_RANGE
        assert llm.turn(zero, -TURN_MAX + 19) == OK
        largest_turn = zero.copy()
        largest_turn[0, 0], largest_turn[1, 1] = TURN_MAX, -TURN_MAX
        assert llm.turn(largest_turn) == OK
        assert np.isfinite(llm.decode([1])).all()


@pytest.mark.parametrize("name", ["deepseek2", "mamba"])
def test_what_cannot_be_compacted_cannot_be_turned(name, tiny):
    with Llm(tiny(name)) as llm:
        llm.decode([1, 2, 3])
        assert llm.turn(np.zeros((4, 3))) == ERR_UNSUPPORTED


@HEADS
@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("name", ["llama", "llama-yarn", "qwen3"])
def test_thinned_and_turned_is_compacted(heads, name, kind, tiny, rng):
    """Into in-cache positions: the same arithmetic for each row, so within twice the bound of one of them."""
    path, n_kept = tiny(name), 70
    tokens, caches = rng.integers(0, 256, N), []
    for thin in (False, True):
        with Llm(path, type_k=kind, type_v=kind, flash_attn=True) as llm:
            layers = attention_layers(path, llm.n_ctx_seq)
            llm.decode(tokens)
            if not caches:
                keep = random_head_plan(rng, llm.n_layer, native.compact_n_head_kv(llm.ctx), N, n_kept, 3)
                keep = keep if heads else keep[:, 0]
            if thin:
                assert llm.thin(keep) == OK
                assert llm.turn(np.arange(n_kept) - keep, n_kept - N) == OK
            else:
                assert llm.compact(keep) == OK
            caches.append(parse_seq(llm.state(0)).full)
    one, two = caches
    assert one.pos.tolist() == two.pos.tolist() == list(range(n_kept))
    for il in range(len(layers)):
        exact, other = one.k[il].values(), two.k[il].values()
        bound = 2 * key_bound(one.k[il].raw, one.k[il].type, exact.astype(np.float64), np.full(n_kept, N))
        assert worst(other, exact, bound) <= 1
        assert np.array_equal(one.v[il].raw, two.v[il].raw)


@HEADS
@pytest.mark.parametrize(("kind", "flash_attn", "tolerance"), [("f32", False, 2e-3), ("f16", True, 0.15)])
@pytest.mark.parametrize("name", ["llama", "llama-yarn", "qwen3"])
def test_the_next_tokens_are_those_of_the_numpy_transformer(heads, name, kind, flash_attn, tolerance, tiny, rng):
    """Thinned with positions kept; then, twice, oldest positions are brought down as a caller would do it."""
    path = tiny(name)
    with Llm(path, type_k=kind, type_v=kind, flash_attn=flash_attn) as llm:
        twin, n_head = TinyForward(path, llm.n_ctx_seq), native.compact_n_head_kv(llm.ctx)
        for times in range(4):
            tokens = rng.integers(0, llm.n_vocab, 45 - llm.n_cells())
            assert largest(llm.decode(tokens) - twin.decode(tokens)) < tolerance
            keep = random_head_plan(rng, llm.n_layer, n_head, 45, 25, 2)
            keep = keep if heads else keep[:, 0]
            assert llm.thin(keep) == OK
            twin.thin(keep)
            if times % 2:
                # every layer and head closes half of its gaps; the newest cell comes down with the table
                pos = np.array([np.stack(rows) for rows in twin.pos]).transpose(0, 2, 1)  # [n_layer, n_head, n_cells]
                pos = pos if heads else pos[:, 0]
                shift = -10
                turn = np.maximum(shift, np.arange(25) - pos)
                assert llm.turn(turn, shift) == OK
                twin.turn(turn, shift)
        tokens = rng.integers(0, llm.n_vocab, 5)
        assert largest(llm.decode(tokens) - twin.decode(tokens)) < tolerance
        assert llm.pos_next() == twin.pos_next
