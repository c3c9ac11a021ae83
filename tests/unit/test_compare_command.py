"""`lacache compare`: a table and the answers, or JSON, and wrong flags answered in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lacache_app import cli

pytestmark = pytest.mark.model  # sizes come from the header of the embedded model


@pytest.fixture
def document(tmp_path: Any) -> str:
    path = tmp_path / "story.txt"
    path.write_text("A long story. " * 200, encoding="utf-8")
    return str(path)


def test_the_command_prints_a_table_and_answers(fake_engine: Any, document: str, capsys: Any) -> None:
    code = cli.main(["compare", "Who?", "-d", document, "--kv-budget", "6MiB"])
    out, err = capsys.readouterr()
    assert code == 0
    assert out.count("Window") == 2  # the table and the heading of its answer
    assert "Best choice (" in out
    assert "256" in out
    assert "refused: " in out
    assert "3 of 4: Ladder, as published" in err
    assert len(fake_engine.opened) == 4


def test_the_command_as_json(fake_engine: Any, document: str, capsys: Any) -> None:
    code = cli.main(["compare", "Who?", "-d", document, "--json", "-n", "5", "--memory", "ladder", "--memory", "full"])
    result = json.loads(capsys.readouterr().out)
    assert code == 0
    assert result["kv_budget_bytes"] == 16 << 20
    ladder, full = result["memories"]
    assert (ladder["memory"], ladder["finish_reason"], ladder["n_written"]) == ("Ladder", "length", 5)
    assert full["refused"]
    assert fake_engine.opened[0].sampling["repeat_penalty"] == 1.1


def test_when_nobody_could_answer_the_exit_code_says_so(fake_engine: Any, document: str, capsys: Any) -> None:
    del fake_engine
    assert cli.main(["compare", "Who?", "-d", document, "--memory", "full", "--memory", "full"]) == 7
    assert "refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--memory", "ladder"], "1 memories"),
        (["--memory", "lader", "--memory", "full"], "'lader' is unknown"),
        (["--span", "8"], "--memory ladder:span=8"),
        (["--heads", "each"], "say it for one memory"),
        (["--memory", "ladder:cells=512", "--memory", "full"], "all have the same size"),
        (["-d", "missing.txt"], "missing.txt"),
        (["--kv-budget", "lots"], "lots"),
    ],
)
def test_wrong_flags_are_answered_in_words(fake_engine: Any, capsys: Any, flags: list[str], words: str) -> None:
    assert cli.main(["compare", "Who?", *flags]) in (1, 2)
    assert words in capsys.readouterr().err
    assert fake_engine.opened == []


def test_kv_types_hold_for_all_and_cells_are_a_budget_too(fake_engine: Any, capsys: Any) -> None:
    memories = ["--memory", "ladder", "--memory", "ladder:k=q5_1"]
    assert cli.main(["compare", "Who?", "-c", "512", "-ctk", "q8_0", *memories]) == 0
    assert [(e.settings["n_ctx"], e.settings["type_k"]) for e in fake_engine.opened] == [(512, "q8_0"), (512, "q5_1")]
    capsys.readouterr()
