"""Text is shown in whole characters and never reaches beyond a stop string."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacache_gguf.stream import TextStream


@given(text=st.text(max_size=60), cuts=st.lists(st.integers(0, 240), max_size=30))
def test_any_split_of_the_bytes_gives_the_same_text(text, cuts):
    data = text.encode()
    ends = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    stream = TextStream()
    pieces = [stream.push(data[a:b]) for a, b in pairwise(ends)]
    assert "".join(pieces) + stream.flush() == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces) or "\N{REPLACEMENT CHARACTER}" in text


@given(before=st.text(alphabet="abX", max_size=12), after=st.text(alphabet="abX", max_size=6), cut=st.integers(1, 5))
def test_a_stop_string_ends_the_text_wherever_it_is_cut(before, after, cut):
    whole = before + "XabX" + after
    stream = TextStream(stop=["XabX"])
    text = "".join(stream.push(whole[i : i + cut].encode()) for i in range(0, len(whole), cut)) + stream.flush()
    assert text == whole[: whole.find("XabX")]
    assert stream.stopped


def test_the_earliest_of_several_stops_wins():
    stream = TextStream(stop=["END", "\nUser:"])
    assert stream.push(b"one\nUser: two END") == "one"
    assert stream.stopped


def test_a_beginning_that_turns_out_to_be_no_stop_is_shown():
    stream = TextStream(stop=["END"])
    assert [stream.push(b"EN"), stream.push(b"GINE")] == ["", "ENGIN"]
    assert stream.flush() == "E"
    assert not stream.stopped


@pytest.mark.parametrize("data", [b"\xff", b"\xe2\x82", b"\xf0\x9f\x98"])
def test_broken_utf8_becomes_a_replacement_character(data):
    stream = TextStream()
    assert stream.push(data) + stream.flush() == "\N{REPLACEMENT CHARACTER}"
