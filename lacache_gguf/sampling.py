"""llama.cpp's own sampler chain with the usual parameters, and log-probabilities of a logits row."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np

from lacache_gguf import native
from lacache_gguf.errors import UsageError

_N_PENALTY_LAST = 64  # tokens the repeat penalty looks back, llama.cpp's default
_N_ROWS = 8  # of logits at a time: what is worked on stays in the cache, which takes half of the time


@dataclass(frozen=True)
class Sampling:
    """Sampler settings by llama.cpp's names; temperature <= 0 means greedy. Raises UsageError when out of range."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("top_p", 0.0, 1.0), ("min_p", 0.0, 1.0)):
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"{name} is {getattr(self, name)}; it must lie in {low} .. {high}")
        if not np.isfinite(self.temperature) or self.repeat_penalty <= 0:
            raise UsageError(
                f"temperature {self.temperature} / repeat_penalty {self.repeat_penalty} make no sense; "
                "give a finite temperature and a repeat_penalty above 0 (1 = off)"
            )


class Sampler:
    """Owns a `llama_sampler *` chain: penalties, top-k, top-p, min-p, temperature, dist."""

    def __init__(self, settings: Sampling, n_vocab: int) -> None:
        self._lib = lib = native.load()
        self._ptr = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        stages = []
        if settings.repeat_penalty != 1.0:
            stages.append(lib.llama_sampler_init_penalties(n_vocab, _N_PENALTY_LAST, settings.repeat_penalty, 0.0, 0.0))
        if settings.temperature <= 0:
            stages.append(lib.llama_sampler_init_greedy())
        else:
            stages += [
                lib.llama_sampler_init_top_k(settings.top_k if settings.top_k > 0 else n_vocab),
                lib.llama_sampler_init_top_p(settings.top_p, 1),
                lib.llama_sampler_init_min_p(settings.min_p, 1),
                lib.llama_sampler_init_temp(settings.temperature),
                lib.llama_sampler_init_dist(settings.seed % 2**32),
            ]
        for stage in stages:
            lib.llama_sampler_chain_add(self._ptr, stage)

    def sample(self, ctx, row: np.ndarray | None = None) -> int:
        """Draw from `row` float32 [n_vocab] or, without one, from the last logits of the `llama_context *`; remember
        the token for the penalties."""
        if row is None:
            return self._lib.llama_sampler_sample(self._ptr, ctx, -1)
        # what llama_sampler_sample does with a row of logits
        data = (self._lib.llama_token_data * len(row))()
        view = np.ctypeslib.as_array(data)
        view["id"], view["logit"], view["p"] = np.arange(len(row)), row, 0.0
        candidates = self._lib.llama_token_data_array(data=data, size=len(row), selected=-1, sorted=False)
        self._lib.llama_sampler_apply(self._ptr, ctypes.byref(candidates))
        token = int(candidates.data[candidates.selected].id)
        self._lib.llama_sampler_accept(self._ptr, token)
        return token

    def close(self) -> None:
        """Free the chain; safe to call twice."""
        if self._ptr is not None:
            self._lib.llama_sampler_free(self._ptr)
            self._ptr = None


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float32 [..., n_vocab] -> log-probabilities in nats, same shape; sums in float64."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    total = np.exp(shifted, dtype=np.float32).sum(axis=-1, keepdims=True, dtype=np.float64)
    return (shifted - np.log(total)).astype(np.float32)


def log_total(logits: np.ndarray) -> np.ndarray:
    """float32 [n, n_vocab] -> logarithm of the sum of their exponentials: float32 [n]."""
    result = np.empty(len(logits), dtype=np.float32)
    work = np.empty((min(_N_ROWS, len(logits)), logits.shape[-1]), dtype=np.float32)
    for first in range(0, len(logits), _N_ROWS):
        rows = logits[first : first + _N_ROWS]
        high = rows.max(axis=-1)
        exps = np.subtract(rows, high[:, None], out=work[: len(rows)])
        total = np.exp(exps, out=exps).sum(axis=-1)  # numpy adds pairwise: as good as float64 here
        result[first : first + _N_ROWS] = np.log(total) + high
    return result


def nll(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Negative log-likelihood in nats of `targets` [n] under `logits` float32 [n, n_vocab]: float32 [n]."""
    return log_total(logits) - logits[np.arange(len(logits)), np.asarray(targets)]
