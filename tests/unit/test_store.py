"""store: what was said is kept, found, exported and really deleted; damage, other processes and kill -9 do no harm."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from lacache_app.store import NEW_TITLE, ConversationGone, Store, title_of
from lacache_app.store_file import StoreError

from lacache_gguf.errors import UsageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "chats.sqlite3"


@pytest.fixture
def store(path: Path):
    store = Store(path)
    yield store
    store.close()


def talk(store: Store, *texts: str, **settings) -> str:
    """A conversation in which user and assistant said these, in turn."""
    chat = store.create(**settings).id
    for i, text in enumerate(texts):
        store.append(chat, "assistant" if i % 2 else "user", text)
    return chat


def texts(store: Store, chat: str) -> list[str]:
    return [message.content for message in store.messages(chat)]


# ---- keeping ---------------------------------------------------------------------------------------------------------


def test_what_was_said_is_there_after_closing(store, path):
    chat = talk(store, "Why is the sky blue?", "Scattering. \U0001f308", system="Be brief.", settings={"seed": 3})
    store.close()
    again = Store(path)
    assert [(m.role, m.content, m.state) for m in again.messages(chat)] == [
        ("user", "Why is the sky blue?", "whole"),
        ("assistant", "Scattering. \U0001f308", "whole"),
    ]
    found = again.get(chat)
    assert (found.title, found.system, found.settings) == ("Why is the sky blue?", "Be brief.", {"seed": 3})
    assert found.created <= found.updated
    again.close()


def test_a_title_comes_from_the_first_message_until_it_is_renamed(store):
    chat = store.create().id
    assert store.get(chat).title == NEW_TITLE
    first = store.append(chat, "user", "First\nline of a question")
    assert store.get(chat).title == "First line of a question"
    store.set_content(first.id, "Edited")
    assert store.get(chat).title == "Edited"
    store.rename(chat, "  My\n talk ")
    assert store.get(chat).title == "My talk"
    store.rename(chat, "")
    assert store.get(chat).title == "Edited"
    store.delete_message(first.id)
    assert store.get(chat).title == NEW_TITLE, "the title does not keep what was deleted"


def test_long_titles_are_cut_between_words():
    title = title_of("word " * 100)
    assert title.endswith("word\u2026")
    assert len(title) <= 61
    assert len(title_of("x" * 1000)) == 61


def test_display_is_what_people_see(store):
    chat = store.create().id
    store.append(chat, "user", "the whole book", display="book.pdf - 41 pages")
    assert store.get(chat).title == "book.pdf - 41 pages"
    assert store.messages(chat)[0].shown == "book.pdf - 41 pages"
    assert store.messages(chat)[0].content == "the whole book"


def test_the_newest_conversation_is_first(store):
    chats = [talk(store, f"talk {i}") for i in range(3)]
    store.append(chats[0], "user", "again")
    assert [found.id for found in store.conversations()] == [chats[0], chats[2], chats[1]]
    assert len(store.conversations(limit=2)) == 2


def test_settings_are_merged_and_removed(store):
    chat = store.create(settings={"a": 1, "b": 2}).id
    store.configure(chat, system="S", settings={"b": None, "c": [3]})
    assert store.get(chat).settings == {"a": 1, "c": [3]}
    assert store.get(chat).system == "S"
    store.configure(chat, settings={"a": 5})
    assert (store.get(chat).system, store.get(chat).settings["a"]) == ("S", 5)


def test_truncating(store):
    chat, other = talk(store, "a", "b", "c", "d"), talk(store, "x", "y")
    ids = [message.id for message in store.messages(chat)]
    store.truncate_after(ids[2])
    assert texts(store, chat) == ["a", "b", "c"]
    store.truncate_from(ids[1])
    assert texts(store, chat) == ["a"]
    store.delete_message(ids[0])
    assert texts(store, chat) == []
    assert texts(store, other) == ["x", "y"]


def test_what_is_gone_says_so(store):
    chat = talk(store, "a")
    number = store.messages(chat)[0].id
    store.delete(chat)
    store.delete(chat)
    store.delete_message(number)
    assert not store.has(chat)
    assert store.messages(chat) == []
    for call in (
        lambda: store.get(chat),
        lambda: store.append(chat, "user", "b"),
        lambda: store.rename(chat, "b"),
        lambda: store.configure(chat, system="b"),
        lambda: store.set_content(number, "b"),
        lambda: store.message(number),
        lambda: store.export(chat),
    ):
        with pytest.raises(ConversationGone, match="deleted"):
            call()


def test_text_that_utf8_cannot_hold_is_kept_as_far_as_it_can_be(store):
    chat = talk(store, "half \ud83d and \0 nul")
    assert texts(store, chat) == ["half ? and  nul"]


def test_a_failed_change_changes_nothing(store):
    chat = talk(store, "a")
    with pytest.raises(StoreError, match="cannot be written"):
        store.append(chat, "nobody", "b")  # refused by the schema, after the conversation was touched
    assert texts(store, chat) == ["a"]
    store.append(chat, "assistant", "b")
    assert texts(store, chat) == ["a", "b"]


# ---- searching -------------------------------------------------------------------------------------------------------


def titles(store: Store, search: str) -> list[str]:
    return sorted(found.title for found in store.conversations(search))


def test_search_looks_at_titles_messages_and_system_in_any_case(store):
    talk(store, "About bees", "They live in a HIVE.")
    talk(store, "About ants", "They live in a nest.", system="You are an entomologist.")
    store.rename(talk(store, "x", "y"), "Über Größe")
    assert titles(store, "hive") == ["About bees"]
    assert titles(store, "live ABOUT") == ["About ants", "About bees"]
    assert titles(store, "they nest") == ["About ants"]
    assert titles(store, "ENTOMO") == ["About ants"]
    assert titles(store, "über grö") == ["Über Größe"]
    assert titles(store, "by") == []
    assert titles(store, "in") == ["About ants", "About bees"], "short words are found too"
    assert titles(store, "  ") == ["About ants", "About bees", "Über Größe"]


@pytest.mark.parametrize(
    "search", ['"', "'", "%", "_", "*", "NEAR(", 'a"b', "a AND", "-", "(", "col:x", "\\", "日本語"]
)
def test_search_takes_every_character_as_it_is(store, search):
    talk(store, "plain words")
    talk(store, f"with {search} inside")
    assert titles(store, search) == [title_of(f"with {search} inside")]


def test_search_follows_changes(store):
    chat = talk(store, "hello", "the elephant")
    answer = store.messages(chat)[1].id
    assert titles(store, "elephant") == ["hello"]
    store.set_content(answer, "the giraffe")
    assert titles(store, "elephant") == []
    assert titles(store, "giraffe") == ["hello"]
    store.delete_message(answer)
    assert titles(store, "giraffe") == []


def test_the_index_finds_what_reading_everything_finds(store):
    """The slow twin: the same search without the index."""
    chance = random.Random(5)
    letters = "abcABC éß.\"'-İiẞΣςſ"  # of some, Python and SQLite have other small letters
    for _ in range(60):
        talk(store, *("".join(chance.choices(letters, k=chance.randint(1, 40))) for _ in range(4)))
    assert store._index.is_there, "this SQLite has FTS5"
    n_found = 0
    for _ in range(300):
        word = "".join(chance.choices(letters, k=chance.randint(1, 6)))
        store._index.is_there = True
        fast = {found.id for found in store.conversations(word)}
        store._index.is_there = False
        assert fast == {found.id for found in store.conversations(word)}, repr(word)
        n_found += len(fast)
    assert n_found > 1000


# ---- export ----------------------------------------------------------------------------------------------------------


def test_export(store):
    chat = talk(store, "Why?", "Because.\n\n```\ncode\n```", system="Be brief.")
    store.append(chat, "user", "the whole book", display="book.pdf")
    store.append(chat, "assistant", "It beg", state="partial")
    text = store.export(chat, "markdown")
    assert text.startswith("# Why?\n")
    assert (
        "## System\n\nBe brief.\n\n## You\n\nWhy?\n\n## Assistant\n\nBecause.\n\n```\ncode\n```\n\n## You\n\nbook.pdf"
        in text
    )
    assert text.endswith("## Assistant (stopped)\n\nIt beg\n")
    data = json.loads(store.export(chat, "json"))
    assert data["messages"][2] == {
        "role": "user",
        "content": "the whole book",
        "display": "book.pdf",
        "state": "whole",
    }
    assert [message["state"] for message in data["messages"]] == ["whole", "whole", "whole", "partial"]
    with pytest.raises(UsageError, match="'pdf' is unknown"):
        store.export(chat, "pdf")


# ---- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_only_its_owner_may_read_it(store, path):
    talk(store, "a secret")
    files = [path.parent / name for name in os.listdir(path.parent)]
    assert len(files) >= 2, "the write-ahead log is looked at too"
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    store.close()
    path.chmod(0o644)
    Store(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def all_bytes(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_what_is_deleted_is_not_in_the_file_any_more(store, path):
    kept = talk(store, "kept wombat", "x")
    chat = talk(store, "question quokka " * 30, "answer numbat " * 200)
    edited = store.append(kept, "user", "edited bandicoot " * 30)
    assert len(store.conversations("quokka")) == len(store.conversations("bandicoot")) == 1  # indexed as well
    assert b"quokka" in all_bytes(path)
    store.set_content(edited.id, "changed")
    store.delete_message(store.messages(kept)[1].id)
    store.delete(chat)
    left = all_bytes(path)
    for word in (b"quokka", b"numbat", b"bandicoot", b"uok", b"umb"):
        assert word not in left, word
    assert b"wombat" in left
    store.close()


@pytest.mark.parametrize("damage", ["text", "zeros", "middle"])
def test_a_damaged_file_is_moved_aside_and_named(store, path, damage):
    for i in range(40):
        talk(store, f"talk {i} " * 50, "answer " * 100)
    store.close()
    content = path.read_bytes()
    broken = {
        "text": b"this is no database\n" * 100,
        "zeros": b"\0" * len(content),
        "middle": content[:4096] + b"\x55" * (len(content) - 8192) + content[-4096:],
    }[damage]
    path.write_bytes(broken)
    again = Store(path)
    aside = [file for file in path.parent.iterdir() if "damaged" in file.name]
    assert [file.read_bytes() for file in aside] == [broken], "it is kept as it was"
    assert aside[0].name in again.notice
    assert str(path.parent) in again.notice
    assert again.conversations() == []
    chat = talk(again, "a new beginning")
    again.close()
    third = Store(path)
    assert (third.notice, texts(third, chat)) == ("", ["a new beginning"])
    third.close()


def test_an_empty_file_is_a_new_store(path):
    path.parent.mkdir()
    path.touch()
    store = Store(path)
    assert (store.notice, store.conversations()) == ("", [])
    store.close()


def test_a_newer_format_is_refused_and_left_alone(store, path):
    chat = talk(store, "from the future")
    store._db.execute("PRAGMA user_version=99")
    store.close()
    with pytest.raises(UsageError, match=r"newer lacache-gguf \(format 99"):
        Store(path)
    db = sqlite3.connect(path)
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


def test_two_processes_share_a_file(path):
    """Both open it while it is being made, and write at the same time."""
    writers = []
    store = Store(path)
    chat = store.create().id
    for name in "ab":
        arguments = [sys.executable, "-c", _WRITER, str(path), chat, name]
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


def test_two_processes_may_begin_at_once(path):
    code = "import sys; from lacache_app.store import Store; print(len(Store(sys.argv[1]).conversations()))"
    starts = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(4)
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


def test_kill_9_loses_nothing_that_was_written(store, path):
    chat = talk(store, "question")
    child = subprocess.Popen([sys.executable, "-c", _STREAMER, str(path), chat], stdout=subprocess.PIPE, text=True)
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
    again = Store(path)
    assert again.notice == ""
    answer = again.messages(chat)[1]
    assert answer.state == "partial"
    assert len(answer.content) >= n_told
    expected = ""
    while len(expected) < len(answer.content):
        expected += f"{len(expected)} "
    assert answer.content == expected
    again.close()
