"""`lacache eval`: memories as they are written, runs that are interrupted and resumed, perplexity on a stand-in."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lacache_app.evaluate.results import ResultLog
from lacache_app.evaluate.runner import Item, Stopped, run
from lacache_app.settings import policy_dict

from lacache_gguf.errors import MemoryFull, UsageError
from lacache_gguf.policies import default_policy


@pytest.fixture
def engine(fake_engine, model) -> Any:
    """The stand-in, and a model file to find."""
    return fake_engine


@pytest.fixture
def novel(tmp_path) -> Path:
    path = tmp_path / "novel.txt"
    path.write_text("a banana, an avocado and a pear; " * 100, encoding="utf-8")
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# ---- runs ------------------------------------------------------------------------------------------------------------


class Still:
    """What a progress bar wants to know of an engine."""

    class stats:
        n_cells = n_ctx = n_compactions = 0


def item(number: int, measured: list[int], error: Exception | None = None) -> Item:
    def measure(tick: Any) -> dict[str, Any]:
        tick(5, Still())
        if error:
            raise error
        measured.append(number)
        tick(5, Still())
        return {"value": number}

    return Item(f"item {number}", {"number": number}, 10, measure)


def test_what_is_stored_is_not_run_again(tmp_path: Path) -> None:
    path, measured = tmp_path / "deep" / "r.jsonl", []
    items = [item(n, measured) for n in range(3)]
    run(items[:2], ResultLog(path, False, {}))
    log = ResultLog(path, True, {})
    result = run(items, log)
    assert measured == [0, 1, 2]
    assert [row["value"] for row in result.rows.values()] == [0, 1, 2]
    assert (log.n_found, len(lines(path))) == (2, 3)


def test_a_stop_loses_the_item_under_way_only(tmp_path: Path) -> None:
    path, measured, progress = tmp_path / "r.jsonl", [], []
    items = [item(n, measured) for n in range(3)]
    result = run(
        items, ResultLog(path, False, {}), lambda p, t: progress.append((p.n_done, t)), lambda: len(progress) > 2
    )
    assert result.is_stopped
    assert measured == [0]
    assert len(lines(path)) == 1
    assert progress == [(5, "1/3 item 0"), (10, "1/3 item 0"), (15, "2/3 item 1")]


def test_a_refusal_is_told_and_the_next_one_has_its_turn(tmp_path: Path) -> None:
    measured: list[int] = []
    items = [item(0, measured, MemoryFull("no room")), item(1, measured)]
    result = run(items, ResultLog(None, False, {}))
    assert result.refused == {items[0].id: "no room"}
    assert measured == [1]


def test_half_a_line_of_a_killed_run_is_cut_off(tmp_path: Path) -> None:
    path, measured = tmp_path / "r.jsonl", []
    items = [item(n, measured) for n in range(2)]
    run(items, ResultLog(path, False, {}))
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    run(items, ResultLog(path, True, {}))
    assert measured == [0, 1, 1]
    assert path.read_bytes() == data


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    with pytest.raises(UsageError, match="exists; --resume"):
        ResultLog(path, False, {})
    with pytest.raises(UsageError, match="line 1, is no result"):
        ResultLog(path, True, {})
    assert path.read_text() == "my notes\n"


def test_an_item_that_was_stopped_before_it_began(tmp_path: Path) -> None:
    assert run([item(0, [])], ResultLog(None, False, {}), is_stopped=lambda: True).is_stopped
    with pytest.raises(Stopped):
        raise Stopped


# ---- ppl -------------------------------------------------------------------------------------------------------------


def test_ppl_prints_tables_and_stores_lines(engine, lacache, novel, tmp_path) -> None:
    out_file = tmp_path / "ppl.jsonl"
    args = ("eval", "ppl", "--text", novel, "--tokens", 1300, "-c", "256,512", "--json-out", out_file)
    code, out, err = lacache(*args)
    assert code == 0, err
    assert out.count("novel.txt, 256 cells") == 1
    assert out.count("novel.txt, 512 cells") == 1
    rows = {(row["name"], row["memory"]["n_ctx"]): row for row in lines(out_file)}
    assert set(rows) == {(name, n) for name in ("default", "sink_window") for n in (256, 512)} | {("full", 1536)}
    row = rows["default", 512]
    assert row["memory"]["policy"] == policy_dict(default_policy(30, 512))
    assert (row["n_predicted"], row["n_ubatch"], row["text"]["name"]) == (1300, 16, "novel.txt")
    assert row["perplexity"] == pytest.approx(np.exp(sum(row["loss_sums"]) / 1300), rel=1e-4)
    assert row["run"]["version"]
    assert row["n_cells_peak"] == 512
    assert rows["full", 1536]["perplexity"] <= row["perplexity"] < rows["sink_window", 512]["perplexity"]
    assert "100 %" in out
    assert "1,024" in out.splitlines()[1]
    assert "1,300" in out.splitlines()[1]
    assert all(opened.is_closed for opened in engine.opened)
    n_opened = len(engine.opened)
    code, again, err = lacache(*args, "--resume")
    assert (code, again) == (0, out)
    assert "in" in err
    assert len(engine.opened) == n_opened + 1  # the weights alone
    assert lacache(*args)[0] == 2


def test_all_texts_get_a_table_of_their_own(engine, lacache, novel, tmp_path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("an avocado and a pear; " * 80, encoding="utf-8")
    code, out, _ = lacache("eval", "ppl", "--text", novel, "--text", other, "--tokens", 700, "-c", 256)
    assert code == 0
    assert "all texts, 256 cells" in out
    assert [line.split()[0] for line in out.split("all texts")[1].splitlines()[2:5]] == [
        "default",
        "sink_window",
        "full",
    ]


def test_equal_bytes_buy_more_cells_of_smaller_types(engine, lacache, novel) -> None:
    memories = ("--memory", "sink_window", "--memory", "sink_window:ctk=q8_0,ctv=q4_0")
    code, out, _ = lacache("eval", "ppl", "--text", novel, "--tokens", 300, "--kv-budget", "12MiB", *memories)
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()[2:4]] == ["512", "1,280"]


def test_beyond_the_trained_context_the_full_cache_slides(engine, lacache, tmp_path) -> None:
    long = tmp_path / "long.txt"
    long.write_text("avocado " * 1200, encoding="utf-8")
    args = ("--text", long, "--tokens", 8500, "-ub", 256, "--memory", "full")
    code, out, _ = lacache("eval", "ppl", *args)
    assert code == 0
    assert "full: a full window of 8,192 cells that slides" in out


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "KIND"),
        (("ppl", "--memory", "staircase"), "'staircase' is unknown"),
        (("ppl", "-c", "256", "--kv-budget", "8MiB"), "both set"),
        (("ppl", "-c", "many"), "'many' is not understood"),
        (("ppl", "--baseline", "ladder:span=3"), "--baseline 'ladder:span=3' is not among the memories"),
        (("ppl", "--resume"), "--json-out FILE"),
        (("ppl", "--text", "nowhere.txt"), "no file 'nowhere.txt'"),
        (("ppl", "--tokens", "0"), "'0' is no number of tokens"),
    ],
)
def test_usage_errors(engine, lacache, args, text) -> None:
    code, out, err = lacache("eval", *args)
    assert (code, out) == (2, "")
    assert text in err


def test_what_cannot_be_is_refused_and_the_rest_measured(engine, lacache, novel) -> None:
    memories = ("--memory", "ladder:span=77", "--memory", "sink_window")
    code, out, err = lacache("eval", "ppl", "--text", novel, "--tokens", 200, "-c", 256, *memories)
    assert code == 0
    assert "refused: ladder:span=77: ladder: span 77 exceeds the 30 layers" in err
    assert "sink_window" in out
    assert lacache("eval", "ppl", "--text", novel, "--tokens", 200, "-c", 256, *memories[:2])[0] == 7


def test_ctrl_c_keeps_what_is_done(engine, lacache, novel, monkeypatch, tmp_path) -> None:
    n_calls = 0
    logits = engine.logits

    def slow(self: Any, *args: Any) -> Iterator[np.ndarray]:
        nonlocal n_calls
        for rows in logits(self, *args):
            n_calls += 1
            if n_calls == 30:
                signal.raise_signal(signal.SIGINT)
            yield rows

    monkeypatch.setattr(engine, "logits", slow)
    out_file = tmp_path / "r.jsonl"
    args = ("--text", novel, "--tokens", 400, "-c", 256, "--json-out", out_file)
    code, out, err = lacache("eval", "ppl", *args)
    assert code == 130
    assert len(lines(out_file)) == 1
    assert f"go on with --resume --json-out {out_file}" in err
    assert "default" in out
    assert "sink_window" not in out.splitlines()[2]
