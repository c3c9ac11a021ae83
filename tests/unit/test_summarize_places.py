"""Places: a sentence goes to the part whose words it shares, and to none if it shares too few."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lacache_app.documents import Part
from lacache_app.summarize.places import cite, marked, sentences, unwrapped

PAGES = [
    "The lighthouse keeper polished the great lamp every evening. The common people of the village slept.",
    "A storm broke the mast of the schooner. The common people of the village ran to the harbour.",
    "At the trial the captain blamed the compass. The common people of the village listened.",
]


def parts_of(pages: list[str], label: str = "p. {n}") -> tuple[str, list[Part]]:
    text, parts = "", []
    for n, page in enumerate(pages, 1):
        parts.append(Part(label.format(n=n), "", len(text), len(text) + len(page)))
        text += page
    return text, parts


def labels(summary: str, pages: list[str] = PAGES) -> list[str | None]:
    return [place and place.label for _, place in cite(summary, *parts_of(pages))]


def test_sentences_go_where_their_words_are():
    summary = "The captain blamed his compass at the trial. A storm broke the mast. The keeper polished the lamp."
    assert labels(summary) == ["p. 3", "p. 2", "p. 1"]


def test_a_sentence_that_is_nowhere_has_no_place():
    assert labels("Quantum chromodynamics explains hadrons.") == [None]
    assert labels("The.") == [None]
    assert labels("") == []
    assert labels("Ein Leuchtturmwart putzt jeden Abend die Lampe.") == [None]


def test_one_shared_word_is_chance():
    assert labels("The captain resigned from parliament yesterday morning.") == [None]


def test_the_rarer_word_decides():
    assert labels("The common people of the village, and the schooner with the broken mast.") == ["p. 2"]


def test_a_heading_has_no_place_and_a_bullet_has():
    assert labels("# The captain and the compass at the trial\n- The captain blamed the compass.") == [None, "p. 3"]


def test_scripts_without_spaces():
    pages = ["灯台守は毎晩大きなランプを磨いた。", "嵐が船の帆柱を折った。"]
    assert labels("嵐が帆柱を折った。灯台守がランプを磨く。", pages) == ["p. 2", "p. 1"]


def test_parts_without_a_name_are_never_cited():
    text, parts = parts_of(PAGES, label="")
    assert [place for _, place in cite("The captain blamed the compass.", text, parts)] == [None]


def test_marks_stand_behind_the_last_of_neighbours():
    summary = (
        "The captain blamed the compass. The trial heard the captain. A storm broke the mast.\n\n"
        "- The lamp was polished by the keeper."
    )
    assert marked(summary, cite(summary, *parts_of(PAGES))) == (
        "The captain blamed the compass. The trial heard the captain. [p. 3] A storm broke the mast. [p. 2]\n\n"
        "- The lamp was polished by the keeper. [p. 1]"
    )


def test_a_sentence_goes_on_in_the_next_line():
    """Models wrap lines as the document did: marks stood in the middle of sentences."""
    summary = "The captain blamed\nthe compass at the\ntrial. A storm broke\nthe mast.\n- The keeper lit\n  the lamp."
    assert marked(summary, cite(summary, *parts_of(PAGES))) == (
        "The captain blamed the compass at the trial. [p. 3] A storm broke the mast. [p. 2]\n"
        "- The keeper lit the lamp. [p. 1]"
    )


@pytest.mark.parametrize(
    "text",
    [
        "# Head\nText.", "Text.\n\nText.", "Text:\n- one\n- two\n2) three", "| a |\n|---|\n| b |", "one  \ntwo",
        "```\nprint(1)\nprint(2)\n```\nText.", "Head\n====\nText.\n> said\n---", "", "\n\n",
    ],
)  # fmt: skip
def test_what_is_no_paragraph_keeps_its_lines(text):
    assert unwrapped(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Mr. Holmes met Dr. Watson. They left.", ["Mr. Holmes met Dr. Watson.", "They left."]),
        ("It cost 3.50 in e.g. Paris. Yes.", ["It cost 3.50 in e.g. Paris.", "Yes."]),
        ("He said “Go.” She went.", ["He said “Go.”", "She went."]),
        ("没有。是的。", ["没有。", "是的。"]),
        ("1. First\n2. Second", ["First", "Second"]),
        ("no end", ["no end"]),
    ],
)
def test_sentences(text, expected):
    assert [sentence.text for sentence in sentences(text)] == expected


@given(st.text(max_size=300))
def test_nothing_is_lost(text):
    text = unwrapped(text)
    found = list(sentences(text))
    assert all("".join(row.text.split()) in "".join(text.split()) for row in found)
    rebuilt = marked(text, [(row, None) for row in found])
    assert "".join(rebuilt.split()) == "".join(text.split())
