"""What is remembered, and agreement with the full cache: puzzles, prompts, the numbers, the commands on a stand-in."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lacache_app.evaluate.agree import compare
from lacache_app.evaluate.recall import Plan, fit, prompt_of
from lacache_app.evaluate.tasks import N_COMMON, N_KEYS, TASKS, Puzzle

from lacache_gguf.errors import UsageError
from lacache_gguf.sampling import log_softmax


@pytest.fixture
def engine(fake_engine, model) -> Any:
    """The stand-in, and a model file to find."""
    return fake_engine


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# ---- puzzles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
@given(seed=st.integers(0, 999), depth=st.floats(0, 1), n_units=st.integers(1, 60))
@settings(max_examples=30)
def test_the_text_holds_the_answers_and_the_question_does_not_give_them(name, seed, depth, n_units) -> None:
    puzzle = TASKS[name].make(random.Random(seed), depth, n_units)
    assert puzzle == TASKS[name].make(random.Random(seed), depth, n_units)
    assert puzzle.score(puzzle.document) == 1 or (name == "words" and n_units < 4)
    assert puzzle.score(" ".join((puzzle.instruction, puzzle.question, puzzle.opening))) == 0
    assert puzzle.score(", ".join(puzzle.answers)) == 1
    assert len(set(puzzle.answers)) == len(puzzle.answers)


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.has_depth])
def test_what_is_asked_for_stands_at_its_depth(name) -> None:
    for depth in (0.0, 0.25, 0.5, 1.0):
        puzzle = TASKS[name].make(random.Random(7), depth, 200)
        place = puzzle.document.index(puzzle.answers[0]) / len(puzzle.document)
        assert place == pytest.approx(depth, abs=0.02)


def test_the_longer_the_text_the_more_filler() -> None:
    for task in TASKS.values():
        sizes = [len(task.make(random.Random(1), 0.5, n).document) for n in range(1, 400, 7)]
        assert sizes == sorted(sizes)
        assert sizes[-1] > 20 * sizes[1]


def test_common_words_are_ten_times_as_common() -> None:
    puzzle = TASKS["words"].make(random.Random(3), 0.5, 40)
    words = puzzle.document.strip(".").split(", ")
    counts = {word: words.count(word) for word in words}
    least = min(counts.values())
    assert sorted(word for word, n in counts.items() if n > least) == sorted(puzzle.answers)
    assert {counts[word] for word in puzzle.answers} == {10 * least}
    assert len(puzzle.answers) == N_COMMON


def test_variables_pass_their_value_on_in_order() -> None:
    puzzle = TASKS["variables"].make(random.Random(3), 0.5, 50)
    places = [puzzle.document.index(f"Let {name} be") for name in puzzle.answers]
    assert places == sorted(places)
    assert len(places) == N_KEYS


@pytest.mark.parametrize(
    ("said", "score"),
    [("12345", 1), ("It is 12345.", 1), ("123456", 0), ("x12345", 0), ("1 2345", 0), ("", 0)],
)
def test_a_number_counts_when_it_stands_alone(said: str, score: float) -> None:
    assert Puzzle("", "", "", "", ("12345",)).score(said) == score


def test_parts_of_an_answer_count() -> None:
    assert Puzzle("", "", "", "", ("red", "blue", "green", "pink")).score("Red, and GREENISH blue") == 0.5


# ---- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_chat", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_a_prompt_is_as_long_as_it_may_be_and_pins_the_instruction(fake_engine, name, is_chat) -> None:
    engine = fake_engine()
    prompt = fit(engine, TASKS[name], 5, 0.5, 3000, is_chat)
    assert 2800 < len(prompt.tokens) <= 3000
    pinned = engine.detokenize(prompt.tokens[: prompt.n_pinned])
    assert pinned.endswith(prompt.puzzle.instruction)
    assert engine.detokenize(prompt.tokens).endswith(prompt.puzzle.opening)
    assert prompt.tokens[0] == engine.bos_tokens()[0]
    assert prompt == fit(engine, TASKS[name], 5, 0.5, 3000, is_chat)


def test_the_same_seed_asks_the_same_at_every_length(fake_engine) -> None:
    engine = fake_engine()
    for task in TASKS.values():
        short, long = (fit(engine, task, 2, 0.5, n).puzzle for n in (2000, 4000))
        assert short.answers == long.answers
        assert fit(engine, task, 3, 0.5, 2000).puzzle.answers != short.answers


def test_a_prompt_that_cannot_be_so_short(fake_engine) -> None:
    with pytest.raises(UsageError, match="needs more than 100 tokens"):
        fit(fake_engine(), TASKS["passkey"], 0, 0.5, 100)


def test_chat_prompts_are_the_models_own(fake_engine) -> None:
    puzzle = TASKS["passkey"].make(random.Random(0), 0.5, 2)
    text = fake_engine().detokenize(prompt_of(fake_engine(), puzzle, is_chat=True).tokens)
    assert text.startswith("<|start|>user\nIn the text below")
    assert text.endswith("<|start|>assistant\nThe pass key is")


def test_depths_go_from_the_beginning_to_the_end() -> None:
    assert Plan((), (), n_depths=5).depths == [0, 0.25, 0.5, 0.75, 1]
    assert Plan((), (), n_depths=1).depths == [0]


# ---- the commands ----------------------------------------------------------------------------------------------------


def test_passkey_counts_and_stores(engine, lacache, tmp_path, monkeypatch) -> None:
    def knows_what_it_holds(self: Any, max_tokens: int | None) -> Any:
        """Answers with the digits that every layer still holds."""
        held = set(np.asarray(self.held)[0].tolist())
        text = bytes(token if i in held else ord("_") for i, token in enumerate(self._seen) if token < 256)
        found = re.search(rb"The pass key is (\d{5})\.", text)
        self.reply = found[1].decode() if found else "I do not know"
        yield from original(self, max_tokens)

    original = engine._write
    monkeypatch.setattr(engine, "_write", knows_what_it_holds)
    out_file = tmp_path / "r.jsonl"
    args = ("eval", "passkey", "--length", 2000, "--depths", 3, "--json-out", out_file)
    code, out, err = lacache(*args)
    assert code == 0, err
    rows = {(row["name"], row["memory"]["n_ctx"], row["depth"]): row for row in lines(out_file)}
    assert len(rows) == 3 * (2 + 2 + 1)
    assert rows["full", 2304, 0.0]["scores"] == [1, 1]
    assert rows["sink_window", 1000, 1.0]["scores"] == [1, 1]
    assert rows["sink_window", 1000, 0.5]["scores"] == [0, 0]
    assert rows["sink_window", 1000, 0.5]["seeds"] == [2, 3]
    assert all(1900 < n <= 2000 for n in rows["full", 2304, 0.0]["n_tokens"])
    assert rows["sink_window", 1000, 0.5]["n_compactions_last"] > 0
    assert "6/6" in out
    assert "100 % [61, 100]" in out
    assert "25 % of the prompt" in out
    assert [line.split()[0] for line in out.splitlines()].count("full") == 1
    assert lacache(*args, "--resume")[1] == out


def test_needles_are_asked_for_by_name(engine, lacache) -> None:
    args = ("--task", "words", "--task", "multikey", "--length", 1500, "--depths", 1, "--trials", 1)
    code, out, _ = lacache("eval", "needles", *args, "-c", 256, "--memory", "ladder")
    assert code == 0
    assert "words, prompts of 1,500 tokens" in out
    assert "multikey, prompts of 1,500 tokens" in out
    assert "variables" not in out


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("passkey", "--ratio", "0.5", "-c", "256"), "both set the KV memory"),
        (("passkey", "--ratio", "half"), "'half' is no number of (a share)"),
        (("passkey", "--ratio", "2"), "give 0.001 to 1"),
        (("passkey", "--length", "10"), "give 64 to"),
        (("needles", "--task", "haystack"), "'haystack' is none of multikey"),
        (("agree", "--tokens", "9000"), "ends at the 8,192 positions"),
    ],
)
def test_usage_errors(engine, lacache, args, text) -> None:
    code, out, err = lacache("eval", *args)
    assert (code, out) == (2, "")
    assert text in err


# ---- agreement -------------------------------------------------------------------------------------------------------


def test_divergence_is_what_the_definition_says() -> None:
    rng = np.random.default_rng(0)
    p, q = (log_softmax(rng.normal(size=(5, 40)).astype(np.float32)) for _ in range(2))
    targets = np.array([1, 2, 3, 4, 5])
    divergence, same, loss = compare(p, q, targets)
    slow = [sum(np.exp(a) * (a - b) for a, b in zip(x, y, strict=True)) for x, y in zip(p, q, strict=True)]
    assert divergence == pytest.approx(slow, rel=1e-5)
    assert same.tolist() == [float(x.argmax() == y.argmax()) for x, y in zip(p, q, strict=True)]
    assert loss == pytest.approx([-q[i, t] for i, t in enumerate(targets)])
    assert compare(p, p, targets)[:2].tolist() == [[0] * 5, [1] * 5]


def test_agree_runs_the_full_cache_once_for_all_memories(engine, lacache, tmp_path) -> None:
    text = tmp_path / "novel.txt"
    text.write_text("a banana, an avocado and a pear; " * 100, encoding="utf-8")
    out_file = tmp_path / "r.jsonl"
    args = ("eval", "agree", "--text", text, "--tokens", 900, "-c", 256, "--json-out", out_file)
    code, out, err = lacache(*args)
    assert code == 0, err
    rows = {row["name"]: row for row in lines(out_file)}
    assert set(rows) == {"default", "sink_window"}
    assert [opened.n_ctx for opened in engine.opened].count(1024) == 1
    for row in rows.values():
        assert row["kl_sums"][0] == pytest.approx(0, abs=1e-4)  # nothing was thinned yet
        assert row["same_sums"][0] == 128
    assert rows["default"]["kl"] < rows["sink_window"]["kl"]
    assert out.splitlines()[1].startswith("memory")
    n_opened = len(engine.opened)
    more = lacache(*args, "--resume", "--memory", "default", "--memory", "ladder:span=3")
    assert more[0] == 0
    assert len(lines(out_file)) == 3
    assert len(engine.opened) == n_opened + 3  # weights, the new memory, the full cache


def test_a_memory_that_cannot_go_along_leaves_the_others(engine, lacache, tmp_path) -> None:
    text = tmp_path / "novel.txt"
    text.write_text("a banana, an avocado and a pear; " * 100, encoding="utf-8")
    args = ("--text", text, "--tokens", 600, "-c", 256, "-ub", 200, "--memory", "default", "--memory", "sink_window")
    code, out, err = lacache("eval", "agree", *args)
    assert code == 0
    assert "refused: default 256 novel.txt: n_ubatch is 200" in err
    assert "sink_window" in out
