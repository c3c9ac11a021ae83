"""The memory estimate against what llama.cpp says that it allocated, in a process of its own that prints its log."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from lacache_app.estimate import Load, ModelShape, compute_bytes, kv_bytes, load_for
from tiny_models import cached

from lacache_gguf.catalog import resolve
from lacache_gguf.policies import Salience

MIB = 2**20
_PROGRAM = """
import json, sys
from lacache_gguf import Engine, native
native.set_verbose(True)
settings = json.loads(sys.argv[2])
with Engine(sys.argv[1], **settings) as engine:
    for _ in engine.read([5] * (engine.n_ctx + 64)):
        pass                                     # one compaction, too: its buffers count
    print("kv_bytes", engine.stats.kv_bytes, file=sys.stderr)
"""


def allocated(model: str, settings: dict) -> tuple[int, int, int]:
    """Bytes of (KV buffers, largest compute buffer, kv_bytes of the engine's stats) after a long read."""
    command = [sys.executable, "-c", _PROGRAM, model, json.dumps({**settings, "n_threads": 2, "n_gpu_layers": 0})]
    env = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    kv = re.findall(r"KV buffer size = +([\d.]+) MiB", done.stderr)
    compute = re.findall(r"compute buffer size = +([\d.]+) MiB", done.stderr)
    assert kv
    assert compute
    stats = int(re.findall(r"kv_bytes (\d+)", done.stderr)[0])
    return int(sum(map(float, kv)) * MIB), int(max(map(float, compute)) * MIB), stats


@pytest.mark.model
@pytest.mark.parametrize(
    "settings",
    [
        {"n_ctx": 1024},
        {"n_ctx": 512, "n_ubatch": 128},
        {"n_ctx": 1024, "flash_attn": False, "n_ubatch": 256},
        {"n_ctx": 512, "type_k": "q8_0", "type_v": "q4_0"},
    ],
    ids=str,
)
def test_the_default_model(settings):
    model = resolve("smollm2-135m")
    shape = ModelShape.from_file(model.path)
    load = Load(settings["n_ctx"], **{key: value for key, value in settings.items() if key != "n_ctx"})
    load = load_for(Salience(), load)
    kv, compute, stats = allocated("smollm2-135m", settings)
    assert kv_bytes(shape, load) == pytest.approx(kv, abs=0.02 * MIB) == stats, "exact, up to the log's rounding"
    # never less than what is taken, and not so much more that a model is refused that would fit
    assert 0.98 * compute <= compute_bytes(shape, load) <= 1.25 * compute + 2 * MIB


@pytest.mark.native
@pytest.mark.parametrize("name", ["gemma3", "qwen3", "phi3", "jamba"])
def test_other_architectures(name, tmp_path):
    path = cached(tmp_path, name)
    shape, load = ModelShape.from_file(path), Load(1024)
    kv, compute, stats = allocated(str(path), {"n_ctx": 1024})
    assert kv_bytes(shape, load) == pytest.approx(kv, abs=0.02 * MIB) == stats
    assert 0.9 * compute <= compute_bytes(shape, load) <= 2 * compute + 2 * MIB, "small models: small parts count"
