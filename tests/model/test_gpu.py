"""What only a GPU can show: that memories live there, and that they come to the same as on the CPU.

GPUs round otherwise, and a small quantized model makes much of it: losses differ by a tenth of a nat a token, as they
do between f16 and f32 keys on one CPU. A row moved to a wrong cell, or turned by a wrong angle, changes them by more.
"""

from __future__ import annotations

import numpy as np
import pytest
from tiny_models import cached

from lacache_gguf import Engine
from lacache_gguf.devices import devices
from lacache_gguf.policies import Ladder, Policy, Salience, SinkWindow

pytestmark = [pytest.mark.gpu, pytest.mark.model]

N_TOKENS, N_CTX = 1536, 256
TYPES = [("f16", "f16"), ("q8_0", "q8_0"), ("q8_0", "q4_0"), ("q4_0", "q4_0")]
POLICIES = [SinkWindow(), Ladder(15, 0, n_recent=128), Salience(), Salience(n_pos=0), Salience(heads="layer")]


def gpu_bytes() -> int:
    """Free memory of all GPUs."""
    return sum(device.free_bytes for device in devices() if device.type == "gpu")


def losses(path, policy: Policy, n_gpu_layers: int, n_ubatch: int = 16, **options) -> tuple[np.ndarray, int]:
    """(nats per token, compactions). From 32 tokens on llama.cpp would lend a GPU to layers that are on the CPU."""
    with Engine(str(path), n_ctx=N_CTX, policy=policy, n_gpu_layers=n_gpu_layers, n_threads=4, **options) as engine:
        from pydoc_data.topics import topics

        tokens = engine.tokenize("\n\n".join(topics[key] for key in sorted(topics))[: 8 * N_TOKENS])[:N_TOKENS]
        return engine.nll(tokens, n_ubatch=n_ubatch), engine.stats.n_compactions


def test_the_memory_is_on_the_gpu(model_path):
    before = gpu_bytes()
    with Engine(str(model_path), n_ctx=8192, policy=SinkWindow()) as engine:
        assert before - gpu_bytes() >= engine.stats.kv_bytes


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: f"{policy.name}-{getattr(policy, 'n_pos', '')}")
@pytest.mark.parametrize("n_gpu_layers", [-1, 15], ids=["all", "half"])
def test_the_gpu_forgets_as_the_cpu_does(model_path, policy, n_gpu_layers):
    cpu, n_cpu = losses(model_path, policy, 0)
    gpu, n_gpu = losses(model_path, policy, n_gpu_layers)
    assert n_cpu == n_gpu > 30
    # a score that is rounded otherwise can choose another cell
    assert np.abs(gpu - cpu)[N_CTX:].mean() < (0.2 if policy.name in ("sink_window", "ladder") else 0.3)
    assert abs(gpu[N_CTX:].mean() - cpu[N_CTX:].mean()) < 0.03


@pytest.mark.parametrize(("type_k", "type_v"), TYPES)
def test_every_kv_type_is_compacted_there(model_path, type_k, type_v):
    options = {"type_k": type_k, "type_v": type_v}
    cpu, _ = losses(model_path, Ladder(15, 0, n_recent=128), 0, **options)
    gpu, _ = losses(model_path, Ladder(15, 0, n_recent=128), -1, **options)
    assert abs(gpu.mean() - cpu.mean()) < (0.15 if type_k == "q4_0" else 0.03)


def test_a_memory_saved_on_the_gpu_goes_on_there_and_on_the_cpu(model_path, tmp_path):
    text = "The lighthouse keeper wrote one line every night. Ships came and went. " * 60
    path, logits = tmp_path / "memory.kv", []
    with Engine(str(model_path), n_ctx=N_CTX) as engine:
        tokens = engine.tokenize(text)
        for _ in engine.read(tokens):
            pass
        engine.save(path)
        logits.append(engine._context.logits()[0].copy())
    for n_gpu_layers in (-1, 0):
        with Engine(str(model_path), n_ctx=N_CTX, n_gpu_layers=n_gpu_layers) as engine:
            engine.load(path)
            for _ in engine.read(tokens[-1:]):
                pass
            logits.append(engine._context.logits()[0].copy())
    again, on_cpu = logits[1:]
    assert np.abs(again - on_cpu).max() < 0.05 * np.abs(again).max()


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "lfm2"])
def test_models_of_every_kind_of_memory(tmp_path, name):
    path, policy = cached(tmp_path, name, vocab="bpe"), SinkWindow()
    cpu, _ = losses(path, policy, 0)
    gpu, _ = losses(path, policy, -1)
    assert np.abs(gpu - cpu).mean() < 0.05
