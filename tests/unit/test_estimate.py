"""estimate and load_choice: bytes on devices, fits or not, and the words for it. The real allocations are compared in
tests/model/test_estimate.py."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lacache_app.estimate import (
    FreeMemory,
    Load,
    ModelShape,
    compute_bytes,
    estimate,
    free_memory,
    kv_bytes,
    load_for,
    query_bytes,
    ram,
    size_text,
)
from loopback_hub import gguf_bytes

from lacache_gguf.kv_budget import KvGeometry, KvLayer
from lacache_gguf.policies import H2O, Cascade, KeyDiff, Ladder, Salience

MIB, GIB = 2**20, 2**30
LAYER = KvLayer(n_head_kv=8, n_embd_head_k=128, n_embd_head_v=128)
EIGHT_B = ModelShape(
    KvGeometry((LAYER,) * 32, n_layer=32, n_ctx_train=131072),
    weights_bytes=4_700_000_000,
    n_vocab=128256,
    n_embd=4096,
    n_ff=14336,
    n_head=32,
)


def ram_of(n_bytes: int) -> list[FreeMemory]:
    return [FreeMemory("RAM", n_bytes, n_bytes * 2)]


def test_kv_memory_is_the_exact_arithmetic():
    assert kv_bytes(EIGHT_B, Load(8192)) == GIB, "128 KiB a cell"
    assert kv_bytes(EIGHT_B, Load(8192, type_k="q8_0", type_v="q4_0")) == EIGHT_B.geometry.bytes(
        8192, 512, "q8_0", "q4_0"
    )


def test_queries_are_recorded_beside_the_kv_memory():
    load = Load(8192)
    assert query_bytes(EIGHT_B, load) == query_bytes(EIGHT_B, load_for(Ladder(16), load)) == 0
    assert query_bytes(EIGHT_B, load_for(H2O(), load)) == 64 * MIB, "128 queries of 32 heads of 128 in 32 layers"
    assert query_bytes(EIGHT_B, load_for(Salience(n_query=16), load)) == 8 * MIB
    assert query_bytes(EIGHT_B, load_for(Salience(attention=0), load)) == 0
    windowed = dataclasses.replace(LAYER, is_swa=True)
    half = dataclasses.replace(EIGHT_B, geometry=KvGeometry((LAYER, windowed) * 16, 32, 131072, n_swa=512))
    assert query_bytes(half, load_for(H2O(), load)) == 32 * MIB, "layers that a plan has"
    per_head = compute_bytes(EIGHT_B, load_for(KeyDiff(), load)) - compute_bytes(EIGHT_B, load)
    assert per_head == 8 * 7 * 32 * 8192, "which token lies where, for each of 8 heads"
    carried = compute_bytes(EIGHT_B, load_for(Cascade(), load)) - compute_bytes(EIGHT_B, load_for(KeyDiff(), load))
    assert carried == 4 * 8 * 32 * 8192
    found = estimate(EIGHT_B, load_for(H2O(), load), ram_of(20 * GIB))
    assert "KV memory 1 GiB, records of attention 64 MiB, work buffers" in found.text
    devices = [*ram_of(20 * GIB), FreeMemory("CUDA0", 8 * GIB, 8 * GIB)]
    shares = estimate(EIGHT_B, load_for(H2O(), dataclasses.replace(load, n_gpu_layers=8)), devices).shares
    assert [share.query_bytes for share in shares] == [48 * MIB, 16 * MIB]


def test_it_fits():
    found = estimate(EIGHT_B, Load(8192), ram_of(20 * GIB))
    [share] = found.shares
    assert found.fits
    assert (share.weights_bytes, share.kv_bytes) == (4_700_000_000, GIB)
    assert share.need_bytes == found.need_bytes
    assert found.text.startswith("needs 5.6 GiB of RAM (weights 4.4 GiB, KV memory 1 GiB, work buffers ")
    assert found.text.endswith("20 GiB are free: fits.")


def test_nearly_all_of_it_is_said_to_be_tight():
    need = estimate(EIGHT_B, Load(8192), ram_of(20 * GIB)).need_bytes
    found = estimate(EIGHT_B, Load(8192), ram_of(int(need * 1.05)))
    assert found.fits
    assert found.text.endswith("fits, but only just.")


def test_too_large_a_budget_names_the_largest_that_fits():
    found = estimate(EIGHT_B, Load(32768), ram_of(7 * GIB))
    assert not found.fits
    n_mib = found.largest_kv_bytes // MIB
    assert f"does not fit: lower the budget to {n_mib:,} MiB or choose a smaller quantization." in found.text
    n_cells = EIGHT_B.geometry.cells_for(found.largest_kv_bytes)
    assert estimate(EIGHT_B, Load(n_cells), ram_of(7 * GIB)).fits
    assert not estimate(EIGHT_B, Load(n_cells + 256), ram_of(7 * GIB)).fits, "not one step more"


def test_weights_alone_do_not_fit():
    found = estimate(EIGHT_B, Load(1024), ram_of(4 * GIB))
    assert found.largest_kv_bytes == 0
    assert found.text.endswith("does not fit: choose a smaller quantization.")


def test_unknown_free_memory_is_said():
    found = estimate(EIGHT_B, Load(1024), [FreeMemory("RAM", 0)])
    assert found.fits
    assert "how much is free there is unknown" in found.text


def test_layers_on_a_gpu_lie_there_with_their_cells():
    devices = [*ram_of(20 * GIB), FreeMemory("CUDA0 (a card)", 8 * GIB, 8 * GIB)]
    all_there = estimate(EIGHT_B, Load(8192), devices)
    assert [share.device.name for share in all_there.shares] == ["RAM", "CUDA0 (a card)"]
    assert all_there.shares[0].kv_bytes == 0
    assert all_there.shares[1].kv_bytes == GIB
    half = estimate(EIGHT_B, Load(8192, n_gpu_layers=16), devices)
    assert half.shares[1].kv_bytes == GIB // 2
    assert half.shares[0].weights_bytes + half.shares[1].weights_bytes == EIGHT_B.weights_bytes
    assert len(estimate(EIGHT_B, Load(8192, n_gpu_layers=0), devices).shares) == 1
    too_much = estimate(EIGHT_B, Load(65536), devices)
    assert "put fewer layers on the GPU" in too_much.text


def test_two_gpus_share_by_what_is_free_there():
    devices = [*ram_of(20 * GIB), FreeMemory("CUDA0", 12 * GIB), FreeMemory("CUDA1", 4 * GIB)]
    _ram, first, second = estimate(EIGHT_B, Load(8192), devices).shares
    assert first.weights_bytes == pytest.approx(3 * second.weights_bytes, rel=0.001)


@given(
    n_cells=st.integers(1, 512).map(lambda n: n * 256),
    n_ubatch=st.sampled_from([1, 64, 512, 2048]),
    flash=st.sampled_from([None, True, False]),
)
def test_more_never_needs_less(n_cells, n_ubatch, flash):
    load = Load(n_cells, n_ubatch, flash_attn=flash)
    assert compute_bytes(EIGHT_B, load) <= compute_bytes(EIGHT_B, dataclasses.replace(load, n_cells=n_cells + 256))
    assert compute_bytes(EIGHT_B, load) <= compute_bytes(EIGHT_B, dataclasses.replace(load, n_ubatch=n_ubatch * 2))
    assert compute_bytes(EIGHT_B, dataclasses.replace(load, flash_attn=True)) <= compute_bytes(EIGHT_B, load)


def test_the_shape_is_read_from_the_file(tmp_path):
    metadata = {
        "llama.block_count": 2,
        "llama.embedding_length": 64,
        "llama.attention.head_count": [4, 2],
        "llama.attention.head_count_kv": 2,
        "llama.feed_forward_length": 128,
        "llama.expert_used_count": 4,
        "llama.expert_feed_forward_length": 96,
        "llama.vocab_size": 777,
        "llama.context_length": 512,
    }
    for i in (1, 2):
        (tmp_path / f"m-{i:05d}-of-00002.gguf").write_bytes(gguf_bytes(pad=1000 * i, metadata=metadata))
    shape = ModelShape.from_file(tmp_path / "m-00001-of-00002.gguf")
    assert (shape.n_vocab, shape.n_embd, shape.n_ff, shape.n_head) == (777, 64, 384, 4)
    assert shape.weights_bytes == sum(path.stat().st_size for path in tmp_path.iterdir()), "all shards"
    assert len(shape.geometry.layers_planned) == 2


def test_a_container_s_limit_counts(tmp_path):
    outside = ram(tmp_path / "none")
    assert 0 < outside.free_bytes <= outside.total_bytes
    for name, text in (
        ("memory.max", "1048576000"),
        ("memory.current", "948576000"),
        ("memory.stat", "inactive_file 0"),
    ):
        (tmp_path / name).write_text(text)
    assert ram(tmp_path) == FreeMemory("RAM", 100_000_000, 1048576000)
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 50000000\n")
    assert ram(tmp_path).free_bytes == 150_000_000, "cached files give way"
    (tmp_path / "memory.max").write_text("max\n")
    assert ram(tmp_path).total_bytes == outside.total_bytes


def test_main_memory_comes_first():
    assert free_memory()[0].name == "RAM"


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 KiB"), (23040, "22.5 KiB"), (2**20, "1 MiB"), (94 * MIB, "94 MiB"), (230.4 * MIB, "230 MiB"),
     (9.8 * GIB, "9.8 GiB"), (1234 * GIB, "1,234 GiB")],
)  # fmt: skip
def test_sizes_in_words(n_bytes, text):
    assert size_text(n_bytes) == text
