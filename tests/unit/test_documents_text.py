"""What makes text readable and citable: paragraphs of printed pages, headings, chapters, HTML as Markdown."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lacache_app.documents.headings import markdown_headings, parts_by_headings, plain_title
from lacache_app.documents.limits import Limits
from lacache_app.documents.markup import to_markdown, to_marked_markdown
from lacache_app.documents.page_text import page_texts, paragraphs, without_running_heads
from lacache_app.documents.text import chapter_lines

LIMITS = Limits()
FULL = "This line of running text is as long as a line of it usually is on such a page"  # 78 characters


def titles(text: str, find=markdown_headings, **kwargs) -> list[tuple[str, str]]:
    return [(part.label, part.title) for part in parts_by_headings(text, find(text), **kwargs)]


# ---- printed pages ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([FULL, "and ends here.", FULL], [f"{FULL} and ends here.", FULL]),
        ([FULL, "- item one", "- item two"], [FULL, "- item one", "- item two"]),
        ([FULL + ".", "1.2. What is it?", FULL], [FULL + ".", "1.2. What is it?", FULL]),
        ([FULL, "2 Related Work", FULL], [FULL, "2 Related Work", FULL]),
        (["Title", "Author Name", FULL, FULL], ["Title", "Author Name", f"{FULL} {FULL}"]),
        (["Rye 7", "Oats 3", "Corn 12"], ["Rye 7", "Oats 3", "Corn 12"]),
        ([], []),
    ],
)
def test_lines_become_paragraphs(lines, expected):
    assert paragraphs(lines).split("\n") == (expected or [""])


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("a num-\nber of things", "a number of things"),
        ("a num\x02ber of things", "a number of things"),
        ("a num\u00ad\nber of things", "a number of things"),
        ("by Anglo-\nSaxon hands", "by Anglo-Saxon hands"),
        ("the mother-in-\nlaw", "the mother-in-law"),
        ("a well-\nknown one; well-known", "a well-known one; well-known"),
        ("from 1990-\n1995", "from 1990-\n1995"),
        ("a dash -\nhere", "a dash -\nhere"),
        ("-\nx", "-\nx"),
    ],
)
def test_words_cut_at_a_line_end(page, expected):
    assert page_texts([page]) == [expected]


def test_dot_leaders_of_a_table_of_contents():
    assert page_texts(["1 Introduction . . . . . . . . . . 5\n2 End ...... 17"]) == [
        "1 Introduction ... 5\n2 End ... 17",
    ]


def body(number: int) -> list[str]:
    return [f"{FULL} {number}.{at}" for at in range(6)]


def test_running_heads_and_page_numbers_go_and_the_first_head_stays():
    pages = [["Moby Dick", *body(n), f"- {n + 3} -"] for n in range(8)]
    assert without_running_heads(pages) == [["Moby Dick", *body(0)], *map(body, range(1, 8))]


def test_roman_page_numbers_of_a_front_matter():
    numbers = ["i", "ii", "iii", "iv", "v", "1", "2", "3", "4", "5", "6", "7", "xiv"]
    pages = [[*body(n), number] for n, number in enumerate(numbers)]
    assert without_running_heads(pages) == [*map(body, range(12)), [*body(12), "xiv"]], "xiv does not count up"


def test_heads_of_left_and_right_pages_with_numbers():
    pages = [[f"{n + 1} MOBY DICK" if n % 2 else f"THE WHALE {n + 1}", *body(n)] for n in range(8)]
    assert without_running_heads(pages) == [
        ["THE WHALE 1", *body(0)],
        ["2 MOBY DICK", *body(1)],
        *map(body, range(2, 8)),
    ]


def test_a_chapter_head_repeated_on_its_pages():
    pages = [[f"Chapter {n // 4 + 1}", *body(n)] for n in range(8)]
    assert [page[0][:9] for page in without_running_heads(pages)].count("Chapter 1") == 1
    assert [page[0][:9] for page in without_running_heads(pages)].count("Chapter 2") == 1


@pytest.mark.parametrize(
    "pages",
    [
        [[f"Chapter {n + 1}", *body(n)] for n in range(8)],  # one page each: headings, not heads
        [[f"Slide {n + 1}", *body(n)] for n in range(8)],
        [
            [str(year), *body(n)] for n, year in enumerate((1848, 1861, 1914, 1918, 1939, 1945))
        ],  # years, not page numbers
        [[f"{FULL} {FULL}", *body(n)] for n in range(8)],  # repeated text, too long for a head
        [body(n) for n in range(8)],
        [["Head", *body(n)] for n in range(3)],  # three pages show no pattern
        [],
        [[], [], [], [], []],
    ],
)
def test_what_is_no_running_head_stays(pages):
    assert without_running_heads(pages) == pages


@settings(deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["Head", "1", "2", "3", "Text a b c", "Chapter 1", "x-", "y"]), max_size=7), max_size=9
    )
)
def test_no_page_is_lost_and_only_edges_shrink(pages):
    kept = without_running_heads(pages)
    assert len(kept) == len(pages)
    for before, after in zip(pages, kept, strict=True):
        left = iter(before)
        assert all(line in left for line in after), "in order, none added"
        middle = before[2:-2]
        assert any(after[at : at + len(middle)] == middle for at in range(3)), "and none taken from the middle"
    assert len(page_texts(["\n".join(page) for page in pages])) == len(pages)


# ---- Markdown --------------------------------------------------------------------------------------------------------


def test_headings_of_both_kinds_and_none_in_code():
    text = "# One\ntext\n```sh\n# no\n```\n~~~\n# no\n```\n# no\n~~~\nTwo\n===\n\nThree\n---\n"
    text += "- item\n---\na\nb\n---\n#no\n####### no\n"
    found = [(heading.level, heading.title) for heading in markdown_headings(text)]
    assert found == [(1, "One"), (1, "Two"), (2, "Three")]
    assert [text[heading.start :].split("\n")[0] for heading in markdown_headings(text)] == ["# One", "Two", "Three"]


def test_front_matter_and_tables_are_no_headings():
    assert markdown_headings("---\ntitle: x\n---\n\na | b\n---|---\n1 | 2\n") == []


@pytest.mark.parametrize(
    ("markdown", "title"),
    [
        ("**Bold** and `code`", "Bold and code"),
        ("A [link](http://x) and ![picture](y.png)", "A link and picture"),
        ("Closed ##", "Closed"),
        ("snake_case and _italic_", "snake_case and italic"),
        ("Anchored {#here}", "Anchored"),
        ("C# and F#", "C# and F#"),
        ("w" * 200, "w" * 119 + "…"),
    ],
)
def test_titles_are_plain(markdown, title):
    assert plain_title(markdown) == title


def test_chapters_are_the_level_that_has_three():
    one_title = "# Book\n\n## A\n\na\n\n## B\n\nb\n\n### B1\n\nb\n\n## C\n\nc"
    assert titles(one_title) == [("ch. 1", "A"), ("ch. 2", "B"), ("ch. 3", "C")]
    tops = "# A\n\na\n\n## A1\n\na\n\n# B\n\nb\n\n# C\n\nc"
    assert titles(tops) == [("ch. 1", "A"), ("ch. 2", "B"), ("ch. 3", "C")]
    assert titles("before\n\n# A\n\na") == [("", ""), ("ch. 1", "A")]
    assert titles("no heading") == [("", "")]


def test_a_title_under_a_number_is_one_title():
    text = "".join(f"## CHAPTER {n}\n\n## Name {n}\n\ntext\n\n" for n in "III")
    assert titles(text)[0] == ("ch. 1", "CHAPTER I. Name I")
    listed = titles("# Cover\n\n# Preface\n\ntext\n\n# A\n\na", is_listed=True)
    assert listed == [("ch. 1", "Preface"), ("ch. 2", "A")]


@settings(deadline=None)
@given(st.text(st.sampled_from("#=- ab\n`"), max_size=60))
def test_parts_cover_any_text(text):
    parts = parts_by_headings(text, markdown_headings(text))
    assert parts[0].start == 0
    assert parts[-1].end == len(text)
    assert all(before.end == after.start for before, after in itertools.pairwise(parts))


# ---- plain text ------------------------------------------------------------------------------------------------------

PARAGRAPH = "It was a day like any other, and nothing in it said what it would bring to the people of the town.\n" * 4


def novel(*heads: str) -> str:
    return "".join(f"\n\n\n{head}\n\n{PARAGRAPH}" for head in heads)


@pytest.mark.parametrize(
    "heads",
    [
        ("CHAPTER I", "CHAPTER II", "CHAPTER III"),
        ("Chapter 1. The Storm", "Chapter 2. The Calm"),
        ("Chapter One", "Chapter Two"),
        ("Kapitel 1", "Kapitel 2"),
        ("Глава 1", "Глава 2"),
        ("第一章 起", "第二章 承"),
        ("ADVENTURE I. A SCANDAL", "ADVENTURE II. THE LEAGUE", "VII. THE CARBUNCLE"),
        ("  THE FIRST ACT", "  THE SECOND ACT"),
        ("I", "II", "III"),
        ("THE STORM", "THE CALM"),
    ],
)
def test_chapters_of_a_novel(heads):
    assert titles("A Novel" + novel(*heads), chapter_lines) == [
        ("", ""),
        *((f"ch. {n}", head.strip()) for n, head in enumerate(heads, 1)),
    ]


def test_the_title_below_a_chapter_number():
    assert titles(novel("CHAPTER I.\n\nLOOMINGS", "CHAPTER II.\n\nTHE CARPET-BAG"), chapter_lines) == [
        ("ch. 1", "CHAPTER I. LOOMINGS"),
        ("ch. 2", "CHAPTER II. THE CARPET-BAG"),
    ]


def test_a_table_of_contents_makes_no_chapters():
    contents = "Contents\n\nCHAPTER I\n\nCHAPTER II\n\nCHAPTER III\n"
    assert len(chapter_lines(contents)) < 2
    found = titles(contents + novel("CHAPTER I", "CHAPTER II", "CHAPTER III"), chapter_lines)
    assert [label for label, _ in found] == ["", "ch. 1", "ch. 2", "ch. 3"]


@pytest.mark.parametrize(
    "text",
    [
        PARAGRAPH * 10,
        novel("CHAPTER I"),  # one is no division
        f"{PARAGRAPH}Chapter 1 was easy,\nand Chapter 2 was not.\n\n{PARAGRAPH}",
        f"\nChapter 1 is where we\nbegan.\n\n{PARAGRAPH}\nChapter 2 is where\n{PARAGRAPH}",
        "",
        "\n\n\n",
    ],
)
def test_texts_without_chapters(text):
    assert titles(text, chapter_lines) == [("", "")]


# ---- HTML ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("html", "markdown"),
    [
        ("<p>One<p>Two", "One\n\nTwo"),
        ("<p>a\n  b</p>", "a b"),
        ("a<br>b", "a\nb"),
        ("<h2>A <b>bold</b> title</h2>", "## A bold title"),
        ("<p><b><i>both</i></b> <code>x_y*z</code>", "***both*** `x_y*z`"),
        ("<p>word<sup><a href='#n'>12</a></sup>, word<a href='#n'><sup>3</sup></a>", "word[12], word[3]"),
        ("<p>10<sup>6</sup> m<sup>2</sup>, 1<sup>st</sup>, x<sup>[1]</sup>", "10^6 m^2, 1st, x[1]"),
        ("<p>a\ue0f2\ue0f0b", "ab"),
        ("<ol><li>a<ol><li>b</ol><li>c</ol>", "1. a\n   1. b\n2. c"),
        ("<blockquote><p>said</blockquote>", "> said"),
        ("<pre>a\n  b</pre>", "```\na\n  b\n```"),
        ("<a href='http://x'>text</a>", "text"),
        ("<table><tr><td>a<td>b<tr><td>c<td>d</table>", "| a | b |\n| --- | --- |\n| c | d |"),
        ("<table><tr><td><ul><li>a</ul><td>b</table>", "- a\n\nb"),
        ("1 &lt; 2 &amp;&nbsp;x &#x41;", "1 < 2 &\u00a0x A"),
        ("<div hidden>no</div><p aria-hidden=true>no</p><span style='display:none'>no</span>yes", "yes"),
        ("<div style='opacity:0.5'>yes</div>", "yes"),
        ("<script>no</script><style>no</style><template>no</template><noscript>no</noscript>yes", "yes"),
        ("<button>no</button><select><option>no</select><textarea>no</textarea>yes", "yes"),
        ("<ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby>", "漢"),
        ("</p></div></b>stray", "stray"),
        ("<![if nonsense]>x<![endif]><![CDAT x]>y", "xy"),
        ("<p>a<!-- <p>no -->b", "ab"),
    ],
)
def test_html_as_markdown(html, markdown):
    assert to_markdown(html, LIMITS) == markdown


def test_xhtml_differs_in_what_a_slash_means():
    assert to_markdown("<p/>a<title/>b<![CDATA[c < d]]>", LIMITS, is_xml=True) == "abc < d"
    assert to_markdown("<div/>a", LIMITS) == "a"


@pytest.mark.parametrize(
    "html",
    [
        "<p>before</p><h2 id='x'>Here</h2><p>after</p>",
        "<p>before</p><a id='x'/><h2>Here</h2>",
        "<p>before</p><a name='x'></a><h2>Here</h2>",
        "<p>before</p><div id='x'><section><h2>Here</h2></section></div>",
        "<p>before</p><p><span id='x'></span></p><h2>Here</h2>",
        "<p>before</p><h2><a id='x'></a>Here</h2>",
    ],
)
def test_places_of_ids(html):
    text, places = to_marked_markdown(html, LIMITS, ["x", "missing"])
    assert text == to_markdown(html, LIMITS, is_xml=True), "marks leave no trace"
    assert list(places) == ["x"]
    assert text[places["x"] :].startswith("## Here")


def test_a_place_within_a_line():
    text, places = to_marked_markdown(
        "<p>One <span id='a'>two</span> <b id='b'>three</b>\ue0f0</p>", LIMITS, ["a", "b"]
    )
    assert text == "One two **three**"
    assert (places["a"], places["b"]) == (4, 10)
