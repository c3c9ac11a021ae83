"""HTML -> the tags that mean something for a reader, well nested. Knows no Markdown.

What it drops: scripts, styles, forms' buttons, navigation, everything hidden, all attributes. What it repairs: the
`</p>`, `</li>`, `</td>`... that HTML allows to leave out, tags closed in the wrong order, nesting beyond the limit (the
tags are ignored there, never their text). What it cannot do: load anything, or expand an entity that is not HTML's.

    clean_html("<p onclick=x>One<p>Two<script>...") == "<p>One</p><p>Two</p>"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from html.parser import HTMLParser

NOTE = "\ue0f2"
"""Written into a <sup> that is a link: it is the number of a note, not a power."""
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_BLOCKS = _HEADINGS | {
    "blockquote", "dd", "div", "dl", "dt", "figcaption", "hr", "li", "ol", "p", "pre", "table", "tbody", "td", "tfoot",
    "th", "thead", "tr", "ul", "caption",
}  # fmt: skip
_AS_DIV = {
    "address", "article", "aside", "body", "center", "details", "fieldset", "figure", "footer", "form", "header",
    "hgroup", "main", "section", "summary",
}  # fmt: skip
_INLINE = {"b": "b", "strong": "b", "i": "i", "em": "i", "code": "code", "kbd": "code", "samp": "code", "tt": "code",
           "sup": "sup"}  # fmt: skip
_DROPPED = {
    "applet", "audio", "base", "button", "canvas", "datalist", "dialog", "embed", "frame", "frameset", "head", "iframe",
    "input", "link", "map", "menu", "meta", "nav", "noembed", "noframes", "noscript", "object", "optgroup", "option",
    "param", "rp", "rt", "script", "select", "source", "style", "svg", "template", "textarea", "title", "track",
    "video",
}  # fmt: skip
_VOID = {"area", "base", "col", "embed", "frame", "input", "link", "meta", "param", "source", "track", "wbr"}
_CLOSES = {  # what an opening tag ends, and within what it looks for it
    "li": ({"li"}, {"ul", "ol"}),
    "dt": ({"dt", "dd"}, {"dl"}),
    "dd": ({"dt", "dd"}, {"dl"}),
    "td": ({"td", "th"}, {"tr", "table"}),
    "th": ({"td", "th"}, {"tr", "table"}),
    "tr": ({"tr"}, {"table"}),
    "tbody": ({"tr", "tbody", "thead", "tfoot"}, {"table"}),
    "thead": ({"tr", "tbody", "thead", "tfoot"}, {"table"}),
    "tfoot": ({"tr", "tbody", "thead", "tfoot"}, {"table"}),
}
_CELL = {"td", "th", "table"}
_SPACE = re.compile(r"[ \t\r\n\f]+")
_HIDING = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden|font-size\s*:\s*0(?![.\d])|opacity\s*:\s*0(?![.\d])")


def clean_html(html: str, max_nesting: int, is_xml: bool = False, marks: Mapping[str, str] | None = None) -> str:
    """Only the tags that matter, without attributes. `is_xml`: `<p/>` is an empty paragraph, not the start of one.

    `marks`: element id -> a text to write where that element begins.
    """
    cleaner = _Cleaner(max_nesting, is_xml, marks or {})
    cleaner.feed(html)
    cleaner.close()
    cleaner.close_down_to(0)
    return "".join(cleaner.out)


class _Cleaner(HTMLParser):
    def __init__(self, max_nesting: int, is_xml: bool, marks: Mapping[str, str]) -> None:
        super().__init__(convert_charrefs=True)
        self.out: list[str] = []
        self.open: list[str] = []  # the tags written and not closed
        self.max_nesting, self.is_xml, self.marks = max_nesting, is_xml, marks
        self.is_in_link = False
        self.dropping, self.depth = "", 0  # the tag whose content is dropped, and how many of that name are open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self.dropping:
            self.depth += tag == self.dropping
            return
        values = dict(attrs)
        if tag == "body":
            self.dropping, self.depth = "", 0
        if tag == "img":
            alt = " ".join((values.get("alt") or "").split())
            if alt and not _is_hidden(values):
                self.out.append(escape(f" [{alt}] " if not alt.startswith("[") else f" {alt} "))
        elif tag == "br":
            self.out.append("<br>")
        elif tag in _VOID:
            pass
        elif tag in _DROPPED or _is_hidden(values):
            self.dropping, self.depth = tag, 1
        else:
            self._begin("div" if tag in _AS_DIV else _INLINE.get(tag, tag))
        if not self.dropping:
            self.is_in_link |= tag == "a"
            if (tag == "sup" and self.is_in_link) or (tag == "a" and "sup" in self.open):
                self.out.append(NOTE)
            self._mark(values)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("br", "img", "hr") or (not self.is_xml and tag not in _DROPPED):
            self.handle_starttag(tag, attrs)
        elif not self.dropping:
            self._mark(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        if self.dropping:
            self.depth -= tag == self.dropping
            if not self.depth or (self.dropping == "head" and tag == "head"):
                self.dropping = ""
            return
        self.is_in_link &= tag != "a"
        tag = "div" if tag in _AS_DIV else _INLINE.get(tag, tag)
        if tag in self.open:
            floor = self._last(_CELL) if tag not in _BLOCKS else -1  # <b> in a cell does not end the cell
            place = self._last({tag})
            if place > floor:
                self.close_down_to(place)

    def handle_data(self, data: str) -> None:
        if not self.dropping:
            text = data if "pre" in self.open else _SPACE.sub(" ", data)  # where a source line ends means nothing
            self.out.append(escape(text, quote=False))

    def unknown_decl(self, data: str) -> None:
        if self.is_xml and data.startswith("CDATA["):
            self.handle_data(data[6:])

    def parse_html_declaration(self, i: int) -> int:
        try:
            return super().parse_html_declaration(i)
        except AssertionError:  # of "<![nonsense", which browsers take for a comment
            return self.parse_bogus_comment(i)

    def close_down_to(self, n_open: int) -> None:
        """Close tags until so many are open."""
        while len(self.open) > n_open:
            self.out.append(f"</{self.open.pop()}>")

    def _mark(self, values: dict[str, str | None]) -> None:
        for key in ("id", "name"):
            self.out.append(self.marks.get(values.get(key) or "", ""))

    def _begin(self, tag: str) -> None:
        if tag not in _BLOCKS and tag not in _INLINE.values():
            return  # span, a, font, ...: their text is enough
        if tag in _BLOCKS:
            floor = self._last(_CELL)
            paragraph = self._last({"p"} | (_HEADINGS if tag in _HEADINGS else set()))
            if paragraph > floor:
                self.close_down_to(paragraph)
        if tag in _CLOSES:
            ended, within = _CLOSES[tag]
            floor = self._last(within)
            place = next((at for at in range(floor + 1, len(self.open)) if self.open[at] in ended), -1)
            if place >= 0:
                self.close_down_to(place)
        if tag == "hr":
            self.out.append("<hr>")
        elif len(self.open) < self.max_nesting and not (tag in _INLINE.values() and self._is_in_heading()):
            self.open.append(tag)
            self.out.append(f"<{tag}>")
        elif tag in _BLOCKS:
            self.out.append("<br>")

    def _is_in_heading(self) -> bool:
        return any(tag in _HEADINGS for tag in self.open)

    def _last(self, tags: set[str]) -> int:
        return next((at for at in range(len(self.open) - 1, -1, -1) if self.open[at] in tags), -1)


def _is_hidden(values: dict[str, str | None]) -> bool:
    return (
        "hidden" in values
        or (values.get("aria-hidden") or "").lower() == "true"
        or bool(_HIDING.search((values.get("style") or "").lower()))
    )
