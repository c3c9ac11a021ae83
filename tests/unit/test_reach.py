"""reach: what a full memory holds sharp and faint, counted with the real policies."""

from __future__ import annotations

import pytest
from lacache_app import reach as reach_module
from lacache_app.reach import Reach, pages, reach

from lacache_gguf.errors import PolicyError
from lacache_gguf.policies import POLICIES, Full, Ladder, Salience, SinkWindow, View, default_ladder, needs_of


@pytest.mark.parametrize("n_layer", [2, 30, 32])
@pytest.mark.parametrize("n_ctx", [256, 1024, 8192, 131072])
def test_a_ladder_holds_more_tokens_than_cells(n_layer, n_ctx):
    found = reach(default_ladder(n_layer, n_ctx), n_layer, n_ctx)
    assert n_ctx // 2 <= found.n_sharp < n_ctx, "at least its recent window"
    assert found.n_faint > 0
    assert found.n_sharp + found.n_faint > n_ctx, "the point of a ladder"


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"full", "ladder"}))
def test_every_policy_can_be_counted(name):
    """Without a model. What is always kept is sharp, and all layers hold as many tokens as cells, or more."""
    policy = POLICIES[name]()
    found = reach(policy, 6, 512)
    assert found.n_sharp >= (policy.recent(512) if hasattr(policy, "recent") else 1)
    assert 512 * 15 / 16 <= found.n_sharp + found.n_faint <= 6 * 512
    assert found.is_least == bool(needs_of(policy))
    assert reach(policy, 6, 512) == found
    large = reach(policy, 6, 4096)
    assert large.n_sharp == pytest.approx(8 * found.n_sharp, rel=0.25)


def test_a_policy_that_goes_by_the_text_is_counted_from_below():
    """What surely stays sharp: the recent quarter, and what came in since; all that is held are the cells at least."""
    found = reach(Salience(), 30, 1024)
    assert found.is_least
    assert 256 < found.n_sharp < 512
    assert 960 <= found.n_sharp + found.n_faint <= 1024


def test_a_window_is_sharp_and_nothing_else():
    assert reach(SinkWindow(), 30, 1024) == Reach(1024, 0)
    assert reach(Full(), 30, 1024) == Reach(1024, 0)


@pytest.mark.parametrize("policy", [Ladder(3, n_recent=32), Ladder(2, 1, n_sink=7, n_recent=5), SinkWindow()], ids=str)
def test_counting_by_hand_gives_the_same(policy):
    """The same read with a list of token numbers per layer and nothing but the policy's plans."""
    n_layer, n_ctx, n_step = 6, 64, 8
    layers = [[] for _ in range(n_layer)]
    cursor = sweep = n_seen = 0
    counts = []
    while n_seen < 12 * n_ctx:
        if len(layers[0]) + n_step > n_ctx:
            n_free = min(16, policy.n_free_max(n_layer, n_ctx))
            plan = policy.plan(View(n_layer, len(layers[0]), n_free, cursor=cursor, sweep=sweep))
            cursor, sweep = plan.cursor, plan.sweep
            layers = [[tokens[i] for i in row] for tokens, row in zip(layers, plan.keep, strict=True)]
        for tokens in layers:
            tokens.extend(range(n_seen, n_seen + n_step))
        n_seen += n_step
        if n_seen > 8 * n_ctx:
            everywhere, anywhere = set.intersection(*map(set, layers)), set.union(*map(set, layers))
            counts.append((len(everywhere), len(anywhere - everywhere)))
    n_sharp, n_faint = (sum(column) / len(counts) for column in zip(*counts, strict=True))
    assert reach(policy, n_layer, n_ctx) == Reach(round(n_sharp), round(n_faint))


@pytest.mark.parametrize(
    "policy",
    [Ladder(8, 4), Ladder(8, 4, n_recent=100), Ladder(15, layers="digit"), Ladder(1), Ladder(16, n_recent=2048),
     SinkWindow()],
    ids=str,
)  # fmt: skip
def test_the_smaller_scale_tells_the_truth(policy):
    """Above 1,024 cells it is computed at a smaller scale; the whole computation gives the same within an eighth."""
    found = reach(policy, 32, 4096)
    n_sharp, n_faint = reach_module._count(policy, 32, 4096, 512)
    assert found.n_sharp == pytest.approx(n_sharp, rel=0.125)
    assert found.n_faint == pytest.approx(n_faint, rel=0.125)


def test_long_rungs_are_computed_at_a_scale_where_they_fit():
    policy = Ladder(1, n_recent=700)  # rungs of 80 keep 1
    found = reach(policy, 80, 2048)
    assert 700 <= found.n_sharp < 2048
    assert found.n_faint > 0


def test_impossible_settings_are_refused_with_the_policy_s_words():
    with pytest.raises(PolicyError, match="frees nothing on 30 layers"):
        reach(Ladder(29, 15), 30, 1024)
    with pytest.raises(PolicyError, match="raise --ctx-size/--kv-budget"):
        reach(SinkWindow(n_sink=2000), 30, 1024)


@pytest.mark.parametrize(
    ("n_tokens", "text"),
    [(0, "0 pages"), (160, "0.3 pages"), (533, "1 page"), (746, "1.4 pages"), (5300, "9.9 pages"), (5333, "10 pages"),
     (10**6, "1,875 pages")],
)  # fmt: skip
def test_pages_in_words(n_tokens, text):
    assert pages(n_tokens) == text
