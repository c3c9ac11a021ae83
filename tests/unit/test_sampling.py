"""Log-probabilities against the textbook formula in float64, and settings that are refused."""

from __future__ import annotations

import numpy as np
import pytest

from lacache_gguf.errors import UsageError
from lacache_gguf.sampling import Sampling, log_softmax, nll


def reference(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return (
        logits
        - np.log(np.sum(np.exp(logits - logits.max(-1, keepdims=True)), -1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 3000.0])
def test_log_softmax_and_nll_agree_with_float64(scale):
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((21, 1000)) * scale).astype(np.float32)
    targets = rng.integers(0, 1000, 21)
    expected = reference(logits)
    np.testing.assert_allclose(log_softmax(logits), expected, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(nll(logits, targets), -expected[np.arange(21), targets], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [{"top_p": 1.5}, {"top_p": -0.1}, {"min_p": 2.0}, {"temperature": float("nan")}, {"repeat_penalty": 0.0}],
)
def test_settings_out_of_range_name_the_value(settings):
    with pytest.raises(UsageError, match=str(next(iter(settings.values())))):
        Sampling(**settings)
