"""A memory that was saved and loaded goes on exactly as it would have; a file that does not fit changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from lacache_gguf import Engine, Ladder, SinkWindow, checkpoint
from lacache_gguf.errors import CheckpointMismatch, DamagedCheckpoint, StorageError, UsageError
from lacache_gguf.events import Progress, Step

pytestmark = pytest.mark.model

TEXT = "The lighthouse keeper wrote one line every night. Ships came and went, and the sea kept its own diary. "
POLICY = Ladder(span=15, n_recent=64)
NOTE = {"title": "diary", "done": 3}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


@pytest.fixture(scope="module")
def engine(model_path):
    with Engine(str(model_path), n_ctx=256, policy=POLICY) as engine:
        yield engine


@pytest.fixture(scope="module")
def other(model_path):
    """A second engine with the same settings: what a restarted program has."""
    with Engine(str(model_path), n_ctx=256, policy=POLICY) as engine:
        yield engine


@pytest.fixture(autouse=True)
def _fresh(engine, other):
    engine.reset()
    other.reset()


def everything(engine) -> tuple:
    """All that must be the same after a load, apart from seconds."""
    stats = engine.stats
    counts = (stats.n_seen, stats.n_cells, stats.n_cells_peak, stats.n_compactions, stats.n_read, stats.n_decoded)
    transcript = engine._conversation.transcript
    cells = engine._context.state().tobytes() if stats.n_seen else b""
    return (*counts, engine.seen.tolist(), engine.held.tolist(), transcript.text, transcript.marks, cells)


def write(engine, n: int, tokens=()) -> list[int]:
    return [e.token for e in engine.generate(tokens, max_tokens=n, temperature=0) if isinstance(e, Step)]


def test_a_read_goes_on_in_another_process_as_if_nothing_had_happened(engine, other, tmp_path):
    """Saved in the middle of a long read with compactions before and after; then both write the same tokens."""
    messages, path = [user(TEXT * 40)], tmp_path / "memory.kv"
    n_saved = 0
    expected = []
    for event in engine.answer(messages, max_tokens=12, temperature=0, pinned=TEXT):
        if isinstance(event, Step):
            expected.append(event.token)
        elif event.n_compactions >= 6 and not n_saved:
            engine.save(path, NOTE)
            n_saved = event.n_done
    held, n_compactions, n_total = engine.held.copy(), engine.stats.n_compactions, event_total(engine, expected)

    assert other.load(path) == NOTE
    assert other.stats.n_compactions >= 6
    events = list(other.answer(messages, max_tokens=12, temperature=0, pinned=TEXT))
    first = events[0]
    assert isinstance(first, Progress)
    assert first.n_before == n_saved < first.n_done < first.n_total == n_total
    assert [e.token for e in events if isinstance(e, Step)] == expected
    assert other.stats.n_compactions == n_compactions > 10
    np.testing.assert_array_equal(other.held, held)
    np.testing.assert_array_equal(other.seen, engine.seen)
    assert everything(other) == everything(engine)


def event_total(engine, written: list[int]) -> int:
    """Tokens of the prompt: all that was fed but the answer, whose last token is fed only when another follows."""
    return len(engine._session.fed) - len(written) + sum(engine._model.is_eog(token) for token in written)


@pytest.mark.parametrize("n_before", [0, 1, 7])
def test_writing_goes_on_token_for_token(engine, other, tmp_path, n_before):
    """Also from the end of a read: the next token's distribution is in the file."""
    tokens, path = engine.tokenize(TEXT * 20)[:400], tmp_path / "memory.kv"
    list(engine.read(tokens))
    write(engine, n_before)
    engine.save(path)
    expected = write(engine, 10)
    other.load(path)
    assert write(other, 10) == expected
    assert everything(other) == everything(engine)


def test_a_saved_distribution_is_sampled_like_a_live_one(engine, other, tmp_path):
    for options in ({"temperature": 1.2}, {"temperature": 0.9, "top_k": 0, "repeat_penalty": 1.3}):
        engine.reset()
        list(engine.read(engine.tokenize("Once upon a time")))
        engine.save(tmp_path / "memory.kv")
        other.load(tmp_path / "memory.kv")
        drawn = [
            [(e.token, e.top_logprobs[0]) for e in one.generate(max_tokens=6, logprobs=3, seed=5, **options)]
            for one in (engine, other)
        ]
        assert drawn[0] == drawn[1]


def test_a_conversation_goes_on_with_a_warm_memory(engine, other, tmp_path):
    messages = [{"role": "system", "content": "You are terse."}, user("Name a colour.")]
    first = "".join(engine.chat(messages, max_tokens=8, temperature=0))
    engine.save(tmp_path / "memory.kv")
    messages += [{"role": "assistant", "content": first}, user("Another one.")]
    expected = "".join(engine.chat(messages, max_tokens=8, temperature=0))
    other.load(tmp_path / "memory.kv")
    events = list(other.answer(messages, max_tokens=8, temperature=0))
    assert events[0].n_before > 10
    assert "".join(e.text for e in events if isinstance(e, Step)) == expected


