"""summarize: what is asked in which mode, what is pinned, what comes out, and that it can be stopped anywhere."""

from __future__ import annotations

import pytest
from lacache_app.documents import Document, Part
from lacache_app.summarize import (
    INSTRUCTION,
    LENGTHS,
    STYLES,
    Ledger,
    Meter,
    Place,
    Result,
    Stage,
    Task,
    counters,
    message,
    summarize,
)
from lacache_app.summarize.task import instruction
from lacache_app.summarize.work import tidy

from lacache_gguf.errors import UsageError
from lacache_gguf.events import Progress, Stats, Step


def chapters(n: int, n_chars: int = 300) -> Document:
    """A document of n chapters whose words are their own."""
    text, parts = "", []
    for number in range(1, n + 1):
        start = len(text)
        text += (f"Chapter{number} word{number} thing{number}. " * n_chars)[:n_chars] + "\n\n"
        parts.append(Part(f"ch. {number}", f"Title {number}", start, len(text)))
    return Document("book.md", text, "markdown", tuple(parts))


def of(kind: type, events) -> list:
    return [event for event in events if isinstance(event, kind)]


# ---- what is asked -------------------------------------------------------------------------------------------------


def test_the_instruction_stands_on_both_sides_and_is_pinned_before_the_document(fake_engine):
    engine = fake_engine()
    list(summarize(engine, "A document.", Task(instruction="Do it.")))
    assert engine.messages == [{"role": "user", "content": "Do it.\n\nA document.\n\nDo it."}]
    assert engine.detokenize(engine.seen[: engine.n_pinned]).endswith("user\nDo it.\n\n")


def test_the_default_task_is_the_default_instruction():
    assert instruction(Task(), "whole") == INSTRUCTION


def test_every_style_and_length_is_asked_for_in_other_words():
    for kind in ("whole", "notes"):
        told = {instruction(Task(style=style, length=length), kind) for style in STYLES for length in LENGTHS}
        assert len(told) == len(STYLES) * len(LENGTHS)
    assert len({instruction(Task(length=length), "part") for length in LENGTHS}) == len(LENGTHS)


@pytest.mark.parametrize("kind", ["whole", "part", "merge", "notes"])
def test_a_language_and_an_instruction_of_ones_own_reach_every_question(kind):
    task = Task(language="German", instruction="List the names.")
    content, pinned = message(task, kind, "THE TEXT")
    assert content.startswith(pinned)
    assert content.count("List the names.") == content.count("Write in German.") == 2
    assert "Summarize" not in content
    assert "THE TEXT" in content.removeprefix(pinned)


@pytest.mark.parametrize(
    ("field", "value"), [("mode", "all"), ("style", "haiku"), ("length", "epic"), ("instruction", "x" * 5000)]
)
def test_a_task_that_cannot_be_is_refused_by_name(field, value):
    with pytest.raises(UsageError, match=field):
        Task(**{field: value})


def test_sampling_reaches_the_engine(fake_engine):
    engine = fake_engine()
    steps = of(Step, summarize(engine, "text", max_tokens=3, temperature=0.5, seed=7))
    assert engine.sampling == {"temperature": 0.5, "seed": 7}
    assert [step.finish_reason for step in steps] == [None, None, "length"]


def test_the_length_is_the_most_tokens(fake_engine):
    engine = fake_engine()
    engine.reply = "word " * 1000
    for length, n in (("short", 96), ("medium", 256), ("long", 640)):
        assert len(of(Step, summarize(engine, "text", Task(length=length)))) == n


# ---- whole mode ----------------------------------------------------------------------------------------------------


def test_whole_mode_reads_the_document_once_and_says_where_sentences_come_from(fake_engine):
    engine = fake_engine(n_ctx=512)
    engine.reply = "It tells of thing3 and word3 at length. Nothing else matters here. Then of word7 and chapter7."
    document = chapters(9)
    events = list(summarize(engine, document))
    assert [stage.n_stages for stage in of(Stage, events)] == [1]
    assert document.text in engine.detokenize(engine.seen)
    result = events[-1]
    assert isinstance(result, Result)
    assert [place.label for place in result.places] == ["ch. 3", "ch. 7"]
    assert result.summary == engine.reply
    assert result.text == (
        "It tells of thing3 and word3 at length. [ch. 3] Nothing else matters here. Then of word7 and chapter7. [ch. 7]"
    )
    assert (result.prompt, result.answer) == (engine.messages[0]["content"], engine.reply)


def test_a_document_without_parts_has_no_places(fake_engine):
    result = list(summarize(fake_engine(), "only a text"))[-1]
    assert result.places == ()
    assert result.text == result.summary


# ---- parts mode ----------------------------------------------------------------------------------------------------


def parts_run(fake_engine, document, n_ctx=1024, **task):
    engine = fake_engine(n_ctx=n_ctx)
    asked: list[str] = []
    answer = engine.answer

    def remember(messages, **options):
        asked.append(messages[0]["content"])
        engine.reply = f"Answer {len(asked)}."
        return answer(messages, **options)

    engine.answer = remember
    return list(summarize(engine, document, Task("parts", **task))), asked


