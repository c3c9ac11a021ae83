"""Files that a careless expression would need minutes for: what runs in the app's own process takes its time from
everybody, so it must grow with the file and no faster."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from lacache_app.documents import html
from lacache_app.documents.headings import markdown_headings, plain_title
from lacache_app.documents.loaders import loader_for


def seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


@pytest.mark.parametrize("piece", [b"<!---->", b"<!-- a comment -->\n", b"<?xml?>", b"\n \n", b"<!--", b"<?xml"])
def test_much_before_the_first_tag(piece):
    data = piece * (4000 // len(piece)) + b"# Title\n\nplain text"
    assert seconds(lambda: html.claims(data)) < 0.2
    assert loader_for(data).kind in ("markdown", "text")


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b"<!-- a -->\n<!---->", b'<?xml version="1.0"?>\n', b" \n\t"])
def test_pages_are_told_by_what_comes_first(before):
    for tag in (b"<!DOCTYPE html>", b"<html lang='en'>", b"<head>", b"<BODY >"):
        assert html.claims(before + tag + b"<p>x")
    assert not html.claims(before + b"word <html>")


@pytest.mark.parametrize("piece", ["[", "![", "[a](", "<", "{#", "*", "\\", "_", "# "])
def test_a_heading_of_a_very_long_line(piece):
    text = "# Title " + piece * 50_000
    assert seconds(lambda: markdown_headings(text)) < 0.5
    assert len(plain_title(text)) <= 120
