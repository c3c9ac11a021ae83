"""store: what was said is kept, found, exported and deleted."""

from __future__ import annotations

import json
import random

import pytest
from lacache_app.store import NEW_TITLE, ConversationGone, Store, title_of
from lacache_app.store_file import StoreError
from unit.conversations import talk, texts

from lacache_gguf.errors import UsageError

# ---- keeping ---------------------------------------------------------------------------------------------------------


def test_what_was_said_is_there_after_closing(store, store_path):
    chat = talk(store, "Why is the sky blue?", "Scattering. \U0001f308", system="Be brief.", settings={"seed": 3})
    store.close()
    again = Store(store_path)
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