def test_parts_mode_asks_for_every_part_and_then_for_the_whole(fake_engine):
    document = chapters(12, 400)
    events, asked = parts_run(fake_engine, document)
    stages = of(Stage, events)
    assert [stage.index for stage in stages] == list(range(len(stages)))
    assert {stage.n_stages for stage in stages} == {len(stages)} == {len(asked)}
    assert [stage.is_final for stage in stages] == [False] * (len(stages) - 1) + [True]
    read = "".join(asked[: len(asked)])
    for part in document.parts:
        assert document.text[part.start : part.end].strip()[:100] in read
    result = events[-1]
    assert result.summary == f"Answer {len(asked)}."
    assert result.text.startswith(result.summary + "\n\n### Part by part\n\n- **")
    assert result.places == tuple(of(Place, events))
    assert result.places[0].start == 0
    assert result.places[-1].end == len(document.text)
    for before, after in zip(result.places, result.places[1:], strict=False):
        assert before.end == after.start, "the places cover the document"
    assert all(place.label and place.label in result.text and place.text in result.text for place in result.places)


def test_what_is_read_for_a_part_stays_whole_in_the_memory(fake_engine):
    for n_ctx in (256, 512, 1024, 4096):
        engine = fake_engine(n_ctx=n_ctx, policy=None)
        n_compactions = []
        for event in summarize(engine, chapters(30, 700), Task("parts", length="short"), max_tokens=20):
            if isinstance(event, Stage):
                n_compactions.append(engine.stats.n_compactions)
        if n_ctx >= 1024:  # the stand-in has one token a byte: the instruction alone fills a smaller memory
            assert set(n_compactions) == {0}


def test_a_short_document_is_asked_for_once_also_in_parts_mode(fake_engine):
    engine = fake_engine(n_ctx=2048)
    stages = of(Stage, summarize(engine, chapters(2, 100), Task("parts")))
    assert [stage.n_stages for stage in stages] == [1]


def test_ledger_counts_all_stages(fake_engine):
    engine, document = fake_engine(n_ctx=1024), chapters(12, 400)
    ledger, n_read, n_written = Ledger(engine), 0, 0
    for event in ledger.watch(summarize(engine, document, Task("parts"))):
        if isinstance(event, Progress) and event.n_done == event.n_total:
            n_read += event.n_total
        n_written += isinstance(event, Step)
    stats = ledger.stats
    assert (stats.n_read, stats.n_decoded) == (n_read, n_written)
    assert stats.n_seen == n_read + n_written > engine.stats.n_seen
    assert stats.n_cells_peak <= 1024
    assert stats.seconds["load"] == engine.stats.seconds["load"]


def test_a_forecast_counts_reading_and_writing():
    whole = Meter.expected_s(10_000, Task("whole", length="short"), 1024, 100.0, 0.1)
    assert whole == pytest.approx(100 + 9.6)
    parts = Meter.expected_s(10_000, Task("parts", length="short"), 1024, 100.0, 0.1)
    assert parts == pytest.approx(100 + 9.6 + 1.25 * 10_000 / 512 * 6.4)
    assert Meter.expected_s(500, Task("parts", length="short"), 1024, 100.0, 0.1) == pytest.approx(5 + 9.6)


# ---- stopping ------------------------------------------------------------------------------------------------------


def test_closing_the_stream_stops_the_reading(fake_engine):
    engine = fake_engine(n_ubatch=16)
    stream = summarize(engine, "x" * 1000)
    assert isinstance(next(stream), Stage)
    assert isinstance(next(stream), Progress)
    stream.close()
    assert len(engine.seen) == 16


def test_a_fresh_memory_each_time(fake_engine):
    engine = fake_engine()
    first = of(Step, summarize(engine, "text"))
    assert first == of(Step, summarize(engine, "text"))
    assert engine.detokenize(engine.seen).count(INSTRUCTION) == 2


@pytest.mark.parametrize(
    ("text", "reason", "expected"),
    [
        ("  One. Two. \n", "stop", "One. Two."),
        ("One. Two. And thr", "length", "One. Two."),
        ("One. Two.", "length", "One. Two."),
        ("Only a beginn", "length", "Only a beginn"),
        ("- First point.\n- Second point.\n- Thi", "length", "- First point.\n- Second point."),
        ("Mr. Holmes went out. He met Dr. Wat", "length", "Mr. Holmes went out."),
    ],
)
def test_a_text_that_was_cut_off_ends_with_a_whole_sentence(text, reason, expected):
    assert tidy(text, reason) == expected


# ---- progress ------------------------------------------------------------------------------------------------------


def test_meter_runs_from_nothing_to_the_end(fake_engine):
    engine, meter, fractions = fake_engine(n_ctx=1024), Meter(Task("parts")), []
    for event in summarize(engine, chapters(12, 400), Task("parts")):
        meter.update(event)
        fractions.append(meter.fraction)
        assert meter.eta_s is None or meter.eta_s >= 0
    assert fractions[0] == 0
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert meter.tokens_per_s == pytest.approx(1000), "the stand-in reads 1,000 tokens a second"
    assert meter.eta_s == 0


def test_meter_counts_only_what_was_read_now():
    meter = Meter(Task())
    meter.update(Stage(0, 1, "a"))
    meter.update(Progress(900, 1000, 10, 10, 0, 1.0, n_before=800))
    assert meter.tokens_per_s == 100
    assert meter.fraction == 0.9
    assert meter.eta_s == 1.0


def test_time_left_counts_what_a_long_summary_may_have_to_write():
    times = iter((0.0, 0.5))
    meter = Meter(Task("parts", length="long"), clock=lambda: next(times))
    meter.update(Stage(0, 3, "a", 100, 0, 300))
    meter.update(Progress(100, 100, 10, 10, 0, 1.0))
    for _ in range(2):
        meter.update(Step(1, "x"))
    assert meter.eta_s == pytest.approx(200 / 100 + (2 * 160 + 640 - 2) * 0.5)


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
