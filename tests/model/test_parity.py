"""Agreement with an independent float32 computation of the published method (../shared/data)."""

from __future__ import annotations

import numpy as np
import pytest

from lacache_gguf import Engine, Full, Ladder, SinkWindow

pytestmark = pytest.mark.model

N = 700  # tokens: enough for several sweeps of a 256-cell memory


@pytest.mark.parametrize(
    ("key", "policy", "n_ctx"),
    [
        ("full", Full(), 768),
        ("sink_window", SinkWindow(n_sink=4), 256),
        ("ladder_15_0", Ladder(span=15, overlap=0, n_sink=4), 256),
        ("ladder_8_4", Ladder(span=8, overlap=4, n_sink=4), 256),
    ],
)
def test_nll_agrees_with_the_reference(model_path, reference, key, policy, n_ctx):
    # the engine quantizes activations to 8 bits and keeps K and V in f16, the reference is float32 throughout
    with Engine(str(model_path), n_ctx=n_ctx, policy=policy) as engine:
        ours = engine.nll(reference["ids"][: N + 1], n_ubatch=1)
        assert engine.stats.n_compactions > 0 or key == "full"
    expected = reference[f"nll_{key}"][:N]
    assert np.exp(ours.mean() - expected.mean()) == pytest.approx(1, abs=0.02)
    assert np.abs(ours - expected).mean() < 0.1
    assert np.corrcoef(ours, expected)[0, 1] > 0.995
