"""kv_budget: bytes of cells and cells for bytes, for one model by hand and for random ones by invariants."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacache_gguf.errors import DamagedModel, UnsupportedModel, UsageError
from lacache_gguf.kv_budget import CELL_STEP, KV_TYPES, Budget, KvGeometry, KvLayer, parse_budget, row_size

SMOLLM2 = {
    "general.architecture": "llama",
    "llama.block_count": "30",
    "llama.context_length": "8192",
    "llama.embedding_length": "576",
    "llama.attention.head_count": "9",
    "llama.attention.head_count_kv": "3",
}


def metadata(arch: str = "llama", **keys: object) -> dict[str, str]:
    """SmolLM2's metadata under another architecture, with keys changed (dots written as "__"); None removes one."""
    values = {key.replace("llama.", f"{arch}."): value for key, value in SMOLLM2.items()} | {
        "general.architecture": arch
    }
    for key, value in keys.items():
        values[f"{arch}.{key.replace('__', '.')}"] = value
    return {key: str(value) for key, value in values.items() if value is not None}


def test_smollm2_by_hand():
    geometry = KvGeometry.from_metadata(SMOLLM2)
    assert geometry == KvGeometry((KvLayer(3, 64, 64),) * 30, n_layer=30, n_ctx_train=8192)
    assert geometry.bytes_per_cell() == 30 * 3 * (64 + 64) * 2 == 23040
    assert geometry.bytes(1024) == 23_592_960, "22.5 MiB"
    assert geometry.bytes(1000) == geometry.bytes(1024), "llama.cpp allocates multiples of 256 cells"
    assert geometry.bytes_per_cell("q8_0", "q4_0") == 30 * 3 * 2 * (34 + 18)
    assert geometry.cells_for(23_592_960) == 1024
    assert geometry.cells_for(23_592_959) == 768


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_block_sizes_are_ggmls(kv_type):
    gguf = pytest.importorskip("gguf")
    sizes = gguf.constants.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kv_type.upper()]]
    assert KV_TYPES[kv_type] == sizes


LAYER = st.builds(
    KvLayer, st.integers(1, 16), st.sampled_from([32, 64, 128, 256]), st.sampled_from([32, 64, 128]), st.booleans()
)
GEOMETRY = st.builds(
    lambda layers, n_swa: KvGeometry((*layers, KvLayer(2, 64, 64)), len(layers) + 1, n_ctx_train=1 << 20, n_swa=n_swa),
    st.lists(LAYER, max_size=40),
    st.sampled_from([0, 128, 512, 4096]),
)
TYPE = st.sampled_from(list(KV_TYPES))


@given(GEOMETRY, st.integers(1, 1 << 33), st.integers(1, 2048), TYPE, TYPE)
def test_a_budget_buys_the_most_cells_and_is_never_exceeded(geometry, n_bytes, n_ubatch, type_k, type_v):
    if n_bytes < geometry.bytes(CELL_STEP, n_ubatch, type_k, type_v):
        with pytest.raises(UsageError, match=r"256 cells.* need [0-9,.]+ MiB"):
            geometry.cells_for(n_bytes, n_ubatch, type_k, type_v)
        return
    n_cells = geometry.cells_for(n_bytes, n_ubatch, type_k, type_v)
    assert n_cells % CELL_STEP == 0
    assert geometry.bytes(n_cells, n_ubatch, type_k, type_v) <= n_bytes
    if n_cells < geometry.n_ctx_train:
        assert geometry.bytes(n_cells + CELL_STEP, n_ubatch, type_k, type_v) > n_bytes


@given(GEOMETRY, st.integers(1, 100_000), st.integers(1, 2048), TYPE, TYPE)
def test_bytes_grow_with_cells_and_windows_only_save(geometry, n_ctx, n_ubatch, type_k, type_v):
    n_bytes = geometry.bytes(n_ctx, n_ubatch, type_k, type_v)
    assert geometry.bytes(n_ctx + 1, n_ubatch, type_k, type_v) >= n_bytes
    assert n_bytes <= geometry.bytes(n_ctx, n_ubatch, type_k, type_v, swa_full=True)
    assert n_bytes >= n_ctx * geometry.bytes_per_cell(type_k, type_v)


def test_more_than_the_trained_context_is_not_bought():
    assert KvGeometry.from_metadata(SMOLLM2).cells_for(2**40) == 8192
    assert KvGeometry.from_metadata(metadata(context_length=300)).cells_for(2**40) == 256


def test_kv_heads_per_layer_and_hybrid_layers():
    geometry = KvGeometry.from_metadata(metadata("jamba", block_count=4, attention__head_count_kv="[0, 3, 0, 1]"))
    assert [layer.n_head_kv for layer in geometry.layers] == [3, 1]
    assert geometry.n_layer == 4
    assert geometry.bytes_per_cell() == (3 + 1) * 128 * 2


def test_without_kv_heads_the_attention_heads_count():
    assert KvGeometry.from_metadata(metadata(attention__head_count_kv=None)).layers[0].n_head_kv == 9


def test_linear_attention_layers_have_no_cells():
    geometry = KvGeometry.from_metadata(metadata("qwen3next", block_count=8, full_attention_interval=4))
    assert len(geometry.layers) == 2


