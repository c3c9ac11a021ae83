"""load_choice: from what was chosen on the page to engine settings, and what it means in words."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lacache_app.estimate import FreeMemory, ModelShape
from lacache_app.host import EngineSettings
from lacache_app.load_choice import (
    Choice,
    assumption,
    budget_of,
    budget_range,
    cells_of,
    choice_of,
    explain,
    kv_types_for,
    policy_of,
    settings_of,
)

from lacache_gguf.errors import PolicyError, UsageError
from lacache_gguf.kv_budget import KvGeometry, KvLayer
from lacache_gguf.policies import (
    H2O,
    POLICIES,
    Full,
    KeyDiff,
    Ladder,
    Salience,
    ScoredLadder,
    SinkWindow,
    default_ladder,
    default_policy,
)

GIB = 2**30
SMOL = ModelShape(
    KvGeometry((KvLayer(3, 64, 64),) * 30, n_layer=30, n_ctx_train=8192),
    weights_bytes=98_362_432, n_vocab=49152, n_embd=576, n_ff=1536, n_head=9,
)  # fmt: skip
WINDOWED = ModelShape(
    KvGeometry((*[KvLayer(1, 256, 256, True)] * 5, KvLayer(1, 256, 256)) * 3, n_layer=18, n_ctx_train=32768, n_swa=512),
    weights_bytes=250_000_000, n_vocab=262144, n_embd=640, n_ff=2048, n_head=4,
)  # fmt: skip
FREE = [FreeMemory("RAM", 10 * GIB, 16 * GIB)]
DEFAULT = Choice("smollm2-135m", 22.5)
LADDER = dataclasses.replace(DEFAULT, policy="ladder")


def test_the_usual_choice():
    settings = settings_of(SMOL, DEFAULT)
    assert settings == EngineSettings("smollm2-135m", n_ctx=1024, policy=None), "the engine chooses"
    found = explain(DEFAULT, SMOL, FREE)
    assert found.n_cells == 1024
    assert found.fits
    assert found.lines[0] == "1,024 cells of 22.5 KiB: room for as many tokens at a time."
    named = explain(dataclasses.replace(DEFAULT, policy=default_policy(30, 1024).name), SMOL, FREE)
    assert found == named, "what the default means is known before it is loaded"
    assert "trained on 8,192 tokens at a time, 15 pages; the budget uses 12%" in found.lines[2]
    assert found.warnings == ()
    assert found.memory.text.endswith("10 GiB are free: fits.")


def test_what_the_page_has_no_field_for_stays():
    present = EngineSettings("another", kv_budget="90MiB", type_k="q8_0", n_ubatch=64, n_threads=2, n_threads_batch=4)
    usual = settings_of(SMOL, DEFAULT)
    assert settings_of(SMOL, DEFAULT, present) == dataclasses.replace(usual, n_ubatch=64, n_threads_batch=4)


def test_what_is_sharp_and_faint_in_words():
    def line(policy):
        return explain(dataclasses.replace(DEFAULT, policy=policy), SMOL, FREE).lines[1]

    assert line("ladder") == "1.4 pages sharp, 1.1 pages faint, of a text of any length."
    assert line("sink_window") == "1.9 pages sharp, 0 pages faint, of a text of any length."
    assert line("full").startswith("1.9 pages sharp, none faint: nothing is forgotten")
    for policy, older in (
        ("salience", "the words that stand out"),
        ("h2o", "the words that were looked back at most"),
        ("scored_ladder", "the telling words of every passage"),
    ):
        assert line(policy).endswith(f" pages or more faint: of older text of any length, {older}.")
        assert " pages or more sharp, the newest text; " in line(policy)


def test_what_was_calibrated_is_the_best_choice():
    found = Ladder(15, n_recent=128), "memory ladder:recent=128, as calibrated on 2026-01-31 (loss 0.020 lower)"
    lines = explain(DEFAULT, SMOL, FREE, found).lines
    assert lines[1] == f"Best choice for this model: {found[1]}."
    assert lines[2] == explain(dataclasses.replace(LADDER, recent=128), SMOL, FREE).lines[1]
    assert explain(LADDER, SMOL, FREE, found) == explain(LADDER, SMOL, FREE), "it is nothing for other choices"


def test_queries_that_a_policy_records_are_counted():
    def share(policy):
        return explain(dataclasses.replace(DEFAULT, policy=policy), SMOL, FREE).memory.shares[0]

    assert share("h2o").query_bytes == 128 * 9 * 64 * 4 * 30
    assert share("ladder").query_bytes == 0


@pytest.mark.parametrize("shape", [SMOL, WINDOWED], ids=["full", "windowed"])
@pytest.mark.parametrize("kv", ["f16", "q8_0"])
def test_every_notch_of_the_slider_is_256_cells(shape, kv):
    choice = dataclasses.replace(DEFAULT, type_k=kv, type_v=kv)
    found = budget_range(shape, choice)
    n_cells = [
        cells_of(shape, dataclasses.replace(choice, budget_mib=found.minimum + n * found.step)) for n in range(20)
    ]
    assert n_cells[0] == 256
    if shape is SMOL:
        assert n_cells == [256 * (n + 1) for n in range(20)]
    assert cells_of(shape, dataclasses.replace(choice, budget_mib=found.maximum)) == shape.geometry.n_ctx_train


def test_the_slider_stays_inside_what_is_free_and_what_is_possible():
    assert budget_range(SMOL, DEFAULT).value == 22.5
    assert budget_range(SMOL, dataclasses.replace(DEFAULT, budget_mib=9999)).value == 180
    assert budget_range(SMOL, dataclasses.replace(DEFAULT, budget_mib=0)).value == 5.625
    assert budget_range(SMOL, DEFAULT, free_bytes=100 * 2**20).maximum <= 100
    assert budget_range(SMOL, DEFAULT, free_bytes=1).maximum >= 22.5, "the usual budget can always be chosen"


@given(mib=st.floats(5.625, 180), policy=st.sampled_from(sorted([*POLICIES, "default"])))
def test_what_was_set_is_shown_again(mib, policy):
    settings = settings_of(SMOL, dataclasses.replace(DEFAULT, budget_mib=mib, policy=policy))
    shown = choice_of(SMOL, settings)
    assert settings_of(SMOL, shown) == settings
    assert shown.budget_mib <= mib + 0.001, "never more than was given"
    assert shown == choice_of(SMOL, settings_of(SMOL, shown))
    assert shown.policy == policy, "no settings were given, so none are shown"


@pytest.mark.parametrize(
    ("policy", "shown"),
    [
        (None, DEFAULT),
        (Salience(), Choice("smollm2-135m", 22.5, "salience")),
        (Salience(n_query=64, fade=0.5), Choice("smollm2-135m", 22.5, "salience:fade=0.5,query=64")),
        (Salience(n_recent=99, heads="layer"), Choice("smollm2-135m", 22.5, "salience", recent=99, heads="layer")),
        (Ladder(15, n_recent=512), LADDER),
        (Ladder(15), Choice("smollm2-135m", 22.5, "ladder:recent=none")),
        (Ladder(8, 4, 2, 300, "digit"), Choice("smollm2-135m", 22.5, "ladder:layers=digit", 8, 4, 2, 300)),
        (ScoredLadder(n_src=4, n_dst=2, score="attention", decay=0.5),
         Choice("smollm2-135m", 22.5, "scored_ladder:decay=0.5,dst=2,src=4", score="attention")),
        (H2O(decay=1e-05), Choice("smollm2-135m", 22.5, "h2o:decay=1e-05")),
    ],
    ids=str,
)  # fmt: skip
def test_nothing_that_was_set_is_lost(policy, shown):
    """What has no field on the page stands behind the policy's name, so that loading it again keeps it."""
    settings = EngineSettings("smollm2-135m", n_ctx=1024, policy=policy)
    assert choice_of(SMOL, settings) == shown
    assert settings_of(SMOL, shown) == settings


