"""HTML -> Markdown, for HTML, EPUB and DOCX alike. Knows no files.

to_markdown("<h1>Title</h1><p>Text.", limits) == "# Title\\n\\nText."
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lacache_app.documents.encodings import clean
from lacache_app.documents.limits import Limits
from lacache_app.documents.tags import NOTE, clean_html

_OPEN, _CLOSE = "\ue0f0", "\ue0f1"  # around the number of a mark; characters that mean nothing
_MARK = rf"{_OPEN}\d+{_CLOSE}"
_NO_MARKS = str.maketrans("", "", _OPEN + _CLOSE + NOTE)
_LAYOUT = ("table", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "blockquote", "pre")


def to_marked_markdown(html: str, limits: Limits, ids: Iterable[str]) -> tuple[str, dict[str, int]]:
    """As to_markdown, for XHTML, and where in the result (characters) the elements with these ids begin."""
    keys = list(ids)
    marks = {key: f"{_OPEN}{number}{_CLOSE}" for number, key in enumerate(keys)}
    marked = to_markdown(html, limits, is_xml=True, marks=marks)
    marked = re.sub(rf"(?m)^((?:{_MARK})+)\n+", r"\1", marked)  # an anchor above a heading belongs to it
    marked = re.sub(rf"(?m)^(#+ )((?:{_MARK})+)", r"\2\1", marked)
    pieces, places, end, n_out = [], {}, 0, 0
    for match in re.finditer(_MARK, marked):
        pieces.append(marked[end : match.start()])
        n_out += match.start() - end
        end = match.end()
        places[keys[int(match[0][1:-1])]] = n_out
    return "".join([*pieces, marked[end:]]).rstrip(), places


def to_markdown(html: str, limits: Limits, is_xml: bool = False, marks: Mapping[str, str] | None = None) -> str:
    """Headings as "# ...", lists, tables, emphasis and code; links and pictures as their text.

    `marks`: see clean_html.
    """
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(clean_html(html.translate(_NO_MARKS), limits.nesting, is_xml, marks), "html.parser")
    for table in soup.find_all("table"):
        if table.find(_LAYOUT) or not table.find(["td", "th"]):
            for element in [*table.find_all(["tbody", "thead", "tfoot", "tr", "td", "th", "caption"]), table]:
                element.name = "div"  # a table for the looks of a page, not one of values
    text = _converter()(
        heading_style="atx",
        bullets="-",
        escape_asterisks=False,
        escape_underscores=False,
        table_infer_header=True,
    ).convert_soup(soup)
    text = re.sub(r"[ \t\u00a0]+\n", "\n", clean(text))
    return re.sub(r"\n{3,}", "\n\n", text.replace(NOTE, "")).strip()


def _converter() -> Any:
    """markdownify's converter, with list numbers counted once instead of once for each item."""
    from markdownify import MarkdownConverter

    class Converter(MarkdownConverter):
        def convert_li(self, el: Any, text: str, parent_tags: Any) -> str:
            lines = (text or "").strip().split("\n")
            bullet = "- "
            if el.parent is not None and el.parent.name == "ol":
                el.parent.n_items = getattr(el.parent, "n_items", None) or 0
                el.parent.n_items += 1
                bullet = f"{el.parent.n_items}. "
            indent = " " * len(bullet)
            return bullet + "\n".join(line and (indent if at else "") + line for at, line in enumerate(lines)) + "\n"

        def convert_sup(self, el: Any, text: str, parent_tags: Any) -> str:
            bare = text.replace(NOTE, "")
            if not bare.strip().isdigit():
                return bare
            return f"[{bare.strip()}]" if NOTE in text else f"^{bare}"  # word[12] or 10^6

    return Converter
