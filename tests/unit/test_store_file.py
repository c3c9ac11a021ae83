"""The store's file: private, really rid of what is deleted, unharmed by damage, other processes and kill -9."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from lacache_app.store import Store
from lacache_app.store_file import StoreError
from unit.conversations import talk, texts

from lacache_gguf.errors import UsageError

# ---- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_only_its_owner_may_read_it(store, store_path):
    talk(store, "a secret")
    files = [store_path.parent / name for name in os.listdir(store_path.parent)]
    assert len(files) >= 2, "the write-ahead log is looked at too"
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(store_path.parent.stat().st_mode) == 0o700
    store.close()
    store_path.chmod(0o644)
    Store(store_path).close()
    assert stat.S_IMODE(store_path.stat().st_mode) == 0o600


def all_bytes(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_what_is_deleted_is_not_in_the_file_any_more(store, store_path):
    kept = talk(store, "kept wombat", "x")
    chat = talk(store, "question quokka " * 30, "answer numbat " * 200)
    edited = store.append(kept, "user", "edited bandicoot " * 30)
    assert len(store.conversations("quokka")) == len(store.conversations("bandicoot")) == 1  # indexed as well
    assert b"quokka" in all_bytes(store_path)
    store.set_content(edited.id, "changed")
    store.delete_message(store.messages(kept)[1].id)
    store.delete(chat)
    left = all_bytes(store_path)
    for word in (b"quokka", b"numbat", b"bandicoot", b"uok", b"umb"):
        assert word not in left, word
    assert b"wombat" in left
    store.close()


@pytest.mark.parametrize("damage", ["text", "zeros", "middle"])
def test_a_damaged_file_is_moved_aside_and_named(store, store_path, damage):
    for i in range(40):
        talk(store, f"talk {i} " * 50, "answer " * 100)
    store.close()
    content = store_path.read_bytes()
    broken = {
        "text": b"this is no database\n" * 100,
        "zeros": b"\0" * len(content),
        "middle": content[:4096] + b"\x55" * (len(content) - 8192) + content[-4096:],
    }[damage]
    store_path.write_bytes(broken)
    again = Store(store_path)
    aside = [file for file in store_path.parent.iterdir() if "damaged" in file.name]
    assert [file.read_bytes() for file in aside] == [broken], "it is kept as it was"
    assert aside[0].name in again.notice
    assert str(store_path.parent) in again.notice
    assert again.conversations() == []
    chat = talk(again, "a new beginning")
    again.close()
    third = Store(store_path)
    assert (third.notice, texts(third, chat)) == ("", ["a new beginning"])
    third.close()


def test_an_empty_file_is_a_new_store(store_path):
    store_path.parent.mkdir()
    store_path.touch()
    store = Store(store_path)
    assert (store.notice, store.conversations()) == ("", [])
    store.close()


def test_a_newer_format_is_refused_and_left_alone(store, store_path):
    chat = talk(store, "from the future")
    store._db.execute("PRAGMA user_version=99")
    store.close()
    with pytest.raises(UsageError, match=r"newer lacache-gguf \(format 99"):
        Store(store_path)
    db = sqlite3.connect(store_path)
    assert db.execute("SELECT content FROM messages WHERE conversation = ?", (chat,)).fetchall() == [
        ("from the future",)
    ]
    db.close()


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "file" / "chats.sqlite3")


# ---- several threads and processes -----------------------------------------------------------------------------------


def test_threads_share_a_store(store):
    chat = store.create().id

    def write(name: int) -> None:
        for i in range(50):
            store.append(chat, "user", f"{name}.{i}")

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = texts(store, chat)
    assert len(found) == 200
    for name in range(4):
        assert [text for text in found if text.startswith(f"{name}.")] == [f"{name}.{i}" for i in range(50)]


_WRITER = """
import sys
from lacache_app.store import Store
store = Store(sys.argv[1])
sys.stdin.readline()
for i in range(100):
    store.append(sys.argv[2], "user", f"{sys.argv[3]}.{i}")
"""


def test_two_processes_share_a_file(store_path):
    """Both open it while it is being made, and write at the same time."""
    writers = []
    store = Store(store_path)
    chat = store.create().id
    for name in "ab":
        arguments = [sys.executable, "-c", _WRITER, str(store_path), chat, name]
        writers.append(subprocess.Popen(arguments, stdin=subprocess.PIPE, text=True))
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=60)
        assert writer.returncode == 0
    found = texts(store, chat)
    assert len(found) == 200
    assert sorted(found, key=lambda text: text[0]) == [f"{name}.{i}" for name in "ab" for i in range(100)]
    store.close()


def test_two_processes_may_begin_at_once(store_path):
    code = "import sys; from lacache_app.store import Store; print(len(Store(sys.argv[1]).conversations()))"
    starts = [
        subprocess.Popen([sys.executable, "-c", code, str(store_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert [start.communicate(timeout=60)[0] for start in starts] == ["0\n"] * 4


_STREAMER = """
import sys, time
from lacache_app.store import Store
store = Store(sys.argv[1])
answer = store.append(sys.argv[2], "assistant", "", state="partial")
text = ""
while True:
    text += f"{len(text)} "
    store.set_content(answer.id, text, "partial")
    print(len(text), flush=True)
"""


def test_kill_9_loses_nothing_that_was_written(store, store_path):
    chat = talk(store, "question")
    child = subprocess.Popen(
        [sys.executable, "-c", _STREAMER, str(store_path), chat], stdout=subprocess.PIPE, text=True
    )
    n_told = 0
    for line in child.stdout:
        n_told = int(line)
        if n_told > 2000:
            break
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read().split("\n")
    child.wait()
    child.stdout.close()
    n_told = max([n_told, *(int(line) for line in rest[:-1] if line)])  # the last line may be cut
    store.close()
    again = Store(store_path)
    assert again.notice == ""
    answer = again.messages(chat)[1]
    assert answer.state == "partial"
    assert len(answer.content) >= n_told
    expected = ""
    while len(expected) < len(answer.content):
        expected += f"{len(expected)} "
    assert answer.content == expected
    again.close()
