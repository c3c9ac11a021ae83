"""ROUGE by hand, summaries against references, the first look, pictures."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lacache_app.evaluate.plots import quality
from lacache_app.evaluate.rouge import n_common_subsequence, rouge, words

PNG = b"\x89PNG\r\n"


@pytest.fixture
def engine(fake_engine, model) -> Any:
    """The stand-in, and a model file to find."""
    return fake_engine


@pytest.fixture
def novel(tmp_path) -> Path:
    path = tmp_path / "novel.txt"
    path.write_text("a banana, an avocado and a pear; " * 200, encoding="utf-8")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# ---- ROUGE -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "summary", "one", "two", "longest"),
    [
        # 4 of 6 words, 2 of 5 pairs (on the, the mat), "cat on the mat"
        ("The cat sat on the mat.", "A cat was on the mat", (4 / 6, 4 / 6), (2 / 5, 2 / 5), (4 / 6, 4 / 6)),
        # every word, no order: the longest common subsequence is one word
        ("one two three", "three two one", (1, 1), (0, 0), (1 / 3, 1 / 3)),
        # a word counts as often as both have it
        ("the the cat", "the the the the", (2 / 4, 2 / 3), (1 / 3, 1 / 2), (2 / 4, 2 / 3)),
        ("same words", "Same, WORDS!", (1, 1), (1, 1), (1, 1)),
        ("something", "", (0, 0), (0, 0), (0, 0)),
        ("", "something", (0, 0), (0, 0), (0, 0)),
        ("Größe 2", "größe 2", (1, 1), (1, 1), (1, 1)),
    ],
)
def test_rouge_by_hand(reference, summary, one, two, longest) -> None:
    scores = rouge(reference, summary)
    for name, (precision, recall) in zip(("rouge1", "rouge2", "rougeL"), (one, two, longest), strict=True):
        score = scores[name]
        assert (score.precision, score.recall) == pytest.approx((precision, recall)), name
        total = precision + recall
        assert score.f == pytest.approx(2 * precision * recall / total if total else 0)


@given(st.lists(st.sampled_from("abcd"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
def test_the_longest_common_subsequence_is_the_textbook_one(a: list[str], b: list[str]) -> None:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    assert n_common_subsequence(a, b) == table[-1][-1]


def test_words_are_letters_and_digits() -> None:
    assert words("It's 3.5 snake_case - naïve!") == ["it", "s", "3", "5", "snake", "case", "naïve"]


# ---- summary ---------------------------------------------------------------------------------------------------------


def test_summaries_are_scored_against_their_references(engine, lacache, novel, tmp_path) -> None:
    reference = tmp_path / "reference.txt"
    reference.write_text("A summary of many tokens, café included.", encoding="utf-8")
    out_file = tmp_path / "r.jsonl"
    args = ("--text", novel, "--reference", reference, "-c", 512, "--json-out", out_file)
    code, out, err = lacache("eval", "summary", *args, "--show")
    assert code == 0, err
    rows = {row["name"]: row for row in lines(out_file)}
    assert set(rows) == {"default", "sink_window", "full"}
    row = rows["default"]
    assert row["summary"].startswith("A summary of")
    assert row["rouge1"] == pytest.approx(rouge(reference.read_text("utf-8"), row["summary"])["rouge1"].f, abs=1e-4)
    assert 0.5 < row["rouge1"] < 1
    assert row["n_compactions"] > 0
    assert rows["full"]["n_compactions"] == 0
    assert "ROUGE-L" in out
    assert out.count("café included") == 3
    assert engine.opened[-1].sampling["temperature"] == 0


def test_documents_and_references_come_in_pairs(engine, lacache, novel) -> None:
    code, _, err = lacache("eval", "summary", "--text", novel)
    assert code == 2
    assert "1 documents and 0 references" in err


# ---- compare ---------------------------------------------------------------------------------------------------------


def test_the_first_look_is_one_table(engine, lacache, novel, tmp_path) -> None:
    out_file = tmp_path / "r.jsonl"
    args = ("--text", novel, "-c", 400, "--json-out", out_file, "--plots", tmp_path / "plots")
    code, out, err = lacache("eval", "compare", *args)
    assert code == 0, err
    header, columns, *rows = out.strip().splitlines()
    assert header == "400 cells: 2,400 tokens of text, pass keys in prompts of 1,000"
    assert columns.split()[:3] == ["memory", "cells", "KV"]
    assert [row.split()[0] for row in rows] == ["default", "sink_window", "full"]
    assert "100 %" in rows[2]
    assert {row["eval"] for row in lines(out_file)} == {"agree", "recall"}
    assert len(list((tmp_path / "plots").glob("*.png"))) == 2
    assert lacache("eval", "compare", *args, "--resume")[1] == out


# ---- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_are_png_files(engine, lacache, novel, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "new" / "plots"
    common = ("--plots", folder)
    assert lacache("eval", "ppl", "--text", novel, "--tokens", 900, "-c", "256,512", *common)[0] == 0
    assert lacache("eval", "agree", "--text", novel, "--tokens", 900, "-c", "256", *common)[0] == 0
    code, _, err = lacache("eval", "passkey", "--length", "700,900", "--depths", 3, "--trials", 1, *common)
    assert code == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "perplexity-novel.txt-256.png",
        "perplexity-novel.txt-512.png",
        "quality.png",
        "agreement-novel.txt-256.png",
        "passkey-50-of-the-prompt.png",
        "passkey-25-of-the-prompt.png",
    }
    assert all(path.read_bytes().startswith(PNG) for path in folder.iterdir())
    assert f"drew {folder / 'passkey-50-of-the-prompt.png'}" in err


def test_quality_is_the_mean_of_all_texts_at_every_size() -> None:
    def case(memory: str, text: str, size: int, mib: int, item: str) -> SimpleNamespace:
        named = SimpleNamespace(name=memory, policy=memory), SimpleNamespace(name=text), SimpleNamespace(id=item)
        setup = SimpleNamespace(kv_bytes=mib * 2**20)
        return SimpleNamespace(spec=named[0], text=named[1], item=named[2], size=size, setup=setup)

    cases, rows = [], {}
    for t, text in enumerate(("essay", "play")):
        for size in (1, 2):
            for memory, mib, item in (("full", 90, f"{text} full"), ("default", size, f"{text} {size}")):
                cases.append(case(memory, text, size, mib, item))
                loss = t + (0 if memory == "full" else 1 / size)
                rows[item] = {"loss_sums": [100 * loss], "n_predicted": 100}
    del rows["play 2"]  # not measured yet
    found = quality(cases, SimpleNamespace(rows=rows))
    assert found["full"] == [(90, pytest.approx(math.exp(0.5)))], "once, however many sizes it is compared with"
    assert found["default"] == [(1, pytest.approx(math.exp(1.5)))]


def test_without_matplotlib_nothing_runs(engine, lacache, novel, tmp_path, monkeypatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find_spec(name, *a)
    )
    code, _, err = lacache("eval", "ppl", "--text", novel, "--plots", tmp_path)
    assert code == 2
    assert "pip install 'lacache-gguf[plots]'" in err
    assert engine.opened == []


def test_a_folder_that_cannot_be_made(engine, lacache, novel, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("")
    args = ("--text", novel, "--tokens", 300, "-c", 256, "--memory", "ladder", "--plots", tmp_path / "file" / "plots")
    code, out, err = lacache("eval", "ppl", *args)
    assert code == 11
    assert "ladder" in out
    assert "cannot write" in err


def test_a_curve_ends_with_the_text() -> None:
    from lacache_app.evaluate.plots import _curve
    from lacache_app.evaluate.stats import Blocks

    values = np.random.default_rng(0).normal(size=10_000)
    x, y = _curve(Blocks.of(values))
    assert x[-1] == 10_000
    assert len(x) == len(y) < 50
    assert y[0] == pytest.approx(values[: x[0]].mean())
