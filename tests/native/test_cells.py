"""How many cells a memory gets: what was asked for, in steps of `cell_step`, and the last one can be used."""

from __future__ import annotations

import pytest
from native.checks import check_compacted, random_plan
from native.kv_state import parse_seq
from native.llm import OK, Llm
from reference.kv_oracle import attention_layers, largest

from lacache_gguf import native
from lacache_gguf.devices import cell_step, devices

pytestmark = pytest.mark.native


def test_the_step_is_small_where_only_cpus_compute():
    has_gpu = any(device.type not in ("cpu", "accel") for device in devices())
    assert native.cell_step() == cell_step() == (256 if has_gpu else 32)


@pytest.mark.parametrize("n_ctx", [1, 31, 32, 33, 96, 255, 256, 257, 1000])
def test_as_many_cells_as_asked_for(n_ctx, tiny):
    with Llm(tiny("llama"), n_ctx=n_ctx) as llm, Llm(tiny("llama"), n_ctx=n_ctx, stock_cells=True) as stock:
        assert llm.n_ctx == -(-n_ctx // cell_step()) * cell_step()
        assert stock.n_ctx == -(-n_ctx // 256) * 256, "who does not ask gets what llama.cpp gives"


def test_several_sequences_share_what_llama_cpp_gives(tiny):
    for unified in (True, False):
        with Llm(tiny("llama"), n_ctx=300, n_seq=2, unified=unified) as llm:
            assert llm.n_ctx == 512


def test_nothing_and_no_model(tiny):
    """0 is the trained context, as upstream."""
    with Llm(tiny("llama"), n_ctx=0) as llm, Llm(tiny("llama"), n_ctx=0, stock_cells=True) as stock:
        assert llm.n_ctx == stock.n_ctx
    assert not native.init_from_model(None, native.load().llama_context_default_params())


@pytest.mark.skipif("native.load_error() or native.cell_step() == 256")
@pytest.mark.parametrize(("kind", "flash_attn"), [("f32", False), ("f16", True), ("q8_0", True), ("q4_0", True)])
@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_the_last_cell_is_used_and_means_the_same(name, kind, flash_attn, tiny, rng):
    """96 cells compute what 256 do, are refused a 97th, and go on after a compaction."""
    path, options = tiny(name), {"type_k": kind, "type_v": kind, "flash_attn": flash_attn, "n_ubatch": 32}
    with Llm(path, n_ctx=96, **options) as llm, Llm(path, **options) as large:
        tokens = rng.integers(0, llm.n_vocab, 96)
        assert largest(llm.decode(tokens) - large.decode(tokens)) < 1e-5
        with pytest.raises(RuntimeError, match="returned 1"):
            llm.decode(tokens[:1])
        layers = [layer for layer in attention_layers(path, llm.n_ctx_seq) if not layer.is_swa]
        keep = random_plan(rng, len(layers), 96, 40)
        n_caches = 2 if name == "gemma3" else 1
        before = parse_seq(llm.state(0), n_caches=n_caches).caches
        assert llm.compact(keep) == large.compact(keep) == OK
        check_compacted(before[0], parse_seq(llm.state(0), n_caches=n_caches).caches[0], keep, layers)
        more = rng.integers(0, llm.n_vocab, 56)
        assert largest(llm.decode(more) - large.decode(more)) < 1e-5
