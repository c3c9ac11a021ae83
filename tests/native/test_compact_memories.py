"""Other memories than plain attention: sliding windows, hybrids, and those that are refused with a reason."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
from native.checks import check_compacted, check_shifted, random_plan, recurrent_state
from native.kv_state import parse_seq
from native.llm import ERR_UNSUPPORTED, OK, Llm
from reference.kv_oracle import attention_layers, largest

pytestmark = pytest.mark.native

REFUSED = {
    "deepseek2": "MLA",
    "qwen2vl": "M-RoPE",
    "mamba": "recurrent",
    "hunyuan-dense": "rotat",
    "lfm2-swa": "no layer with full attention",
}
KINDS = pytest.mark.parametrize(
    ("kind", "flash_attn"), [("f32", False), ("f16", True), ("q8_0", True), ("q4_0", True), ("iq4_nl", True)]
)


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "cohere2"])
@pytest.mark.parametrize("swa_full", [True, False], ids=["swa-full", "swa-small"])
@KINDS
def test_sliding_windows_are_shifted(name, swa_full, kind, flash_attn, tiny, rng):
    path = tiny(name)
    options = {"type_k": kind, "type_v": kind, "flash_attn": flash_attn, "swa_full": swa_full, "n_ubatch": 32}
    with Llm(path, **options) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        full, window = ([layer for layer in layers if layer.is_swa is swa] for swa in (False, True))
        assert llm.reason() is None
        assert llm.n_layer == len(full)
        assert len(window) > 0
        for _ in range(6):
            llm.decode(rng.integers(0, llm.n_vocab, 130 - llm.n_cells()))
            before = parse_seq(llm.state(0), n_caches=2).caches
            keep = random_plan(rng, len(full), 130, 70, 3)
            assert llm.compact(keep) == OK
            after = parse_seq(llm.state(0), n_caches=2).caches
            check_compacted(before[0], after[0], keep, full)
            check_shifted(before[1], after[1], 70 - 130, window)
            assert llm.pos_next() == 70


def test_a_window_longer_than_what_is_kept(tiny, rng):
    """The window still held cells that would get a negative position: they have to go."""
    path = tiny("gemma3", n_swa=100)
    with Llm(path) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        full, window = ([layer for layer in layers if layer.is_swa is swa] for swa in (False, True))
        llm.decode(rng.integers(0, llm.n_vocab, 130))
        before = parse_seq(llm.state(0), n_caches=2).caches
        keep = random_plan(rng, len(full), 130, 20)
        assert llm.compact(keep) == OK
        after = parse_seq(llm.state(0), n_caches=2).caches
        check_compacted(before[0], after[0], keep, full)
        check_shifted(before[1], after[1], 20 - 130, window)
        assert len(after[1].pos) == 20
        assert np.isfinite(llm.decode(rng.integers(0, llm.n_vocab, 50))).all()


@pytest.mark.parametrize("unified", [True, False], ids=["unified", "split"])
def test_windows_of_other_sequences_keep_every_bit(unified, tiny, rng):
    with Llm(tiny("gemma3"), n_ctx=512, n_seq=2, unified=unified, swa_full=False) as llm:
        for seq in (0, 1, 0, 1):
            llm.decode(rng.integers(0, llm.n_vocab, 40), seq=seq)
        blob = llm.state(1)
        assert llm.compact(random_plan(rng, llm.n_layer, 80, 30), seq=0) == OK
        assert llm.state(1) == blob


@pytest.mark.parametrize("name", ["lfm2", "jamba", "falcon-h1"])
@KINDS
def test_hybrids_compact_attention_and_keep_the_recurrent_state(name, kind, flash_attn, tiny, rng):
    path = tiny(name)
    with Llm(path, type_k=kind, type_v=kind, flash_attn=flash_attn) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        assert llm.reason() is None
        assert llm.n_layer == len(layers)
        for _ in range(4):
            llm.decode(rng.integers(0, llm.n_vocab, 110 - llm.n_cells()))
            before = parse_seq(llm.state(0))
            keep = random_plan(rng, len(layers), 110, 60, 3)
            assert llm.compact(keep) == OK
            after = parse_seq(llm.state(0))
            check_compacted(before.full, after.full, keep, layers)
            assert recurrent_state(before)[0] == 109
            assert recurrent_state(after)[0] == 59
            assert recurrent_state(before)[1] == recurrent_state(after)[1]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_cannot_be_exact_is_refused_with_a_reason(name, tiny, rng):
    with Llm(tiny(name)) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 30))
        before = llm.state()
        assert REFUSED[name] in llm.reason()
        assert llm.n_layer == 0
        assert llm.n_cells() == 0
        assert llm.compact(np.zeros((4, 1))) == ERR_UNSUPPORTED
        assert llm.state() == before
        assert np.isfinite(llm.decode([1])).all()


@pytest.mark.parametrize("name", [name for name in tiny_models.NAMES if name not in REFUSED])
def test_a_lone_token_moved_to_zero_is_the_token_read_at_zero(name, tiny):
    """No oracle: a token that sees only itself depends on its position through RoPE alone, in every layer.

    So the key it left at position 91 must, moved to 0, be the key it leaves at 0. This finds every architecture whose
    keys are not "something, then the rotation that compaction assumes".
    """
    states = []
    for pos in (0, 91):
        with Llm(tiny(name)) as llm:
            llm.decode([77], pos=pos)
            if pos:
                assert llm.compact(np.zeros((llm.n_layer, 1))) == OK
            n_caches = 2 if name.startswith(("gemma", "cohere2")) else 1
            states.append(parse_seq(llm.state(0), n_caches))
    for fresh, moved in zip(states[0].caches, states[1].caches, strict=True):
        assert fresh.pos.tolist() == moved.pos.tolist() == [0]
        for il in range(len(fresh.k)):
            assert largest(fresh.k[il].values() - moved.k[il].values()) < 2e-4, f"K of layer {il}"
            assert largest(fresh.v[il].values() - moved.v[il].values()) < 2e-4, f"V of layer {il}"
