"""`lacache summarize`: modes and formats, what is printed where, and going on after Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from lacache_app.commands import summarize as command
from lacache_app.summarize import LENGTHS, MODES, SAMPLING, STYLES, Jobs, Task, job


@pytest.fixture(autouse=True)
def _own_data(model, tmp_path, monkeypatch) -> None:
    """A model file for the stand-in engine, and a data folder of the test's own."""
    monkeypatch.setenv("LACACHE_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture
def book(tmp_path) -> str:
    """A Markdown file of six chapters."""
    path = tmp_path / "book.md"
    chapters = (f"# Chapter {n}\n\n" + f"Here is thing{n} and word{n}. " * 40 for n in range(1, 7))
    path.write_text("\n\n".join(chapters))
    return str(path)


@pytest.fixture
def interrupt(fake_engine, monkeypatch):
    """interrupt(n): press Ctrl-C at the n-th Progress."""

    def at(n: int) -> None:
        answer = fake_engine.answer
        count = [0]

        def answer_and_interrupt(self, *args, **settings):
            for event in answer(self, *args, **settings):
                count[0] += hasattr(event, "n_done")
                if count[0] == n:
                    os.kill(os.getpid(), signal.SIGINT)
                yield event

        monkeypatch.setattr(fake_engine, "answer", answer_and_interrupt)

    return at


def test_parts_mode_prints_the_summary_and_then_the_parts(fake_engine, lacache, book):
    code, out, err = lacache("summarize", book, "--mode", "parts", "-c", "2048")
    assert code == 0
    first, _, rest = out.partition("\n\n")
    assert first.startswith("A summary of ")
    rows = rest.strip().split("\n")
    assert [row.partition(":")[0] for row in rows] == [f"ch. {n}" for n in range(1, 7)]
    assert all("A summary of " in row for row in rows)
    assert "tokens seen" in err
    read = json.loads(lacache("summarize", book, "--mode", "parts", "-c", "2048", "--json")[1])
    assert read["n_read"] > len(Path(book).read_text()), "all stages are counted"


def test_json_has_mode_and_places(fake_engine, lacache, book, monkeypatch):
    monkeypatch.setattr(fake_engine, "reply", "It tells of thing3 and word3.")
    code, out, err = lacache("summarize", book, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result["mode"] == "whole"
    (place,) = result["places"]
    assert (place["label"], place["title"], place["text"]) == ("ch. 3", "Chapter 3", "It tells of thing3 and word3.")
    assert Path(book).read_text()[place["start"] : place["end"]].startswith("# Chapter 3")
    parts = json.loads(lacache("summarize", book, "--json", "--mode", "parts", "-c", "2048")[1])
    assert parts["mode"] == "parts"
    assert len(parts["places"]) == 6


def test_whole_mode_says_where_it_comes_from(fake_engine, lacache, book, monkeypatch):
    monkeypatch.setattr(fake_engine, "reply", "It tells of thing3 and word3. And of thing5 and word5.")
    _, out, _ = lacache("summarize", book)
    assert out == (
        "It tells of thing3 and word3. And of thing5 and word5.\n\n"
        "ch. 3: Chapter 3: It tells of thing3 and word3.\nch. 5: Chapter 5: And of thing5 and word5.\n"
    )


def test_style_length_and_language_reach_the_model(fake_engine, lacache, book):
    lacache("summarize", book, "--style", "bullets", "--length", "short", "--language", "German")
    told = fake_engine.opened[0].messages[0]["content"]
    assert told.startswith("Summarize")
    assert "list of three short points" in told
    assert "Write in German." in told


@pytest.mark.parametrize(("flags", "n"), [((), 256), (("--length", "short"), 96), (("--length", "long", "-n", "7"), 7)])
def test_length_is_a_number_of_tokens_unless_n_says_another(fake_engine, lacache, book, monkeypatch, flags, n):
    monkeypatch.setattr(fake_engine, "reply", "word " * 1000)
    lacache("summarize", book, *flags)
    assert fake_engine.opened[0].n_decoded == n


def test_ctrl_c_says_how_to_go_on_and_going_on_ends_the_same(fake_engine, lacache, book, interrupt, tmp_path):
    whole = lacache("summarize", book)[1]
    interrupt(20)
    code, out, err = lacache("summarize", book)
    assert (code, out) == (130, "")
    (found,) = Jobs(tmp_path / "data").unfinished()
    assert f"lacache summarize --resume {found.id}" in err
    n_done = len(fake_engine.opened[-1].seen)

    code, out, _ = lacache("summarize", "--resume")
    assert code == 0
    assert out == f"lacache summarize --resume {found.id}    # {book}, {100 * found.fraction:.0f} % read\n"

    code, out, _ = lacache("summarize", "--resume", found.id)
    assert (code, out) == (0, whole)
    assert fake_engine.opened[-1].stats.n_seen > n_done
    assert fake_engine.opened[-1].settings["n_ctx"] == 1024, "with the memory it was begun with"
    code, out, err = lacache("summarize", "--resume")
    assert (code, out) == (0, "")
    assert "nothing to go on with" in err


def test_a_summary_with_another_memory_goes_on_with_that_one(fake_engine, lacache, book, interrupt, tmp_path):
    interrupt(9)
    lacache("summarize", book, "-c", "2048", "--policy", "sink_window", "-ctk", "q8_0", "--mode", "parts")
    (found,) = Jobs(tmp_path / "data").unfinished()
    before = fake_engine.opened[-1].settings
    assert lacache("summarize", "--resume", found.id)[0] == 0
    after = fake_engine.opened[-1].settings
    assert {name: after[name] for name in ("n_ctx", "policy", "type_k", "type_v", "model")} == {
        name: before[name] for name in ("n_ctx", "policy", "type_k", "type_v", "model")
    }


def test_no_save_writes_nothing(fake_engine, lacache, book, interrupt, tmp_path):
    interrupt(20)
    code, _, err = lacache("summarize", book, "--no-save")
    assert code == 130
    assert "--resume" not in err
    assert not (tmp_path / "data").exists() or list((tmp_path / "data").rglob("*.txt")) == []


def test_a_finished_summary_leaves_nothing(fake_engine, lacache, book, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "FIRST_S", 0.0)
    assert lacache("summarize", book)[0] == 0
    assert list((tmp_path / "data" / "jobs").iterdir()) == []


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("--resume", "0123456789abcdef"), "no summary '0123456789abcdef'"),
        (("--resume", "../x"), "no id"),
        (("book.md", "--resume", "0123456789abcdef"), "leave out book.md"),
        (("book.md", "--mode", "some"), "'some' is none of whole, parts"),
        (("book.md", "--style", "x"), "none of paragraph"),
        (("book.md", "--length", "x"), "none of short"),
    ],
)
def test_usage_errors(fake_engine, lacache, args, text):
    code, out, err = lacache("summarize", *args)
    assert (code, out) == (2, "")
    assert text in err
    assert fake_engine.opened == []


def test_what_the_command_repeats_for_a_light_help_is_what_the_library_says():
    assert command._MODES == MODES
    assert command._STYLES == STYLES
    assert command._LENGTHS == LENGTHS
    assert command.SAMPLING == SAMPLING
    assert Task().n_final == command.N_PREDICT
