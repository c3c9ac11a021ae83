"""lacache chat: the conversation, its commands, Ctrl-C, the history file, and typed lines."""

from __future__ import annotations

import io
import json
import os
import signal
import stat
import sys
from collections.abc import Iterator

import pytest
from lacache_app import prompt
from lacache_app.console import ChatSession, Leave
from lacache_app.prompt import LineReader
from lacache_app.terminal import Terminal

from lacache_gguf.errors import MemoryFull


class Talk(ChatSession):
    """A session on the fake engine whose output is kept."""

    def __init__(self, engine, system: str = "") -> None:
        super().__init__(engine, Terminal(io.StringIO(), io.StringIO()), {"max_tokens": None, "seed": 1}, system)

    def says(self, line: str) -> tuple[str, str]:
        """(stdout, stderr) of one line."""
        self.handle(line)
        texts = []
        for stream in (self.terminal.out, self.terminal.err):
            texts.append(stream.getvalue())
            stream.seek(0)
            stream.truncate()
        return texts[0], texts[1]


@pytest.fixture
def talk(fake_engine):
    return Talk(fake_engine(), "Be brief.")


def test_answers_are_streamed_and_remembered(talk):
    out, err = talk.says("hello")
    assert out.startswith("A summary of ")
    assert out.endswith("café included.\n")
    assert err == ""
    talk.says("again")
    assert [message["role"] for message in talk.engine.messages] == ["system", "user", "assistant", "user"]
    assert talk.engine.messages[2]["content"] == out.rstrip("\n")
    assert talk.engine.sampling["seed"] == 1


def test_empty_lines_say_nothing(talk):
    assert talk.says("  \n") == ("", "")
    assert len(talk.engine.seen) == 0


def test_reset_keeps_the_system_message(talk):
    talk.says("hello")
    talk.says("/reset")
    assert (talk.messages, len(talk.engine.seen), talk.system) == ([], 0, "Be brief.")


def test_system_message(talk):
    assert "Be brief." in talk.says("/system")[1]
    talk.says("hello")
    talk.says("/system Be a pirate.")
    assert talk.messages == []
    talk.says("hello")
    assert talk.engine.messages[0] == {"role": "system", "content": "Be a pirate."}


def test_stats_show_the_engines_counters(talk):
    talk.says("hello")
    out, _ = talk.says("/stats")
    assert f"{len(talk.engine.seen):,}" in out
    assert "cells in use" in out


@pytest.mark.parametrize("line", ["/exit", "/quit"])
def test_leaving(talk, line):
    with pytest.raises(Leave):
        talk.handle(line)


def test_help_lists_every_command_and_unknown_ones_are_named(talk):
    shown = talk.says("/help")[1]
    for command in ("/help", "/stats", "/reset", "/system", "/save", "/exit"):
        assert command in shown
    assert "no command /nonsense" in talk.says("/nonsense now")[1]


def test_save_markdown_and_json(talk, tmp_path):
    out, _ = talk.says("hello")
    answer = out.strip()
    assert "saved 2 messages" in talk.says(f"/save {tmp_path / 'talk.md'}")[1]
    text = (tmp_path / "talk.md").read_text(encoding="utf-8")
    assert text == f"## system\n\nBe brief.\n\n## user\n\nhello\n\n## assistant\n\n{answer}\n"
    talk.says(f"/save {tmp_path / 'talk.json'}")
    assert json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))["messages"][1:] == talk.messages


def test_save_does_not_overwrite_foreign_files(talk, tmp_path):
    (tmp_path / "mine.md").write_text("precious")
    assert "exists already" in talk.says(f"/save {tmp_path / 'mine.md'}")[1]
    assert (tmp_path / "mine.md").read_text() == "precious"
    talk.says(f"/save {tmp_path / 'talk.md'}")
    talk.says("hello")
    assert "saved 2 messages" in talk.says(f"/save {tmp_path / 'talk.md'}")[1], "its own file may be written again"
    assert "error: /save needs a file name" in talk.says("/save")[1]
    for name in (tmp_path / "no" / "talk.md", "~nobody-of-that-name/talk.md", "x" * 300, "a\0b"):
        assert "error: cannot write" in talk.says(f"/save {name}")[1], "the chat goes on"