def test_a_field_wins_over_what_stands_behind_the_name():
    choice = Choice("smollm2-135m", 22.5, "ladder:recent=none,layers=digit", recent=100)
    assert settings_of(SMOL, choice).policy == Ladder(15, n_recent=100, layers="digit")


@pytest.mark.parametrize(
    ("settings", "mib"),
    [
        (EngineSettings(n_ctx=1024), 22.5),
        (EngineSettings(n_ctx=300), 11.25),
        (EngineSettings(kv_budget="64MiB"), 64),
        (EngineSettings(kv_budget=2048), 45),
        (EngineSettings(), 22.5),
    ],
)
def test_the_budget_of_engine_settings(settings, mib):
    assert budget_of(SMOL.geometry, settings) == mib


def test_policies_and_their_settings():
    def policy(**values):
        return settings_of(SMOL, dataclasses.replace(DEFAULT, **values)).policy

    assert policy(policy="sink_window", sink=8, span=3) == SinkWindow(n_sink=8), "what it does not have is left out"
    assert policy(policy="full") == Full()
    assert policy(span=8, overlap=4) is None, "the default has no settings"
    assert policy(policy="ladder") == default_ladder(30, 1024)
    assert policy(policy="ladder", span=8, overlap=4) == Ladder(8, 4, n_recent=512)
    assert policy(policy="ladder", recent=0, sink=0) == Ladder(15, n_sink=0, n_recent=0)
    assert policy(policy="scored_ladder", score="attention", span=3) == ScoredLadder(score="attention")
    assert policy(policy="keydiff", heads="layer", recent=64) == KeyDiff(n_recent=64, heads="layer")


