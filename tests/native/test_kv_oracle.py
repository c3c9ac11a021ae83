"""The oracle itself, against llama.cpp without any compaction: state parser, RoPE, Hadamard basis, forward pass."""

from __future__ import annotations

import numpy as np
import pytest
from native.kv_state import parse_seq
from native.llm import KV_TYPES, Llm, type_number
from reference.kv_oracle import (
    attention_layers,
    change_basis,
    hadamard,
    hadamard_size,
    key_bound,
    largest,
    moved_keys,
    worst,
)
from reference.tiny_forward import TinyForward

pytestmark = pytest.mark.native

PLAIN = ["llama", "llama-hd32", "llama-freqs", "llama-yarn", "qwen2", "qwen2-yarn", "qwen3"]
# not the YaRN and LongRoPE variants: upstream multiplies K by the attention factor again at every shift
ROTATED = ["llama", "llama-hd128", "llama-freqs", "qwen2", "qwen3", "chatglm", "phi2"]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("flash_attn", [False, True], ids=["fa0", "fa1"])
def test_numpy_forward_agrees_with_llama_cpp(name, flash_attn, tiny, rng):
    path, n = tiny(name), 40
    with Llm(path, flash_attn=flash_attn) as llm:
        tokens = rng.integers(0, llm.n_vocab, n)
        logits = llm.decode(tokens)
        cache = parse_seq(llm.state(0)).full
        twin = TinyForward(path, llm.n_ctx_seq)
    # on the CPU flash attention rounds queries and probabilities to f16
    tolerance = 0.1 if flash_attn else 1e-3
    assert largest(logits - twin.decode(tokens)) < tolerance
    assert cache.v_trans is not flash_attn
    assert cache.pos.tolist() == list(range(n))
    for il in range(len(cache.k)):
        keys, values = cache.k[il].values(), cache.v[il].values()
        assert keys.shape == values.shape == (n, twin.layers[il].n_head_kv * twin.layers[il].head_dim)
        assert largest(keys - twin.stored_keys(il)) < tolerance
        assert largest(values - np.stack(twin.values[il]).reshape(n, -1)) < tolerance


@pytest.mark.parametrize("name", ["llama", "llama-hd32", "llama-hd96", "llama-hd128", "llama-hd192"])
@pytest.mark.parametrize("kind", ["q8_0", "q5_1", "q4_0", "iq4_nl"])
def test_quantized_keys_are_stored_in_the_basis_the_oracle_assumes(name, kind, tiny, rng):
    path = tiny(name)
    layer = attention_layers(path, 256)[0]
    tokens = rng.integers(0, 256, 30)
    rows = {}
    for type_k in ("f32", kind):
        with Llm(path, type_k=type_k) as llm:
            llm.decode(tokens)
            rows[type_k] = parse_seq(llm.state(0)).full.k[0]
    n = hadamard_size(rows[kind].type, layer.head_dim)
    assert n == {32: 1, 64: 64, 96: 1, 128: 128, 192: 64}[layer.head_dim]
    heads = rows["f32"].values().astype(np.float64).reshape(30, -1, layer.head_dim)
    stored = rows[kind].values()
    exact, wrong = (change_basis(heads, side).reshape(stored.shape) for side in (n, 32))
    bound = key_bound(rows[kind].raw, rows[kind].type, exact, np.zeros(30))
    assert worst(stored, exact, bound) <= 1
    assert (np.abs(stored - wrong) > bound).mean() > 0.5  # so the bound can tell


@pytest.mark.parametrize("name", ROTATED)
@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_rotation_agrees_with_upstreams_own_shift(name, kind, tiny, rng):
    """llama_memory_seq_add() moves keys of a sliding window; the oracle must predict what it writes."""
    path, n, drop = tiny(name), 90, 37
    with Llm(path, type_k=kind, n_ctx=1024) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        tokens = rng.integers(0, llm.n_vocab, n)
        llm.decode(tokens)
        before = parse_seq(llm.state(0)).full
        llm.seq_rm(0, 0, drop)
        llm.seq_add(0, drop, -1, -drop)
        llm.decode(tokens[:1])  # the queued shift runs before the next batch
        after = parse_seq(llm.state(0)).full
    assert after.pos.tolist() == list(range(n - drop + 1))
    delta = np.full(n - drop, -drop)
    for layer, old, new in zip(layers, before.k, after.k, strict=True):
        exact = moved_keys(old.values()[drop:], old.type, layer, delta)
        stored = new.values()[:-1]
        assert worst(stored, exact, key_bound(new.raw[:-1], new.type, exact, delta)) <= 1
        assert largest(stored - old.values()[drop:]) > 0.1
    for old, new in zip(before.v, after.v, strict=True):
        assert np.array_equal(old.raw[drop:], new.raw[:-1])


def test_hadamard_is_its_own_inverse():
    for n in (1, 64, 128, 256):
        assert largest(hadamard(n) @ hadamard(n) - np.eye(n)) < 1e-12


@pytest.mark.parametrize("damage", ["magic", "short"])
def test_a_damaged_state_is_refused(damage, tiny):
    with Llm(tiny("llama")) as llm:
        llm.decode([1, 2, 3])
        blob = llm.state(0)
    with pytest.raises(ValueError, match="magic" if damage == "magic" else "ends"):
        parse_seq(b"\0" + blob[1:] if damage == "magic" else blob[:-200])


@pytest.mark.parametrize("kind", KV_TYPES)
def test_every_kv_type_can_be_read(kind, tiny, rng):
    with Llm(tiny("llama"), type_k=kind, type_v=kind, flash_attn=True) as llm:
        llm.decode(rng.integers(0, llm.n_vocab, 10))
        cache = parse_seq(llm.state(0)).full
    for rows in (*cache.k, *cache.v):
        assert rows.type == type_number(kind)
        assert rows.values().shape == (10, 128)
        assert np.isfinite(rows.values()).all()
        assert rows.values().std() > 0.3
