"""wrap: nothing is lost, no line is too long, and text is not held back for long."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from lacache_app.wrap import WordWrap

WORDS = st.lists(st.text("abcdefghij", min_size=1, max_size=12), min_size=1, max_size=60)


def stream(pieces: list[str], width: int) -> str:
    wrap = WordWrap(width)
    return "".join(map(wrap.push, pieces)) + wrap.flush()


@given(WORDS, st.integers(12, 60), st.integers(1, 9))
def test_every_word_whole_and_every_line_within_the_width(words, width, n_piece):
    text = " ".join(words)
    lines = stream([text[i : i + n_piece] for i in range(0, len(text), n_piece)], width).split("\n")
    assert max(map(len, lines)) <= width
    assert " ".join(lines) == text
    for line, after in pairwise(lines):
        assert len(line) + 1 + len(after.split(" ")[0]) > width, "a word that fits stays on its line"


@given(st.text(st.sampled_from("ab \n-é漢字"), max_size=200), st.integers(4, 40))
def test_only_spaces_become_line_ends(text, width):
    """Pieces of one character: but for spaces at line ends, the same characters come out in the same order."""
    assert "".join(stream(list(text), width).split()) == "".join(text.split())


def test_paragraphs_and_indents_stay():
    assert stream(["one\n\n  - two\n", "three"], 20) == "one\n\n  - two\nthree"


def test_scripts_without_spaces_are_shown_at_once():
    wrap = WordWrap(80)
    assert wrap.push("漢") == "漢"
    assert wrap.push("字") == "字"


def test_long_words_are_not_held_nor_broken():
    url = "https://example.org/" + "a" * 100
    wrap = WordWrap(30)
    assert wrap.push("see " + url).startswith("see\nhttps://example.org/")
    assert stream(["see " + url], 30).replace("\n", " ") == "see " + url
