"""Losses among a part of the vocabulary: what all logits come to, for a part of the price."""

from __future__ import annotations

import numpy as np
import pytest
from native.llm import ERR_CONTEXT, ERR_RANGE, ERR_UNSUPPORTED, OK, Llm, compaction

from lacache_gguf import catalog, native

pytestmark = pytest.mark.native

N_PART = 40
NAMES = ("llama", "qwen3", "gemma3", "gemma2", "smollm2-135m")  # gemma2 caps its logits


@pytest.fixture
def path(tiny, request):
    name = request.param
    return tiny(name) if name != "smollm2-135m" else catalog.resolve(name).path  # a quantized output matrix


def set_n_vocab(llm: Llm, n_vocab: int) -> int:
    """The bare llama_lacache_set_n_vocab(); returns the status."""
    return compaction().llama_lacache_set_n_vocab(llm.ctx, n_vocab)


def totals_and_last(llm: Llm, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One ubatch: float32 [n - 1], and the logits [n_vocab] of the last token."""
    rows = llm.decode(tokens)
    return rows.reshape(-1)[: len(tokens) - 1], rows[-1]


@pytest.mark.parametrize("path", NAMES, indirect=True)
def test_losses_are_those_that_the_logits_tell(path, rng):
    with Llm(path, n_ubatch=32) as llm:
        tokens = rng.integers(0, llm.n_vocab, 32)
        tokens[1::2] = rng.integers(0, N_PART, 16)  # some of the next tokens are frequent ones
        full = llm.decode(tokens)
        assert llm.seq_rm(0)
        assert set_n_vocab(llm, N_PART) == OK
        totals, last = totals_and_last(llm, tokens)

    # one output, or many, are added up in another order
    np.testing.assert_allclose(last, full[-1], rtol=1e-4, atol=1e-4, err_msg="the last token has all logits")
    exact = full.astype(np.float64)
    expected = np.log(np.exp(exact[:-1, :N_PART]).sum(axis=-1)) - exact[np.arange(31), tokens[1:]]
    # one row of the matrix times the exact hidden state, where the product rounds that to 8 bits
    np.testing.assert_allclose(totals, expected, atol=0.3 if full.std() > 1 else 1e-3)
    assert np.corrcoef(totals, expected)[0, 1] > 0.99


def test_a_loss_beyond_all_bounds_is_a_number(tiny, rng):
    """Logits that are far apart: e to their difference would be no float any more."""
    with Llm(tiny("cohere2", logit_scale=100.0), n_ubatch=32) as llm:
        tokens = rng.integers(0, llm.n_vocab, 32)
        full = llm.decode(tokens)
        assert np.ptp(full, axis=-1).max() > 200
        assert llm.seq_rm(0)
        assert set_n_vocab(llm, N_PART) == OK
        totals, _ = totals_and_last(llm, tokens)
        assert not np.isnan(totals).any()
        assert 70 <= totals.max() < 80


@pytest.mark.parametrize("path", NAMES, indirect=True)
def test_other_ubatches_get_all_and_so_does_who_turns_it_off(path, rng):
    with Llm(path, n_ubatch=32) as llm, Llm(path, n_ubatch=32) as stock:
        tokens = rng.integers(0, llm.n_vocab, 40)
        assert set_n_vocab(llm, N_PART) == OK
        llm.decode(tokens[:32])
        stock.decode(tokens[:32])
        for token in tokens[32:35]:  # one output: the last
            np.testing.assert_array_equal(llm.decode([token]), stock.decode([token]))
        assert set_n_vocab(llm, 0) == OK
        np.testing.assert_array_equal(llm.decode(tokens[35:]), stock.decode(tokens[35:]))


def test_an_impossible_number_is_refused_and_changes_nothing(tiny, rng):
    with Llm(tiny("llama"), n_ubatch=32) as llm, Llm(tiny("llama"), n_ubatch=32) as stock:
        for n_vocab in (-1, llm.n_vocab, llm.n_vocab + 1, 2**31 - 1, -(2**31)):
            assert set_n_vocab(llm, n_vocab) == ERR_RANGE, n_vocab
            with pytest.raises(native.NativeError, match=f"a vocabulary of {n_vocab} tokens was refused"):
                native.set_n_vocab(llm.ctx, n_vocab)
        tokens = rng.integers(0, llm.n_vocab, 32)
        np.testing.assert_array_equal(llm.decode(tokens), stock.decode(tokens))
        for n_vocab in (1, llm.n_vocab - 1):
            assert set_n_vocab(llm, n_vocab) == OK
    assert compaction().llama_lacache_set_n_vocab(None, 1) == ERR_CONTEXT


def test_what_cannot_be_done_is_said(monkeypatch, tiny):
    with Llm(tiny("phi2")) as llm:  # logits have a bias
        assert set_n_vocab(llm, 10) == ERR_UNSUPPORTED
        assert not native.set_n_vocab(llm.ctx, 10)
    with Llm(tiny("llama")) as llm:
        assert native.set_n_vocab(llm.ctx, 10)
        monkeypatch.setattr(native.load()._lib, "llama_lacache_set_n_vocab", lambda ctx, n: ERR_UNSUPPORTED)
        assert not native.set_n_vocab(llm.ctx, 10)
