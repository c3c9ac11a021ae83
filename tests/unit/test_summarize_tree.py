"""The plan of a long document: every character is read once, nothing is too long, the tree ends in one summary."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lacache_app.documents import Document, Part, join
from lacache_app.summarize.tree import N_LISTED_MAX, listed, plan, span_label


def words(text: str) -> list[str]:
    return text.split()


def book(*n_words: int, label: str = "ch. {n}", title: str = "T{n}") -> Document:
    text, parts = "", []
    for n, count in enumerate(n_words, 1):
        start = len(text)
        text += "".join(f"w{i} " + ("\n\n" if i % 20 == 19 else "") for i in range(count)) + "\n\n"
        parts.append(Part(label.format(n=n), title.format(n=n), start, len(text)))
    return Document("book", text, "epub", tuple(parts))


@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=20),
    st.integers(5, 120),
    st.integers(2, 7),
    st.sampled_from(["ch. {n}", "p. {n}", ""]),
)
def test_invariants(n_words, n_read_max, n_fan, label):
    document = book(*n_words, label=label, title="" if not label else "T{n}")
    nodes = plan(document, words, n_read_max, n_fan)
    leaves = [node for node in nodes if not node.children]
    assert "".join(document.text[leaf.start : leaf.end] for leaf in leaves).split() == document.text.split()
    assert all(leaf.n_tokens == len(words(document.text[leaf.start : leaf.end])) for leaf in leaves)
    assert all(leaf.n_tokens <= n_read_max for leaf in leaves)
    parents = [child for node in nodes for child in node.children]
    assert sorted(parents) == list(range(len(nodes) - 1)), "everything but the root goes into exactly one summary"
    for i, node in enumerate(nodes):
        assert all(child < i for child in node.children), "children first"
        assert len(node.children) == 0 or 2 <= len(node.children) <= n_fan
        if node.children:
            assert (node.start, node.end) == (nodes[node.children[0]].start, nodes[node.children[-1]].end)
    shown = listed(nodes)
    assert len(shown) <= max(N_LISTED_MAX, n_fan)
    covered = "".join(document.text[nodes[i].start : nodes[i].end] for i in shown)
    assert not shown or covered.split() == document.text.split()


def test_small_chapters_are_read_together_and_large_ones_are_split():
    nodes = plan(book(10, 10, 10, 90, 10), words, 40, 5)
    assert [(node.label, node.is_unit) for node in nodes] == [
        ("ch. 1-3", True),
        ("ch. 4 (1/3)", False),
        ("ch. 4 (2/3)", False),
        ("ch. 4 (3/3)", False),
        ("ch. 4", True),
        ("ch. 5", True),
        ("ch. 1-5", False),
    ]
    assert nodes[0].title == "T1; T2; T3"
    assert nodes[4].title == "T4"
    assert [nodes[i].label for i in listed(nodes)] == ["ch. 1-3", "ch. 4", "ch. 5"]


def test_pages_up_to_the_next_title_are_one_chapter():
    pages = book(30, 30, 30, 30, label="p. {n}", title="")
    titled = [Part(p.label, {0: "One", 2: "Two"}.get(i, ""), p.start, p.end) for i, p in enumerate(pages.parts)]
    nodes = plan(Document("a.pdf", pages.text, "pdf", tuple(titled)), words, 40, 5)
    assert [(nodes[i].label, nodes[i].title) for i in listed(nodes)] == [("pp. 1-2", "One"), ("pp. 3-4", "Two")]
    assert [node.label for node in nodes if not node.children] == ["p. 1", "p. 2", "p. 3", "p. 4"]


def test_a_text_without_parts_is_cut_between_paragraphs():
    document = Document("a.txt", "\n\n".join("one two three four five six seven eight nine ten" for _ in range(12)))
    nodes = plan(document, words, 30, 9)
    leaves = [node for node in nodes if not node.children]
    assert [leaf.label for leaf in leaves] == [f"part {i} of 4" for i in range(1, 5)]
    for leaf in leaves:
        assert document.text[leaf.start : leaf.end].startswith("one")
        assert leaf.n_tokens == 30


def test_long_books_list_groups_of_chapters():
    nodes = plan(book(*[30] * 100), words, 40, 5)
    shown = listed(nodes)
    assert 2 <= len(shown) <= N_LISTED_MAX
    assert nodes[shown[0]].label.startswith("ch. 1-")


def test_several_files_are_not_mixed_into_one_label():
    joined = join([book(30, 30, label="p. {n}", title=""), Document("b.txt", "x " * 30)])
    labels = [node.label for node in plan(joined, words, 40, 5) if not node.children]
    assert labels == ["book, p. 1", "book, p. 2", "b.txt"]


@pytest.mark.parametrize(
    ("first", "last", "label"),
    [
        ("p. 3", "p. 7", "pp. 3-7"),
        ("pp. 1-2", "pp. 3-9", "pp. 1-9"),
        ("p. 3", "p. 3", "p. 3"),
        ("ch. 1", "ch. 2", "ch. 1-2"),
        ("ch. 3 (1/4)", "ch. 3 (2/4)", "ch. 3 (1-2/4)"),
        ("ch. 3 (1-2/4)", "ch. 3 (3-4/4)", "ch. 3 (1-4/4)"),
        ("part 1 of 9", "part 4 of 9", "parts 1-4 of 9"),
        ("parts 1-4 of 9", "parts 5-9 of 9", "parts 1-9 of 9"),
        ("a.pdf, p. 1", "a.pdf, p. 2", "a.pdf, pp. 1-2"),
        ("a.pdf, p. 1", "b.pdf, p. 2", "a.pdf, p. 1 - b.pdf, p. 2"),
        ("", "ch. 1", "ch. 1"),
        ("ch. 1", "", "ch. 1"),
        ("p. 1", "ch. 2", "p. 1 - ch. 2"),
    ],
)
def test_span_label(first, last, label):
    assert span_label(first, last) == label
