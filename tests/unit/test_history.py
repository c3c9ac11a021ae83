"""What was fed: tokens and losses grow, are cut and replaced together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lacache_gguf.history import History


@pytest.mark.parametrize("has_losses", [False, True])
def test_it_holds_what_came_in_order(has_losses: bool) -> None:
    rng = np.random.default_rng(0)
    history, tokens, losses = History(has_losses), [], []
    for _ in range(300):
        chunk, lost = rng.integers(0, 1000, rng.integers(1, 40)), rng.random(40, dtype=np.float32).astype(np.float16)
        history.append(chunk, lost[: len(chunk)] if has_losses else None)
        tokens += chunk.tolist()
        losses += lost[: len(chunk)].tolist()
        if rng.random() < 0.2:
            n = int(rng.integers(0, len(tokens)))
            history.cut(n)
            del tokens[n:], losses[n:]
        assert history.tokens.tolist() == tokens
        assert history.losses.tolist() == (losses if has_losses else [])


def test_what_it_shows_cannot_be_written_to() -> None:
    history = History(True)
    history.append([1, 2], np.zeros(2, dtype=np.float32))
    for view in (history.tokens, history.losses):
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1


def test_a_saved_one_must_fit() -> None:
    history = History(True)
    history.append([1, 2, 3], np.ones(3, dtype=np.float32))
    tokens, losses = history.tokens.copy(), history.losses.copy()
    for wrong in (losses[:2], losses.astype(np.float64), losses * np.float16("nan"), np.empty(0, dtype=np.float32)):
        with pytest.raises(ValueError, match="losses are"):
            history.replace(tokens, wrong)
    with pytest.raises(ValueError, match="losses are"):
        History(False).replace(tokens, losses)
    assert history.losses.tolist() == [1, 1, 1]
    history.replace(tokens[:1], losses[:1])
    history.append([9] * 2000, np.zeros(2000, dtype=np.float32))
    assert (history.tokens[:2].tolist(), len(history.losses)) == ([1, 9], 2001)


def test_more_than_was_reserved(monkeypatch) -> None:
    monkeypatch.setattr("lacache_gguf.history._N_RESERVED", 100)
    history, n = History(True), 6400
    for first in range(0, n, 64):
        history.append(range(first, first + 64), np.full(64, 2.5, dtype=np.float32))
    assert history.tokens.tolist() == list(range(n))
    assert (history.losses == 2.5).all()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_history_takes_six_bytes_a_token_and_no_more() -> None:
    history, n = History(True), 300_000
    before = resident()
    for first in range(0, n, 64):
        history.append(range(first, first + 64), np.full(64, 2.5, dtype=np.float32))
    assert resident() - before < 1.3 * 6 * n


def resident() -> int:
    """Bytes of this process that lie in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
