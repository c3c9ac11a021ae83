"""Policies with scores on the real default model: that the scores fire, and that a saved memory goes on with them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lacache_gguf import Engine, native
from lacache_gguf.errors import PolicyError
from lacache_gguf.events import Step
from lacache_gguf.policies import (
    H2O,
    TOVA,
    Cascade,
    KeyDiff,
    Policy,
    Random,
    Salience,
    ScoredLadder,
    SnapKV,
    is_per_head,
)
from lacache_gguf.surprise import losses_of, n_frequent

pytestmark = pytest.mark.model

TEXT = "The lighthouse keeper wrote one line every night. Ships came and went, and the sea kept its own diary. "
FIGURES = "The tide was 4.2 m at 6:15 on Tuesday, said Ottilie Bramwell; the lamp burned 310 hours that spring. "

ALL = [
    ScoredLadder(n_recent=64),
    ScoredLadder(n_recent=64, heads="each", score="attention", n_query=16, decay=0.5),
    KeyDiff(n_recent=64, heads="layer"),
    Salience(),
    Salience(heads="layer", keydiff=0),
    TOVA(),
    H2O(),
    SnapKV(),
    Cascade(),
    Random(n_recent=64, heads="each"),
]


@pytest.fixture
def opened(model_path):
    """Engines of one model, closed at the end; skips where heads cannot part in this library."""
    engines: list[Engine] = []

    def open_(policy: Policy, n_ctx: int = 256) -> Engine:
        beside = engines[0] if engines else None
        try:
            engines.append(Engine(str(model_path), n_ctx=n_ctx, policy=policy, beside=beside, n_threads=1))
        except PolicyError as error:
            if not is_per_head(policy):
                raise
            pytest.skip(str(error))
        return engines[-1]

    yield open_
    for engine in reversed(engines):
        engine.close()


def write(engine, n: int) -> list[int]:
    return [event.token for event in engine.generate(max_tokens=n, temperature=0) if isinstance(event, Step)]


def name(policy: Policy) -> str:
    return f"{policy.name}-{policy.heads}"


@pytest.mark.parametrize("policy", ALL, ids=name)
def test_reads_writes_and_counts(opened, policy):
    engine = opened(policy)
    list(engine.read(engine.tokenize((TEXT + FIGURES) * 12)[:400], n_pinned=6))
    assert len(write(engine, 4)) > 0
    stats, held = engine.stats, engine.held
    assert (stats.n_cells_peak, stats.n_evicted) == (256, stats.n_seen - stats.n_cells)
    assert stats.n_compactions >= (400 - 256) // 64
    assert held.shape == (30 * (3 if is_per_head(policy) else 1), stats.n_cells)
    assert (np.diff(held, axis=1) > 0).all()
    assert (held[:, :6] == np.arange(6)).all()
    assert (held[:, -1] == stats.n_seen - 1).all()
    assert len(np.unique(held, axis=0)) > 15, "every layer, or head, has its own scores"


@pytest.mark.parametrize(
    "policy",
    [
        ScoredLadder(n_recent=64),
        TOVA(),
        Cascade(heads="layer"),
        H2O(),
    ],
    ids=name,
)
@pytest.mark.parametrize("n_read", [256, 300], ids=["full", "between"])
def test_a_saved_memory_goes_on_token_for_token(opened, tmp_path, policy, n_read):
    """Also if the very next token makes a compaction, whose queries are all from before."""
    engine, other = opened(policy), opened(policy)
    list(engine.read(engine.tokenize((FIGURES + TEXT) * 12)[:n_read]))
    engine.save(tmp_path / "memory.kv")
    expected = write(engine, 30)
    list(other.read(other.tokenize(TEXT)))  # queries that must not vote
    other.load(tmp_path / "memory.kv")
    assert write(other, 30) == expected
    assert other.stats.n_compactions == engine.stats.n_compactions > 0
    np.testing.assert_array_equal(other.held, engine.held)


def test_a_memory_of_other_scores_is_refused(opened, tmp_path):
    from lacache_gguf.errors import CheckpointMismatch

    one = ScoredLadder(n_recent=64, score="attention")
    engine, other = opened(one), opened(replace(one, decay=0.5))
    list(engine.read(engine.tokenize(TEXT)))
    engine.save(tmp_path / "memory.kv")
    with pytest.raises(CheckpointMismatch, match=r"decay=0\.5"):
        other.load(tmp_path / "memory.kv")


@pytest.mark.parametrize("policy", [KeyDiff(n_recent=64), TOVA()], ids=name)
def test_what_goes_scores_no_higher_than_what_stays(opened, policy):
    """The scores that native code gives are of the cells that native code drops."""
    engine = opened(policy)
    list(engine.read(engine.tokenize((FIGURES + TEXT) * 9)[:256]))
    need, n_rows = policy.needs[0], len(engine.held)
    scores = engine._context.score(need)
    scores = scores.reshape(n_rows, -1) if is_per_head(policy) else scores.mean(axis=1)
    write(engine, 2)
    assert engine.stats.n_compactions == 1
    for row, held in zip(scores, engine.held, strict=True):
        stays = np.isin(np.arange(256), held)
        may_go = np.arange(policy.n_sink, 256 - policy.recent(256))
        goes = may_go[~stays[may_go]]
        assert len(goes) == 64
        assert row[goes].max() <= row[may_go[stays[may_go]]].min()
        assert np.ptp(row[goes]) > 0


def test_queries_are_recorded_only_for_those_who_ask(opened):
    engine = opened(KeyDiff(heads="layer"))
    list(engine.read(engine.tokenize(TEXT)))
    assert engine._context.n_query() == 0
    engine = opened(TOVA())
    list(engine.read(engine.tokenize(TEXT)))
    assert engine._context.n_query() == 1


def test_what_native_code_cannot_do_is_refused_in_words(opened, monkeypatch):
    monkeypatch.setattr(native, "query_reason", lambda ctx: "it has no queries")
    with pytest.raises(PolicyError, match=r"tova does not work with .*: it has no queries; use keydiff"):
        opened(TOVA())
    monkeypatch.setattr(native, "compact_head_reason", lambda ctx: "its heads cannot part")
    with pytest.raises(pytest.skip.Exception, match=r"keydiff does not work with .*: its heads cannot part; use heads"):
        opened(KeyDiff())
    monkeypatch.setattr(native, "compact_n_head_kv", lambda ctx: 0)
    with pytest.raises(PolicyError, match="different numbers of KV heads"):
        opened(ScoredLadder())


def test_surprise_is_the_loss_of_every_token_and_travels_with_it(opened):
    """Fed in ubatches, one at a time, after a cut and after a load: what a token cost stays what it cost."""
    engine = opened(Salience(n_recent=64))
    tokens = np.asarray(engine.tokenize(TEXT * 14 + FIGURES))
    logits = np.concatenate([rows.copy() for rows in engine.logits(tokens[:-1], n_ubatch=16)])
    session = engine._session
    known = session._history.losses.copy()
    assert len(tokens) - 1 == len(known) > engine.n_ctx
    np.testing.assert_allclose(known[1:], losses_of(logits[:-1], tokens[1:-1]), atol=1e-3, rtol=1e-3)
    surprise = session.surprise()
    assert surprise.shape == (engine.n_layer, native.compact_n_head_kv(engine._context.ptr), engine.stats.n_cells)
    np.testing.assert_array_equal(surprise.reshape(len(engine.held), -1), known[engine.held])
    written = write(engine, 5)
    assert len(session._history.losses) == len(known) + len(written) - 1
    greedy = session._history.losses[len(known) :]
    assert (greedy[1:] < np.log(49152)).all(), "the likeliest token is no surprise"


def test_reading_computes_a_part_of_the_logits_and_finds_the_same_surprise(opened):
    engine = opened(Salience(), n_ctx=512)
    tokens = np.asarray(engine.tokenize(TEXT * 3 + FIGURES))
    logits = np.concatenate([rows.copy() for rows in engine.logits(tokens, n_ubatch=48)])  # all: nll wants them
    assert engine._context.n_vocab == 0
    engine.reset()
    for _ in engine.read(tokens):
        assert engine._context.n_vocab == n_frequent(49152)
    assert engine.stats.n_compactions == 0
    read = engine._session._history.losses[1:].astype(np.float32)
    fed = losses_of(logits[:-1], tokens[1:])
    assert np.abs(read - fed).max() < 0.5  # other ubatches round otherwise
    assert np.corrcoef(read, fed)[0, 1] > 0.999


def test_salience_without_surprise_keeps_no_losses(opened):
    engine = opened(Salience(n_recent=64, surprise=0))
    engine.nll(engine.tokenize(TEXT * 8), n_ubatch=16)
    assert len(engine._session._history.losses) == 0


def test_more_queries_than_cells_are_refused_with_the_numbers(model_path):
    with pytest.raises(PolicyError, match=r"300 queries cannot vote in a memory of 200 cells; lower n_query to 200"):
        Engine(str(model_path), n_ctx=200, policy=H2O(n_query=300), n_threads=1)