def test_an_error_is_shown_and_the_chat_goes_on(talk, monkeypatch):
    def full(*_args, **_settings):
        raise MemoryFull("the memory is full; raise --kv-budget")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(talk.engine, "chat", full)
        assert talk.says("hello") == ("", "error: the memory is full; raise --kv-budget\n")
    assert talk.messages == [], "an unanswered message is not part of the conversation"
    assert talk.says("hello")[0].startswith("A summary")


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C is heard, as in a terminal: a shell that starts tests in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(talk, monkeypatch):
    answered = talk.engine.chat

    def slow(messages, **settings):
        for i, piece in enumerate(answered(messages, **settings)):
            if i == 5:
                press_ctrl_c()
            yield piece

    monkeypatch.setattr(talk.engine, "chat", slow)
    out, err = talk.says("hello")
    assert out == "A summ\n", "the piece under way is the last"
    assert "(stopped)" in err
    assert talk.messages[-1] == {"role": "assistant", "content": "A summ"}
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "the handler is put back"


@pytest.mark.usefixtures("heard")
def test_ctrl_c_while_reading_forgets_the_message(talk, monkeypatch):
    read = talk.engine.read

    def slow(tokens, n_pinned=0):
        for progress in read(tokens, n_pinned):
            press_ctrl_c()
            yield progress

    monkeypatch.setattr(talk.engine, "read", slow)
    assert talk.says("hello") == ("", "(stopped before the answer)\n")
    assert talk.messages == []


# ---- lines -----------------------------------------------------------------------------------------------------------


def reader(monkeypatch, *lines: str) -> LineReader:
    """A LineReader that gets these lines, then the end of input."""
    left = list(lines)

    def read_line(_prompt: str) -> str:
        if not left:
            raise EOFError
        line = left.pop(0)
        if line == "^C":
            raise KeyboardInterrupt
        return line

    monkeypatch.setattr(prompt, "_is_pasting", lambda: False)
    return LineReader(read_line)


def test_lines_and_the_end(monkeypatch):
    lines = reader(monkeypatch, "one", "two")
    assert [lines.read(), lines.read(), lines.read()] == ["one", "two", None]


def test_a_trailing_backslash_goes_on(monkeypatch):
    assert reader(monkeypatch, "one\\", "two\\", "three").read() == "one\ntwo\nthree"


def test_ctrl_c_at_the_prompt_only_drops_the_line(monkeypatch, capsys):
    lines = reader(monkeypatch, "^C", "two")
    assert [lines.read(), lines.read()] == ["", "two"]


def test_pasted_lines_are_one_message_and_a_command_typed_ahead_is_not(monkeypatch):
    lines = reader(monkeypatch, "one", "two", "/stats")
    waiting = [True, True, False, False]
    monkeypatch.setattr(prompt, "_is_pasting", lambda: waiting.pop(0))
    assert [lines.read(), lines.read()] == ["one\ntwo", "/stats"]


def test_a_command_is_one_line(monkeypatch):
    lines = reader(monkeypatch, "/reset", "hello")
    monkeypatch.setattr(prompt, "_is_pasting", lambda: True)
    assert lines.read() == "/reset"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_history_belongs_to_its_owner_only(tmp_path, monkeypatch):
    """In a child with a terminal of its own: readline wants one."""
    pty = pytest.importorskip("pty")
    pytest.importorskip("readline")
    history = tmp_path / "state" / "lacache" / "history"
    code = (
        "from lacache_app.prompt import LineReader, state_dir\n"
        f"assert str(state_dir() / 'history') == {str(history)!r}\n"
        "lines = LineReader()\nwhile lines.read() is not None: pass\nlines.close()\n"
    )
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TERM", "xterm")
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", code])
    os.write(terminal, b"a secret\n")
    output = b""
    while b"secret" not in output.replace(b"\x1b[?2004l", b"") or output.count(b"> ") < 2:
        output += os.read(terminal, 1024)
    os.write(terminal, b"\x04")
    while True:
        try:
            if not os.read(terminal, 1024):
                break
        except OSError:  # Linux: the child closed its end
            break
    assert os.waitpid(pid, 0)[1] == 0
    assert "a secret" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700
