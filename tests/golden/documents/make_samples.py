"""Writes the samples beside it. Run it after a change here or in writers.py; a test compares its bytes with the files.

python tests/golden/documents/make_samples.py
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from writers import Picture, docx, epub, paragraph, pdf, table  # noqa: E402

BODY = (
    "The lighthouse stood at the end of the mole, and every evening",
    "its keeper climbed the hundred and twelve steps with a can of oil.",
    "He counted them aloud, as his father had done, and wrote the num-",
    "ber into a book that nobody read. In winter the wind took the door",
    "out of his hand. It was then that he thought of the mainland.",
    "“You will not stay,” said the harbour master, “nobody ever does.”",
)


def report(n_pages: int = 6) -> list[list[str]]:
    """Pages with running heads, page numbers and words cut at line ends."""
    pages = []
    for number in range(1, n_pages + 1):
        chapter = [f"{(number + 1) // 2}. The keeper's year, part {number}"] if number % 2 else []
        facts = [f"Fact {number}: the lamp burned {number * 7} litres that month."]
        body = [*BODY[number % 3 :], *BODY[: number % 2]]
        pages.append(["The Lighthouse Report", *chapter, *body, *facts, f"{number + 10}"])
    return pages


HTML_PAGE = """<!DOCTYPE html>
<html><head><meta charset="iso-8859-1"><title>Bakery</title><script>var secret = "script text";</script>
<style>.x { color: red }</style></head>
<body><nav><a href="/">Home</a> <a href="/all">All recipes</a></nav>
<h1>The Caf\xe9 Bakery</h1>
<p>Rye bread takes <b>three days</b>.<!-- comment text -->
The <a href="https://example.invalid/x">starter</a> is fed twice.</p>
<h2>Flour</h2><p>We use stone-ground rye.</p><div style="display: none">hidden text</div>
<p hidden>hidden paragraph</p><noscript>noscript text</noscript>
<h2>Water</h2><ul><li>soft water<li>or <em>filtered</em> water</ul>
<h2>Times</h2>
<table><tr><th>Step</th><th>Hours</th></tr><tr><td>Rest</td><td>12</td></tr><tr><td>Bake</td><td>1</td></tr></table>
<img src="https://example.invalid/oven.png" alt="The oven"><img src="x.gif" alt="">
<pre># not a heading
mix()</pre></body></html>
"""

OLD_HTML = """<HTML><BODY BGCOLOR=white><CENTER><H1>Logbook</H1></CENTER>
<P>First entry, with an unclosed <B>bold<P>Second entry &amp; more<BR>a new line
<TABLE><TR><TD><H2>Spring</H2><P>The layout table's first column.<TD><P>Its second column.</TABLE>
<DL><DT>Ebb<DD>water going out<DT>Flood<DD>water coming in</DL>
<P><FONT SIZE=2>Last entry"""

MARKDOWN = """\
# Notes on tides

Some words before the first chapter.

## Moon

The moon pulls twice a day.

```python
# a comment, no heading
```

Sun
---

The sun pulls half as much.

## Wind #

Wind piles water up: **surge**.
"""

NOVEL = """\
THE FERRYMAN

Contents

CHAPTER I. The River
CHAPTER II. The Far Bank

CHAPTER I. The River

{0}

CHAPTER II. The Far Bank

{1}
"""


def samples() -> dict[str, bytes]:
    """File name -> contents."""
    chapters = [
        ("cover.xhtml", '<div><img src="cover.jpg" alt=""/></div>'),
        ("one.xhtml", '<h1 id="a">Departure</h1><p>She left on a <i>Tuesday</i>.<a id="x"/> Nobody waved.</p>'),
        ("two.xhtml", "<section><h1>Arrival</h1><p>The station was empty&#8212;and cold.</p></section>"),
        ("three.xhtml", "<h1>Return</h1><p>She came back in spring.</p><script>alert('script text')</script>"),
    ]
    contents = [
        ("Cover", "cover.xhtml"),
        ("Departure", "one.xhtml#a"),
        ("Arrival", "two.xhtml"),
        ("Return", "three.xhtml"),
    ]
    old = [
        ("book%20one.xhtml", '<p><a id="c1"></a></p><h2>I</h2><p>First of two in a file.</p>'
         '<p id="c2">II</p><p>Second of two in a file.</p>'),
        ("last.xhtml", "<p>Third, in a file of its own.</p>"),
    ]  # fmt: skip
    old_contents = [
        ("The First", "book%20one.xhtml#c1"),
        ("The Second", "book%20one.xhtml#c2"),
        ("The Third", "last.xhtml"),
    ]
    old_book = epub([("book one.xhtml", old[0][1]), old[1]], old_contents, version=2)
    body = "".join(
        [
            paragraph("Annual Report", "Title"),
            paragraph("Harvest", "heading1"),
            paragraph("Barley was good & rye was not — see the table."),
            table([["Crop", "Tons"], ["Barley", "41"], ["Rye", "7"]]),
            paragraph("Weather", "heading1"),
            '<w:p><w:r><w:t>It rained in June.</w:t></w:r><w:del w:id="1" w:author="x"><w:r><w:delText>deleted text'
            '</w:delText></w:r></w:del><w:ins w:id="2" w:author="x"><w:r><w:t> And in July.</w:t></w:r></w:ins></w:p>',
            paragraph("Rain in June", "heading2"),
            paragraph("Sixteen days."),
            paragraph("Outlook", "heading1"),
            paragraph("Müller will sow earlier."),
        ]
    )
    part = "The ferryman pulled the rope and said nothing until the middle of the river was behind them. " * 4
    pages = report()
    return {
        "report.pdf": pdf(pages, outline=[("Spring", 1), ("Summer", 3), ("Winter", 5)]),
        "no-printing.pdf": pdf(pages[:1], password=""),
        "encrypted.pdf": pdf(pages[:1], password="secret"),
        "scanned.pdf": pdf([Picture(), Picture(), []]),
        "partly-scanned.pdf": pdf([pages[0], Picture(), [], Picture(), Picture(), pages[1]]),
        "report.docx": docx(body),
        "book.epub": epub(chapters, contents),
        "old-book.epub": old_book,
        "page.html": HTML_PAGE.encode("cp1252"),
        "old-page.htm": OLD_HTML.encode(),
        "notes.markdown": MARKDOWN.encode(),
        "novel.txt": NOVEL.format(part, part).encode(),
        "letter.txt": "Grüße aus Köln, schöne Straße – für 12 €.\r\n".encode("cp1252"),
    }


if __name__ == "__main__":
    for name, data in samples().items():
        (HERE / name).write_bytes(data)
        print(f"{name}: {len(data):,} bytes")
