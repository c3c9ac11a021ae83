"""Memories in words: what is understood, what is refused before a model is known, and the way back from a policy."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lacache_app.memory_spec import (
    Size,
    fields_of,
    geometry_and_cells,
    make_policy,
    memory_text,
    parse_memory,
    parse_size,
    settings_given,
)
from lacache_app.policy_words import WORDS, policy_choices, words_of
from loopback_hub import gguf_bytes

from lacache_gguf.errors import PolicyError, UsageError
from lacache_gguf.kv_budget import KvGeometry, KvLayer
from lacache_gguf.policies import POLICIES, Full, Ladder, Salience, SinkWindow, default_ladder, default_policy

GEOMETRY = KvGeometry((KvLayer(3, 64, 64),) * 30, n_layer=30, n_ctx_train=8192)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("ladder", Ladder(span=15, n_recent=256)),
        ("default", default_policy(30, 512)),
        ("ladder:span=8,overlap=4,recent=none", Ladder(span=8, overlap=4)),
        ("Ladder:recent=25%,layers=digit", Ladder(span=15, n_recent=128, layers="digit")),
        ("ladder: sink=8 , n_recent=30", Ladder(span=15, n_sink=8, n_recent=30)),
        ("sink-window:sink=64", SinkWindow(n_sink=64)),
        ("full", Full()),
    ],
)
def test_a_memory_is_a_policy_with_settings(text: str, policy: Any) -> None:
    assert parse_memory(text).make_policy(GEOMETRY, 512) == policy


def test_kv_types_and_sizes_belong_to_a_memory() -> None:
    spec = parse_memory("sink_window:ctk=q8_0,v=q4_0,budget=8MiB", type_k="f32")
    assert (spec.type_k, spec.type_v, spec.size) == ("q8_0", "q4_0", parse_size("8MiB"))
    assert parse_memory("sink_window", "bf16", "q8_0").type_v == "q8_0"
    assert parse_memory("ladder:cells=300").size == parse_size("300")
    assert parse_memory("sink_window").is_sink_window
    assert not parse_memory("sink_window:ctk=q8_0").is_sink_window


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("staircase", "'staircase' is unknown; choose one of default, full, sink_window, ladder"),
        ("ladder:spam=3", "'spam' is unknown; ladder takes span, overlap, sink, recent, layers, pos, ctk"),
        ("ladder:span", "'span' is not understood; write key=value"),
        ("ladder:ctk=q9", "choose one of f32"),
        ("default:span=3", "default takes ctk, ctv, cells, budget"),
        ("ladder:budget=lots", "'lots' is not understood"),
    ],
)
def test_what_is_no_memory_is_refused(text: str, error: str) -> None:
    with pytest.raises(UsageError, match=error.replace("(", r"\(")):
        parse_memory(text)


def test_settings_are_checked_by_the_policy() -> None:
    for text in ("ladder:span=many", "ladder:span=77", "ladder:layers=odd", "sink_window:sink=1.5"):
        with pytest.raises(PolicyError):
            parse_memory(text).make_policy(GEOMETRY, 512)


def test_the_full_reference_slides_beyond_the_trained_context() -> None:
    spec = parse_memory("full")
    assert spec.reference(1000, 8192) == (Full(), 1024)
    assert spec.reference(8192, 8192) == (Full(), 8192)
    assert spec.reference(8193, 8192) == (SinkWindow(), 8192)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("ladder", "Ladder"),
        ("sink-window", "Window"),
        (" Full ", "Full"),
        ("default", "Best choice"),
        ("ladder:recent=none", "Ladder, as published"),
        ("ladder:overlap=4,span=8", "Ladder, span 8, overlap 4"),
        ("ladder:k=q8_0,v=q4_0", "Ladder, K q8_0, V q4_0"),
        ("sink_window:sink=16", "Window, sink 16"),
        ("keydiff:recent=25%,heads=layer", "KeyDiff, recent 25%, heads layer"),
        ("salience:query=64,fade=0.5", "Salience, fade 0.5, query 64"),
        (
            "scored-ladder:score=attention,heads=each,recent=64",
            "Scored ladder, recent 64, heads each, score attention",
        ),
    ],
)
def test_memories_in_words(text: str, label: str) -> None:
    assert parse_memory(text).label == label


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lader",
        "ladder:spam=3",
        "ladder:span=",
        "ladder:span=-1",
        "ladder:span=x",
        "ladder:k=q9",
        "full:span=3",
        "tova:score=keydiff",
        "default:recent=3",
        "salience:heads=both",
    ],
)
def test_nonsense_is_refused_before_a_model_is_known(text: str) -> None:
    with pytest.raises(UsageError):
        parse_memory(text)


# ---- the way back ----------------------------------------------------------------------------------------------------


@given(
    name=st.sampled_from(sorted(POLICIES)),
    sink=st.integers(0, 16),
    heads=st.sampled_from(["layer", "each"]),
    decay=st.floats(0, 1, exclude_max=True),
    recent=st.none() | st.integers(0, 99),
)
def test_a_policy_becomes_words_and_is_the_same_again(name: str, **wanted: Any) -> None:
    wanted = {"n_sink": wanted["sink"], "n_recent": wanted["recent"], **wanted}
    policy = make_policy(name, {key: wanted[key] for key in fields_of(name) if key in wanted}, 30, 512)
    given = settings_given(policy, 30, 512)
    again = parse_memory(memory_text(name, given))
    assert again.make_policy(GEOMETRY, 512) == policy
    assert set(dict(again.settings)) == set(given)


def test_what_is_usual_is_not_said() -> None:
    assert settings_given(default_ladder(30, 512), 30, 512) == {}
    assert settings_given(default_ladder(30, 512), 30, 1024) == {"n_recent": 256}
    assert memory_text("salience", settings_given(Salience(n_query=64), 30, 512)) == "salience:query=64"
    assert memory_text("ladder", settings_given(Ladder(15), 30, 512)) == "ladder:recent=none"


def test_a_model_of_one_layer_has_no_ladder() -> None:
    with pytest.raises(UsageError, match="at least 2 layers, this one has 1; use sink_window"):
        parse_memory("ladder").make_policy(dataclasses.replace(GEOMETRY, layers=GEOMETRY.layers[:1]), 512)


def test_geometry_and_cells_come_from_the_header(tmp_path: Any) -> None:
    path = tmp_path / "m.gguf"
    metadata = {
        "llama.block_count": 4,
        "llama.context_length": 700,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 1,
    }
    path.write_bytes(gguf_bytes(metadata=metadata))
    geometry = KvGeometry((KvLayer(1, 64, 64),) * 4, n_layer=4, n_ctx_train=700)
    assert geometry_and_cells(path, parse_size("512")) == (geometry, 512)
    assert geometry_and_cells(path, parse_size("512KiB")) == (geometry, 512)
    assert geometry_and_cells(path, Size()) == (geometry, 700), "the usual one, and never more than was trained"
    with pytest.raises(UsageError, match="exceeds the 700 positions"):
        geometry_and_cells(path, parse_size("701"))


# ---- names for people ------------------------------------------------------------------------------------------------


def test_every_policy_has_words() -> None:
    assert set(WORDS) == {"default", *POLICIES}
    assert policy_choices()[0] == ("Best choice: keeps what stands out", "default")
    assert [name for _text, name in policy_choices()[1:5]] == ["salience", "ladder", "sink_window", "full"]
    assert all(len(text) < 60 for text, _name in policy_choices())
    assert words_of("brand_new").title == "brand_new", "a policy without a row goes by its name"
