"""`lacache eval` on the embedded model: its numbers are the engine's own, and a short run of every kind works."""

from __future__ import annotations

import json

import numpy as np
import pytest
from lacache_app import cli
from lacache_app.evaluate.texts import load_texts, tokens_of

from lacache_gguf import Engine, Full, Ladder

pytestmark = pytest.mark.model

N = 150


@pytest.fixture(scope="module")
def tokens(model_path):
    with Engine(str(model_path), n_ctx=256, policy=Full()) as engine:
        return tokens_of(engine, load_texts(["pydoc"])[0], N)


def test_logits_are_what_nll_rests_on(model_path, tokens):
    with Engine(str(model_path), n_ctx=64, policy=Ladder(span=15, n_recent=32), n_ubatch=16, n_threads=1) as engine:
        expected = engine.nll(tokens, n_ubatch=16)
        parts = [logits.copy() for logits in engine.logits(tokens[:-1], n_ubatch=16)]
        assert engine.stats.n_compactions > 0
    logits = np.concatenate(parts).astype(np.float64)
    assert logits.shape[0] == N
    high = logits.max(axis=1, keepdims=True)
    log_p = logits - high - np.log(np.exp(logits - high).sum(axis=1, keepdims=True))
    assert -np.take_along_axis(log_p, tokens[1:, None], axis=1)[:, 0] == pytest.approx(expected, abs=1e-4)


def test_every_kind_runs(model_path, tokens, tmp_path, capsys):
    out_file = tmp_path / "r.jsonl"
    common = ("-m", str(model_path), "-c", "64", "-t", "1", "--json-out", str(out_file), "--resume")
    memories = ("--memory", "ladder", "--memory", "full")
    assert cli.main(["eval", "ppl", "--tokens", str(N), *common, *memories]) == 0
    assert cli.main(["eval", "agree", "--tokens", str(N), *common, *memories]) == 0
    recall = ("--length", "128", "--depths", "1", "--trials", "1")
    assert cli.main(["eval", "passkey", *recall, *common, "--memory", "sink_window", "--memory", "full"]) == 0
    out = capsys.readouterr().out
    assert "pydoc, 64 cells" in out
    rows = [json.loads(line) for line in out_file.read_text("utf-8").splitlines()]
    ppl, agree, passkey = ({r["name"]: r for r in rows if r["eval"] == kind} for kind in ("ppl", "agree", "recall"))
    with Engine(str(model_path), n_ctx=64, policy=Ladder(span=15, n_recent=32), n_ubatch=16, n_threads=1) as engine:
        expected = engine.nll(tokens, n_ubatch=16)
    assert ppl["ladder"]["loss"] == pytest.approx(float(expected.mean()), abs=1e-3)
    assert ppl["full"]["loss"] < ppl["ladder"]["loss"]
    assert ppl["ladder"]["n_cells_peak"] == 64
    assert sum(agree["ladder"]["loss_sums"]) == pytest.approx(sum(ppl["ladder"]["loss_sums"]), rel=1e-3)
    assert sum(agree["ladder"]["full_loss_sums"]) == pytest.approx(sum(ppl["full"]["loss_sums"]), rel=1e-3)
    assert agree["ladder"]["kl"] > 0
    assert passkey["full"]["scores"] == [1]
    assert passkey["sink_window"]["n_compactions_last"] > 0
