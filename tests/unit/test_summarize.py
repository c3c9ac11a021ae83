"""summarize: where the document goes in the prompt, what is pinned, and that the stream can be stopped anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lacache_app.summarize import INSTRUCTION, build_prompt, counters, summarize

from lacache_gguf.errors import UnsupportedModel
from lacache_gguf.events import Progress, Stats


def test_prompt_is_one_user_message_with_the_instruction_on_both_sides(fake_engine):
    engine = fake_engine()
    prompt = build_prompt(engine, "A document.", "Do it.")
    assert engine.detokenize(prompt.tokens) == (
        "<|start|>user\nDo it.\n\nA document.\n\nDo it.<|end|>\n<|start|>assistant\n"
    )
    assert prompt.tokens[0] == engine.bos_tokens()[0]
    assert engine.detokenize(prompt.tokens[: prompt.n_pinned]).endswith("user\nDo it.\n\n")
    assert prompt.n_document == len("A document.")


def test_bos_is_not_doubled_where_the_template_writes_it(fake_engine, monkeypatch):
    engine = fake_engine()
    monkeypatch.setattr(engine, "bos_tokens", lambda: [])
    without = build_prompt(engine, "text").tokens
    monkeypatch.setattr(engine, "bos_tokens", lambda: without[:1])
    assert build_prompt(engine, "text").tokens == without
    monkeypatch.setattr(engine, "bos_tokens", lambda: [258])
    assert build_prompt(engine, "text").tokens == [258, *without]


@given(st.lists(st.sampled_from(["<|start|>", "<|end|>", "<|eot|>", "system\n", "x", " "])).map("".join))
def test_control_tokens_in_a_document_are_text(document):
    from conftest import FakeEngine

    engine = FakeEngine()
    control = [token for token in build_prompt(engine, document).tokens if token >= 256]
    assert control == [token for token in build_prompt(engine, "").tokens if token >= 256]


def test_document_can_be_cut(fake_engine):
    engine = fake_engine()
    prompt = build_prompt(engine, "0123456789", n_document_max=4)
    assert prompt.n_document == 4
    assert "0123\n\n" in engine.detokenize(prompt.tokens)


@pytest.mark.parametrize("render", ["no message at all", "twice: {m} {m}"])
def test_templates_that_lose_or_repeat_the_message_are_refused(fake_engine, monkeypatch, render):
    engine = fake_engine()
    monkeypatch.setattr(engine, "render", lambda messages: render.format(m=messages[0]["content"]))
    with pytest.raises(UnsupportedModel, match=r"shows a message [02] times instead of once"):
        build_prompt(engine, "text")


def test_a_fresh_memory_each_time(fake_engine):
    engine = fake_engine()
    first = [event for event in summarize(engine, "text") if hasattr(event, "token")]
    again = [event for event in summarize(engine, "text") if hasattr(event, "token")]
    assert first == again
    assert engine.detokenize(engine.seen).count(INSTRUCTION) == 2


def test_closing_the_stream_stops_the_reading(fake_engine):
    engine = fake_engine(n_ubatch=16)
    stream = summarize(engine, "x" * 1000)
    first = next(stream)
    assert isinstance(first, Progress)
    stream.close()
    assert len(engine.seen) == 16


def test_sampling_reaches_the_engine(fake_engine):
    engine = fake_engine()
    events = summarize(engine, "text", max_tokens=3, temperature=0.5, seed=7)
    steps = [event for event in events if hasattr(event, "token")]
    assert engine.sampling == {"temperature": 0.5, "seed": 7}
    assert [step.finish_reason for step in steps] == [None, None, "length"]


def test_counters_say_what_the_stats_say():
    seconds = {"load": 0.25, "read": 4.0, "decode": 0.5, "sample": 0.5, "compact": 0.05}
    stats = Stats(
        n_ctx=1024,
        n_seen=3000,
        n_cells=900,
        n_cells_peak=1024,
        n_compactions=17,
        n_evicted=2100,
        pos_next=900,
        kv_bytes=3 << 20,
        kv_bytes_used_peak=2 << 20,
        kv_bytes_full=9 << 20,
        n_read=2900,
        n_decoded=100,
        finish_reason="stop",
        seconds=seconds,
    )
    assert counters(stats) == {
        "n_seen": 3000,
        "n_ctx": 1024,
        "n_cells_peak": 1024,
        "n_compactions": 17,
        "n_evicted": 2100,
        "compact_share": 0.01,
        "kv_mib_allocated": 3.0,
        "kv_mib_used_peak": 2.0,
        "kv_mib_full_cache": 9.0,
        "n_read": 2900,
        "n_decoded": 100,
        "read_tokens_per_s": 725.0,
        "decode_tokens_per_s": 100.0,
        "seconds": seconds,
    }
