"""An engine refuses keys that would wear out, with the remedy, and frees what it had opened."""

from __future__ import annotations

import pytest

from lacache_gguf import Engine, Ladder
from lacache_gguf.errors import UsageError

pytestmark = pytest.mark.model

FEW_TO_THIN = Ladder(span=15, overlap=0, n_sink=4, n_recent=240)


def test_coarse_keys_that_are_rounded_too_often_are_refused(model_path):
    with pytest.raises(UsageError, match=r"K in q4_0 .* 256 cells.* -ctk q8_0 -ctv q4_0"):
        Engine(str(model_path), n_ctx=256, policy=FEW_TO_THIN, type_k="q4_0")
    with Engine(str(model_path), n_ctx=256, policy=FEW_TO_THIN, type_k="q8_0", type_v="q4_0") as engine:
        assert engine.n_ctx == 256
    with Engine(str(model_path), n_ctx=256, type_k="q4_0", type_v="q4_0") as engine:
        assert engine.policy.name == "salience"
