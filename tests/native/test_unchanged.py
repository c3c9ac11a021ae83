"""Unused means unchanged: where nothing is compacted, patched and stock library compute the same, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lacache_gguf import catalog, native

pytestmark = [pytest.mark.native, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]

# one llama.cpp library per process: this runs in one of its own, on the library LLAMA_CPP_LIB_PATH names
PROGRAM = """
import hashlib, sys
import numpy as np
import llama_cpp.llama_cpp as lib

@lib.llama_log_callback
def quiet(level, text, data): pass

lib.llama_log_set(quiet, None)
lib.llama_backend_init()
path, flash_attn, type_kv = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
params = lib.llama_context_default_params()
params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = 1024, 128, 128, 1
params.n_threads = params.n_threads_batch = 2
params.flash_attn_type, params.type_k, params.type_v = flash_attn, type_kv, type_kv
ctx = lib.llama_init_from_model(model, params)
memory = lib.llama_get_memory(ctx)
n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
tokens = np.random.default_rng(0).integers(0, n_vocab, 700)
batch = lib.llama_batch_init(128, 0, 1)
digest, pos = hashlib.sha256(), 0

def decode(chunk):
    global pos
    for i, token in enumerate(chunk):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = int(token), pos + i, 1
        batch.seq_id[i][0], batch.logits[i] = 0, 1
    batch.n_tokens = len(chunk)
    assert lib.llama_decode(ctx, batch) == 0
    row = np.ctypeslib.as_array(lib.llama_get_logits(ctx), (len(chunk) * n_vocab,))
    assert np.isfinite(row).all()
    digest.update(row.tobytes())
    pos += len(chunk)

decode(tokens[:128]); decode(tokens[128:201])
for token in tokens[201:230]: decode([token])
lib.llama_memory_seq_rm(memory, 0, 4, 104)
lib.llama_memory_seq_add(memory, 0, 104, pos, -100)
pos -= 100
decode(tokens[230:300])
for first in range(300, 620, 20): decode(tokens[first:first + 20])  # few rows together: flash-attn-rows.cpp
for token in tokens[620:640]: decode([token])  # llama.cpp splits the cells among the threads from 512 on
print(digest.hexdigest(), hasattr(lib._lib, "llama_lacache_abi"))
"""


@pytest.fixture(scope="module")
def stock_lib() -> str:
    """LACACHE_STOCK_LIB, else built from the pinned base by benchmarks/stock.py (minutes)."""
    if folder := os.environ.get("LACACHE_STOCK_LIB"):
        return folder
    code = "from stock import find_or_build; print(find_or_build(None))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "benchmarks", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


def logits(folder: str, *arguments: str) -> list[str]:
    environment = {**os.environ, "LLAMA_CPP_LIB_PATH": folder}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "smollm2-135m"])
@pytest.mark.parametrize(("flash_attn", "type_kv"), [("1", "1"), ("0", "1"), ("1", "8")])  # on/off; f16, q8_0
def test_logits_are_bit_identical_to_stock(tiny, stock_lib, name, flash_attn, type_kv):
    path = str(tiny(name) if name != "smollm2-135m" else catalog.resolve(name).path)  # Q4_1 weights: q4-1-tile.c
    ours, is_patched = logits(str(native.lib_dir()), path, flash_attn, type_kv)
    theirs, is_stock_patched = logits(stock_lib, path, flash_attn, type_kv)
    assert (is_patched, is_stock_patched) == ("True", "False")
    assert ours == theirs