@pytest.mark.parametrize(
    ("arch", "pattern", "n_full"),
    [("gemma3", None, 5), ("gemma2", None, 15), ("gemma3", 3, 10), ("smallthinker", None, 8), ("mistral9", None, 30),
     ("gemma4", "[true, true, false]", 28)],
)  # fmt: skip
def test_sliding_windows(arch, pattern, n_full):
    geometry = KvGeometry.from_metadata(
        metadata(arch, attention__sliding_window=512, attention__sliding_window_pattern=pattern)
    )
    assert sum(not layer.is_swa for layer in geometry.layers) == n_full
    n_window = 30 - n_full
    assert geometry.bytes(8192, n_ubatch=512) == (n_full * 8192 + n_window * 1024) * 3 * 128 * 2
    assert geometry.bytes(256, n_ubatch=512) == 30 * 256 * 3 * 128 * 2, "a window is never larger than the memory"


def test_gemma3_dense_layers_are_every_sixth():
    geometry = KvGeometry.from_metadata(metadata("gemma3", attention__sliding_window=512))
    assert [il for il, layer in enumerate(geometry.layers) if not layer.is_swa] == [5, 11, 17, 23, 29]


def test_layers_that_share_cells_own_none():
    keys = {"attention__sliding_window": 512, "attention__sliding_window_pattern": "[" + "true, " * 29 + "false]"}
    assert len(KvGeometry.from_metadata(metadata("gemma4", attention__shared_kv_layers=10, **keys)).layers) == 20
    assert len(KvGeometry.from_metadata(metadata("gemma3n", attention__sliding_window=512)).layers) == 20


def test_explicit_head_sizes():
    layer = KvGeometry.from_metadata(metadata(attention__key_length=96, attention__value_length=128)).layers[0]
    assert (layer.n_embd_head_k, layer.n_embd_head_v) == (96, 128)


@pytest.mark.parametrize(
    ("keys", "error", "text"),
    [
        ({"block_count": None}, DamagedModel, "llama.block_count"),
        ({"block_count": "many"}, DamagedModel, "'many'"),
        ({"block_count": "-3"}, DamagedModel, "'-3'"),
        ({"attention__head_count_kv": "[3, 3]"}, DamagedModel, "2 values"),
        ({"attention__head_count_kv": "[3, x]"}, DamagedModel, "'x'"),
        ({"attention__head_count_kv": 0}, UnsupportedModel, "no KV memory"),
        ({"embedding_length": None}, DamagedModel, "head size"),
    ],
)
def test_bad_metadata_is_refused_with_the_value(keys, error, text):
    with pytest.raises(error, match="(?s).*" + text.replace("[", r"\[")):
        KvGeometry.from_metadata(metadata(**keys))


def test_row_size_refuses_what_ggml_cannot_store():
    with pytest.raises(UsageError, match="'q3_k' is unknown"):
        row_size(64, "q3_k", 64)
    with pytest.raises(UsageError, match=r"blocks of 32.*heads have 80"):
        row_size(240, "q8_0", 80)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (4096, Budget(n_cells=4096)),
        ("4096", Budget(n_cells=4096)),
        (" 256MiB ", Budget(n_bytes=256 * 2**20)),
        ("256 mib", Budget(n_bytes=256 * 2**20)),
        ("256M", Budget(n_bytes=256 * 2**20)),
        ("1GiB", Budget(n_bytes=2**30)),
        ("1.5GiB", Budget(n_bytes=3 * 2**29)),
        ("1GB", Budget(n_bytes=10**9)),
        ("512kb", Budget(n_bytes=512_000)),
        ("1024B", Budget(n_bytes=1024)),
    ],
)
def test_parse_budget(value, expected):
    assert parse_budget(value) == expected


@pytest.mark.parametrize(
    "value", ["", "lots", "-5", "0", 0, "0MiB", "1.5", "1e9", "MiB", "1,024", "12 monkeys", True, None, 2.5, -1]
)
def test_parse_budget_refuses_with_the_value(value):
    with pytest.raises(UsageError) as caught:
        parse_budget(value)
    assert repr(value) in str(caught.value)


@pytest.mark.native
@pytest.mark.model
@pytest.mark.parametrize(
    ("n_ctx", "type_k", "type_v"), [(256, "f16", "f16"), (300, "q8_0", "q4_0"), (1024, "f32", "bf16")]
)
def test_arithmetic_equals_what_llama_cpp_allocates(n_ctx, type_k, type_v, capfd):
    """The slow twin: the sizes llama.cpp logs when it makes the cache."""
    import re

    from lacache_gguf import native
    from lacache_gguf.catalog import resolve
    from lacache_gguf.context import Context
    from lacache_gguf.model import Model

    native.load()
    native.set_verbose(True)
    try:
        with Model(resolve("smollm2-135m").path, n_gpu_layers=0) as model:
            Context(model, n_ctx, n_ubatch=64, type_k=type_k, type_v=type_v, n_threads=1).close()
            geometry = KvGeometry.from_metadata(model.metadata, native.cell_step())
    finally:
        native.set_verbose(False)
    logged = sum(float(size) for size in re.findall(r"KV buffer size = +([\d.]+) MiB", capfd.readouterr().err))
    assert logged == pytest.approx(geometry.bytes(n_ctx, 64, type_k, type_v) / 2**20, abs=0.01)
