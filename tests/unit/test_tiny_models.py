"""The tiny random models: complete files, the same for the same seed, another for another seed."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from tiny_models import NAMES, VARIANTS, cached, make
from tiny_models.vocab import CONTROL, byte_symbols


def read(path):
    reader = gguf.GGUFReader(path)
    metadata = {field.name: field.contents() for field in reader.fields.values()}
    return metadata, {tensor.name: tensor.data for tensor in reader.tensors}


@pytest.mark.parametrize("name", NAMES)
def test_file_can_be_read_back(name, tmp_path):
    path = make(name, tmp_path / "tiny.gguf")
    metadata, tensors = read(path)
    arch = VARIANTS.get(name, (name,))[0]
    assert metadata["general.architecture"] == arch
    layers = {int(tensor.split(".")[1]) for tensor in tensors if tensor.startswith("blk.")}
    assert layers == set(range(metadata[f"{arch}.block_count"]))
    assert tensors["token_embd.weight"].shape == (256, metadata[f"{arch}.embedding_length"])
    assert all(np.isfinite(values).all() for values in tensors.values())
    assert all(values.size == 1 or values.std() > 0 for values in tensors.values())
    assert path.stat().st_size < 5 << 20
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.gguf"]


def test_same_seed_same_bytes(tmp_path):
    one, two, other = (make("qwen3", tmp_path / f"{i}.gguf", seed=seed) for i, seed in enumerate((5, 5, 6)))
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes() != other.read_bytes()


def test_variants_share_the_weights_they_have_in_common(tmp_path):
    _, plain = read(make("llama", tmp_path / "plain.gguf"))
    _, freqs = read(make("llama-freqs", tmp_path / "freqs.gguf"))
    assert set(freqs) - set(plain) == {"rope_freqs.weight"}
    assert all(np.array_equal(freqs[name], values) for name, values in plain.items())


def test_layers_and_heads_differ(tmp_path):
    _, tensors = read(make("llama", tmp_path / "tiny.gguf"))
    first, second = tensors["blk.0.attn_k.weight"], tensors["blk.1.attn_k.weight"]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[:64], first[64:])


def test_sizes_can_be_chosen(tmp_path):
    metadata, tensors = read(make("llama", tmp_path / "tiny.gguf", n_layer=2, n_head_kv=1, head_dim=32))
    assert metadata["llama.block_count"] == 2
    assert tensors["blk.1.attn_k.weight"].shape == (32, 128)


def test_half_precision_keeps_norms_in_f32(tmp_path):
    _, tensors = read(make("llama", tmp_path / "tiny.gguf", dtype="f16"))
    assert tensors["blk.0.attn_k.weight"].dtype == np.float16
    assert tensors["blk.0.attn_norm.weight"].dtype == np.float32


def test_byte_level_vocabulary(tmp_path):
    metadata, tensors = read(make("llama", tmp_path / "tiny.gguf", vocab="bpe"))
    tokens = metadata["tokenizer.ggml.tokens"]
    assert len(set(byte_symbols())) == 256
    assert tokens[:256] == byte_symbols()
    assert tokens[-len(CONTROL) :] == CONTROL
    assert tensors["token_embd.weight"].shape[0] == tensors["output.weight"].shape[0] == len(tokens)
    assert tokens[metadata["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"
    for merge in metadata["tokenizer.ggml.merges"]:
        assert merge.replace(" ", "") in tokens
        assert all(half in tokens for half in merge.split(" "))


def test_cached_makes_a_model_once(tmp_path):
    path = cached(tmp_path, "llama", n_layer=2)
    stamp = path.stat().st_mtime_ns
    assert cached(tmp_path, "llama", n_layer=2) == path
    assert path.stat().st_mtime_ns == stamp
    assert cached(tmp_path, "llama", n_layer=3) != path


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("no-such-arch", {}), ValueError, "no-such-arch"),
        (("llama", {"vocab": "spm"}), ValueError, "spm"),
        (("llama", {"dtype": "q4_0"}), ValueError, "q4_0"),
        (("llama", {"n_swa": 3}), TypeError, "n_swa"),
        (("openelm", {"n_layer": 3}), ValueError, "3 layers"),
    ],
)
def test_impossible_models_are_refused(arguments, error, text, tmp_path):
    arch, options = arguments
    with pytest.raises(error, match=text):
        make(arch, tmp_path / "tiny.gguf", **options)
    assert list(tmp_path.iterdir()) == []
