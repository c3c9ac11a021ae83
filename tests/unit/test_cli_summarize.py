"""`lacache summarize` on the fake engine: what it prints where, and what is left when it is interrupted."""

from __future__ import annotations

import io
import json
import os
import signal
import sys

import pytest
from lacache_app.summarize import INSTRUCTION

pytestmark = pytest.mark.usefixtures("model")


def test_summarize_prints_the_summary_on_stdout_and_the_table_on_stderr(fake_engine, lacache, page):
    code, out, err = lacache("summarize", page)
    n_read = len(fake_engine.opened[0].seen) - fake_engine.opened[0].n_decoded
    assert (code, out) == (0, f"A summary of {n_read} tokens, café included.\n")
    assert "KV memory of a full cache" in err


def test_summarize_json_is_one_object_and_nothing_else(fake_engine, lacache, page):
    code, out, err = lacache("summarize", page, "--json")
    result = json.loads(out)
    engine = fake_engine.opened[0]
    assert code == 0
    assert err == ""
    assert out.count("\n") == 1
    assert result["summary"] == f"A summary of {result['n_read']} tokens, café included."
    assert result["finish_reason"] == "stop"
    assert result["documents"] == [page]
    assert result["n_seen"] == len(engine.seen)
    assert result["kv_mib_full_cache"] > result["kv_mib_used_peak"]


def test_summarize_pins_the_instruction_and_takes_another(fake_engine, lacache, page):
    lacache("summarize", page, "-p", "List the names.")
    engine = fake_engine.opened[0]
    assert engine.detokenize(engine.seen[: engine.n_pinned]).endswith("List the names.\n\n")
    assert INSTRUCTION not in engine.detokenize(engine.seen)


def test_summarize_several_files_names_them(fake_engine, lacache, page, tmp_path):
    (tmp_path / "b.md").write_bytes("Käse".encode("cp1252"))
    code, _, err = lacache("summarize", page, str(tmp_path / "b.md"))
    assert code == 0
    assert "read as Windows-1252" in err
    seen = fake_engine.opened[0].detokenize(fake_engine.opened[0].seen)
    assert f"File: {page}" in seen
    assert f"File: {tmp_path / 'b.md'}\n\nKäse" in seen


def test_summarize_standard_input(fake_engine, lacache, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped text")))
    assert lacache("summarize", "-")[0] == 0
    assert "piped text" in fake_engine.opened[0].detokenize(fake_engine.opened[0].seen)


def test_cut_summaries_say_so(fake_engine, lacache, page):
    code, out, err = lacache("summarize", page, "-n", "9")
    assert (code, out) == (0, "A summary\n")
    assert "cut at -n tokens" in err


def interrupt_at(monkeypatch, engine_class, n_done: int) -> None:
    """Press Ctrl-C when so many tokens were read."""
    answer = engine_class.answer

    def answer_and_interrupt(self, *args, **settings):
        for event in answer(self, *args, **settings):
            if getattr(event, "n_done", 0) >= n_done:
                os.kill(os.getpid(), signal.SIGINT)
            yield event

    monkeypatch.setattr(engine_class, "answer", answer_and_interrupt)


@pytest.mark.parametrize("is_json", [False, True])
def test_ctrl_c_while_reading(fake_engine, lacache, page, monkeypatch, is_json):
    interrupt_at(monkeypatch, fake_engine, 600)
    code, out, err = lacache("summarize", page, "-ub", "100", *(["--json"] if is_json else []))
    engine = fake_engine.opened[0]
    assert code == 130
    assert len(engine.seen) == 600, "it stops behind the ubatch under way"
    assert "stopped" in err
    assert engine.is_closed
    if is_json:
        result = json.loads(out)
        assert (result["summary"], result["finish_reason"], result["n_read"]) == ("", "interrupted", 600)
    else:
        assert "tokens seen" in err


def test_ctrl_c_while_writing_keeps_the_text(fake_engine, lacache, page, monkeypatch):
    answer = fake_engine.answer

    def answer_and_interrupt(self, *args, **settings):
        for event in answer(self, *args, **settings):
            if hasattr(event, "token") and self.n_decoded == 9:
                os.kill(os.getpid(), signal.SIGINT)
            yield event

    monkeypatch.setattr(fake_engine, "answer", answer_and_interrupt)
    code, out, err = lacache("summarize", page)
    assert (code, out) == (130, "A summary\n")
    assert "so far is kept" in err
