"""The stock llama.cpp, driven from a process of its own: two llama.cpp libraries cannot live in one.

Started by `stock.Stock`; reads one JSON request a line from stdin, answers one JSON line on stdout. Uses only the
low-level functions of `llama_cpp`, on the library that LLAMA_CPP_LIB_PATH names, and refuses a patched one.
Seconds are measured here, around the work alone: of wall time and of CPU time.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time

import llama_cpp.llama_cpp as lib

_GGML_TYPE = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30}


@lib.llama_log_callback
def _quiet(level: int, text: bytes, _data) -> None:
    if level == 4:  # GGML_LOG_LEVEL_ERROR
        sys.stderr.write(text.decode("utf-8", "replace"))


class Worker:
    """One model, one context, one sequence; greedy sampling with llama.cpp's own sampler."""

    def info(self) -> dict:
        return {
            "library": lib.llama_print_system_info().decode().strip(),
            "patched": hasattr(lib._lib, "llama_lacache_abi"),
        }

    def open(
        self, model: str, n_ctx: int, n_ubatch: int, n_threads: int, type_k: str, type_v: str, n_gpu_layers: int = -1
    ) -> dict:
        model_params = lib.llama_model_default_params()
        model_params.n_gpu_layers = n_gpu_layers
        self.model = lib.llama_model_load_from_file(model.encode(), model_params)
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = n_ctx, n_ubatch, n_ubatch, 1
        params.type_k, params.type_v = _GGML_TYPE[type_k], _GGML_TYPE[type_v]
        params.flash_attn_type = -1  # auto, as the engine has it
        params.n_threads = params.n_threads_batch = n_threads
        params.no_perf = True
        self.ctx = lib.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise RuntimeError("no context")
        self.memory = lib.llama_get_memory(self.ctx)
        self.n_ctx, self.n_batch, self.n_past = lib.llama_n_ctx(self.ctx), n_ubatch, 0
        self.batch = lib.llama_batch_init(n_ubatch, 0, 1)
        self.sampler = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        lib.llama_sampler_chain_add(self.sampler, lib.llama_sampler_init_greedy())
        return {"n_ctx": self.n_ctx}

    def clear(self) -> dict:
        lib.llama_memory_clear(self.memory, False)
        self.n_past = 0
        return {}

    def _decode(self, tokens: list[int]) -> None:
        batch, n = self.batch, len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, self.n_past + i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, i == n - 1
        batch.n_tokens = n
        if status := lib.llama_decode(self.ctx, batch):
            raise RuntimeError(f"llama_decode returned {status} at position {self.n_past}")
        self.n_past += n

    def read(self, tokens: list[int]) -> dict:
        """Feed tokens, n_ubatch at a time, no limit but n_ctx."""
        start, start_cpu = time.perf_counter(), time.process_time()
        for first in range(0, len(tokens), self.n_batch):
            self._decode(tokens[first : first + self.n_batch])
        lib.llama_synchronize(self.ctx)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
        return {"seconds": seconds, "cpu_seconds": cpu_seconds, "n_past": self.n_past}

    def generate(self, n: int, n_keep: int | None = None) -> dict:
        """Sample and feed `n` tokens, whatever they are.

        With `n_keep`, shift when the context is full, as llama.cpp's own programs do (tools/completion/completion.cpp):
        keep the first n_keep, discard half of the rest.
        """
        n_shifts, sum_cells = 0, 0
        start, start_cpu = time.perf_counter(), time.process_time()
        for _ in range(n):
            token = lib.llama_sampler_sample(self.sampler, self.ctx, -1)
            if n_keep is not None and self.n_past + 1 >= self.n_ctx:
                n_discard = (self.n_past - n_keep) // 2
                lib.llama_memory_seq_rm(self.memory, 0, n_keep, n_keep + n_discard)
                lib.llama_memory_seq_add(self.memory, 0, n_keep + n_discard, self.n_past, -n_discard)
                self.n_past -= n_discard
                n_shifts += 1
            self._decode([token])
            sum_cells += self.n_past
        lib.llama_synchronize(self.ctx)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
        return {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "n_past": self.n_past,
            "n_shifts": n_shifts,
            "mean_cells": sum_cells / n,
        }


def main() -> None:
    lib.llama_log_set(_quiet, ctypes.c_void_p(0))
    lib.llama_backend_init()
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(worker, request.pop("call"))(**request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