def test_it_may_be_saved_between_any_two_events(engine, other, tmp_path):
    path = tmp_path / "memory.kv"
    expected = write(engine, 6, engine.tokenize(TEXT * 8))
    engine.reset()
    written = []
    for event in engine.generate(engine.tokenize(TEXT * 8), max_tokens=6, temperature=0):
        engine.save(path)
        if isinstance(event, Step):
            written.append(event.token)
            other.load(path)
            assert other.seen.tolist() == engine.seen.tolist()
            if event.finish_reason is None:
                assert write(other, 6 - len(written)) == expected[len(written) :]
    assert written == expected


def test_an_empty_memory_can_be_saved(engine, other, tmp_path):
    engine.save(tmp_path / "memory.kv", NOTE)
    list(other.read(other.tokenize(TEXT)))
    assert other.load(tmp_path / "memory.kv") == NOTE
    assert (other.stats.n_seen, other.stats.n_cells) == (0, 0)
    assert everything(other) == everything(engine)


def test_loading_ends_what_is_under_way(engine, tmp_path):
    list(engine.read(engine.tokenize(TEXT)))
    engine.save(tmp_path / "memory.kv")
    run = engine.generate(max_tokens=5, temperature=0)
    next(run)
    engine.load(tmp_path / "memory.kv")
    with pytest.raises(UsageError, match="left behind"):
        next(run)


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(engine, tmp_path):
    list(engine.read(engine.tokenize(TEXT * 20)[:300]))
    path = tmp_path / "memory.kv"
    engine.save(path, NOTE)
    return path


def refused(engine, path, error, match: str) -> None:
    """Loading `path` fails, and a memory that holds something else is as it was and still works."""
    engine.reset()
    list(engine.answer([user("Name a colour.")], max_tokens=3, temperature=0))
    before = everything(engine)
    with pytest.raises(error, match=match):
        engine.load(path)
    assert everything(engine) == before
    assert write(engine, 2)


def test_damage_anywhere_is_noticed_and_changes_nothing(other, saved):
    data, rng = saved.read_bytes(), np.random.default_rng(0)
    places = [0, 7, 8, 15, 16, 40, len(data) - 1, len(data) - 33, *rng.integers(16, len(data), 12).tolist()]
    for at in places:
        saved.write_bytes(data[:at] + bytes([data[at] ^ (1 << (at % 8))]) + data[at + 1 :])
        with pytest.raises(DamagedCheckpoint):
            other.load(saved)
    for n in (0, 5, 16, 1000, len(data) // 2, len(data) - 1):
        saved.write_bytes(data[:n])
        with pytest.raises(DamagedCheckpoint):
            other.load(saved)
    refused(other, saved, DamagedCheckpoint, "damaged")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_ctx": 320, "policy": POLICY}, "n_ctx 256; here it is n_ctx 320"),
        ({"n_ctx": 256, "policy": SinkWindow()}, "policy ladder.*policy sink_window"),
        ({"n_ctx": 256, "policy": Ladder(span=14, n_recent=64)}, "span=15.*span=14"),
        ({"n_ctx": 256, "policy": POLICY, "type_k": "q8_0"}, "type_k f16; here it is type_k q8_0"),
        ({"n_ctx": 256, "policy": POLICY, "flash_attn": False}, "does not fit"),
    ],
)
def test_other_settings_are_refused_by_name(model_path, saved, options, text):
    with Engine(str(model_path), **options) as engine:
        refused(engine, saved, CheckpointMismatch, text)


def test_another_model_is_refused(engine, saved, monkeypatch):
    monkeypatch.setattr(checkpoint, "fingerprint", lambda _path: "0" * 64)
    refused(engine, saved, CheckpointMismatch, "model_sha256")


def test_a_right_digest_over_wrong_numbers_is_refused(engine, saved):
    """What another program could write: every array is checked against the counters before llama.cpp sees it."""
    content, arrays = checkpoint.read(saved)
    seen, held, memory = arrays["seen"], arrays["held"], content["session"]["memory"]
    wrong_arrays = [
        {"seen": seen[:-1]},
        {"seen": seen + 100_000},
        {"pending": np.asarray([-1], dtype=np.int32)},
        {"held": held + 1000},
        {"held": held[:, ::-1]},
        {"held": held[1:]},
        {"logits": arrays["logits"][:-1]},
        {"cells": arrays["cells"][:-1]},
        {"cells": arrays["cells"][:4]},
        {"cells": np.empty(0, dtype=np.uint8)},
        {"marks": arrays["marks"] + 5},
    ]
    for wrong in wrong_arrays:
        checkpoint.write(saved, content, {**arrays, **wrong})
        refused(engine, saved, CheckpointMismatch, "does not fit")
    wrong_counts = {"n_cells": 9999, "n_seen": -1, "cursor": -5, "n_pinned": 4000, "n_cells_peak": 1, "sweep": None}
    for name, value in wrong_counts.items():
        session = {**content["session"], "memory": {**memory, name: value}}
        checkpoint.write(saved, {**content, "session": session}, arrays)
        refused(engine, saved, CheckpointMismatch, "does not fit")
    for missing in ("of", "session"):
        checkpoint.write(saved, {name: value for name, value in content.items() if name != missing}, arrays)
        refused(engine, saved, CheckpointMismatch, r"memory\.kv")


def test_an_unwritable_folder_is_said_and_the_memory_stays(engine, tmp_path):
    list(engine.read(engine.tokenize(TEXT)))
    before = everything(engine)
    with pytest.raises(StorageError, match="absent"):
        engine.save(tmp_path / "absent" / "memory.kv")
    assert everything(engine) == before
