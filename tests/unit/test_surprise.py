"""Losses among the frequent tokens and the token itself."""

from __future__ import annotations

import numpy as np
import pytest

from lacache_gguf.sampling import nll
from lacache_gguf.surprise import losses_from, losses_of, n_frequent

N_VOCAB = 16384


def naive(row: np.ndarray, token: int) -> float:
    """A softmax over the frequent tokens and, if it is none of them, the token."""
    n = n_frequent(len(row)) or len(row)
    seen = np.union1d(np.arange(n), [token])
    return float(np.log(np.exp(row[seen].astype(np.float64)).sum()) - row[token])


def test_losses_are_those_of_a_softmax_over_the_frequent_tokens_and_the_token():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((60, N_VOCAB)).astype(np.float32) * 5
    tokens = np.concatenate([rng.integers(0, 2048, 30), rng.integers(2048, N_VOCAB, 30)])
    logits[::7, tokens[::7]] = 60  # foretold
    losses = losses_of(logits, tokens)
    assert losses.dtype == np.float32
    np.testing.assert_allclose(losses, [naive(*pair) for pair in zip(logits, tokens, strict=True)], atol=1e-4)
    assert (losses > -1e-4).all()


def test_totals_of_the_frequent_tokens_tell_the_same():
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((40, N_VOCAB)).astype(np.float32) * 5
    tokens = rng.integers(0, N_VOCAB, 40)
    tokens[:20] %= n_frequent(N_VOCAB)
    n = n_frequent(N_VOCAB)
    totals = np.log(np.exp(logits[:, :n].astype(np.float64)).sum(axis=-1)) - logits[np.arange(40), tokens]
    np.testing.assert_allclose(losses_from(totals, tokens, n), losses_of(logits, tokens), atol=1e-4)
    assert losses_from(np.float32([-np.inf]), np.array([n]), n) == 0, "nothing but the token itself was likely"


@pytest.mark.parametrize("n_vocab", [2, 300, 8191])
def test_a_small_vocabulary_is_frequent_as_a_whole(n_vocab):
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((9, n_vocab)).astype(np.float32)
    tokens = rng.integers(0, n_vocab, 9)
    assert n_frequent(n_vocab) == 0
    np.testing.assert_array_equal(losses_of(logits, tokens), nll(logits, tokens))


def test_a_small_part_of_a_large_vocabulary_is_frequent():
    assert [n_frequent(n) for n in (8192, 49152, 262144)] == [1024, 1024, 5461]