@pytest.mark.parametrize(
    ("values", "error", "reason"),
    [
        ({"span": 31}, PolicyError, "span 31 exceeds the 30 layers"),
        ({"span": 4, "overlap": 4}, PolicyError, "overlap 4 must be below span 4"),
        ({"recent": 1020}, PolicyError, "do not fit in a budget of 1024 cells"),
        ({"policy": "sink_window", "sink": -1}, PolicyError, "n_sink"),
        ({"policy": "nothing"}, UsageError, "'nothing' is unknown; choose one of default, full"),
        ({"budget_mib": 1}, UsageError, "256 cells, the least"),
        ({"n_threads": 0}, UsageError, "0 threads cannot work"),
        ({"type_v": "q8_0", "flash_attn": "off"}, UsageError, "V in q8_0 needs flash attention"),
        ({"type_k": "q9"}, UsageError, "q9"),
        (
            {"type_k": "q4_0", "type_v": "q4_0", "budget_mib": 6.5, "recent": 950},
            PolicyError,
            "K in q4_0 would be rounded anew",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_words(values, error, reason):
    with pytest.raises(error, match=reason):
        explain(dataclasses.replace(LADDER, **values), SMOL, FREE)


def test_one_layer_has_no_ladder():
    one = dataclasses.replace(SMOL, geometry=KvGeometry((KvLayer(3, 64, 64),), n_layer=1, n_ctx_train=8192))
    with pytest.raises(UsageError, match="use sink_window"):
        settings_of(one, dataclasses.replace(LADDER, budget_mib=1))
    assert settings_of(one, dataclasses.replace(DEFAULT, budget_mib=1)).policy is None
    assert choice_of(one, EngineSettings(n_ctx=1024)).policy == "default"


def test_warnings():
    def warnings(**values):
        return " ".join(explain(dataclasses.replace(DEFAULT, **values), SMOL, FREE).warnings)

    assert "Try K in q8_0 and V in q4_0 instead" in warnings(type_k="q4_0")
    assert "f16 is the safe choice" in warnings(type_k="q8_0")
    assert warnings(type_v="q4_0") == "", "V is only ever copied"
    assert warnings(type_k="q4_0", policy="salience:pos=4096") == "", "K is copied as well"
    assert "a text longer than the memory is refused" in warnings(policy="full")


def test_where_heads_cannot_part_the_default_is_explained_as_the_engine_falls_back():
    phi = dataclasses.replace(SMOL, geometry=KvGeometry((KvLayer(32, 96, 96),) * 32, n_layer=32, n_ctx_train=4096))
    choice = dataclasses.replace(DEFAULT, budget_mib=1024, type_k="q8_0", type_v="q8_0")
    assert settings_of(phi, choice).policy is None
    assert policy_of(phi, choice, 1024) == Salience(heads="layer")
    assert policy_of(phi, dataclasses.replace(choice, type_k="f16", type_v="f16"), 1024) == Salience()
    with pytest.raises(PolicyError, match="cannot part"):
        settings_of(phi, dataclasses.replace(choice, policy="salience"))


def test_keys_keep_their_positions_only_within_the_trained_context():
    choice = dataclasses.replace(DEFAULT, type_k="q4_0", policy="salience:pos=4096,recent=960")
    assert settings_of(SMOL, choice).type_k == "q4_0"
    short = dataclasses.replace(SMOL, geometry=dataclasses.replace(SMOL.geometry, n_ctx_train=1024))
    with pytest.raises(PolicyError, match="K in q4_0 would be rounded anew"):
        settings_of(short, choice)


def test_kv_types_that_the_heads_allow():
    assert "q4_0" in kv_types_for(SMOL)
    odd = dataclasses.replace(SMOL, geometry=KvGeometry((KvLayer(3, 80, 80),) * 4, n_layer=4, n_ctx_train=8192))
    assert kv_types_for(odd) == ["f32", "f16", "bf16"]


def test_a_page_is_explained():
    assert "400 words of English, 530 tokens" in assumption()
