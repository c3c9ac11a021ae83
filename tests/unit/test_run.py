"""A run of the engine host: batches at once and then gathered, places in the queue, stop."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

from lacache_app.host import EngineHost, EngineSettings
from unit.gate import WAIT_S, Gate, events, first_full, numbers


def test_the_first_event_comes_at_once_and_later_ones_are_gathered(host):
    gate = Gate()
    batches = host.start(gate).batches(interval_s=3600)
    gate.let(1)
    assert first_full(batches) == [1]  # long before the interval has passed
    gate.let(2, 3, 4, Gate.end)
    assert next(batches) == [2, 3, 4]  # the end does not wait for the interval either
    assert list(batches) == []


def test_another_kind_of_event_comes_at_once_too(host):
    gate = Gate()
    batches = host.start(gate).batches(interval_s=3600)
    gate.let("read")
    assert first_full(batches) == ["read"]
    gate.let("read", "read", 1)  # the first token behind the progress of the read
    seen: list[Any] = []
    while 1 not in seen:
        seen += next(batches)
    assert seen == ["read", "read", 1]


def test_later_events_come_when_the_interval_has_passed(host):
    gate = Gate()
    batches = host.start(gate).batches(interval_s=0.05)
    gate.let(1)
    first_full(batches)
    start = time.monotonic()
    gate.let(2, 3)
    assert first_full(batches)[0] == 2
    assert time.monotonic() - start > 0.03


def test_the_engine_never_waits_for_a_reader(host):
    run = host.start(numbers(10_000))
    assert run.wait(WAIT_S)  # nobody has read a single event
    assert events(run) == list(range(10_000))


def test_empty_batches_while_a_run_waits(host):
    first, second = Gate(), Gate()
    host.start(first)
    run = host.start(second)
    batches = run.batches(0.001)
    assert [next(batches) for _ in range(3)] == [[], [], []]
    assert run.place == 1
    first.let(Gate.end)
    second.let("now", Gate.end)
    assert [event for batch in batches for event in batch] == ["now"]


def test_a_silent_work_gives_empty_batches_so_that_its_reader_can_be_closed(host):
    gate = Gate()
    run = host.start(gate)
    assert gate.started.wait(WAIT_S)
    batches = run.batches(0.001)
    assert next(batches) == []
    assert run.state == "running"
    batches.close()
    gate.let("ignored")
    assert gate.closed.wait(WAIT_S)
    assert run.wait(WAIT_S)
    assert run.state == "stopped"


def test_stop_ends_behind_the_current_event(host):
    gate = Gate()
    run = host.start(gate)
    gate.let(1)
    batches = run.batches(0.01)
    assert first_full(batches) == [1]
    run.stop()
    gate.let(2, 3, 4)
    assert [event for batch in batches for event in batch] == [2]  # the step that was under way
    assert gate.closed.is_set()
    assert run.state == "stopped"
    assert gate.n_given == 2
    assert host.wait_idle(WAIT_S)
    assert events(host.start(numbers(2))) == [0, 1]  # the host goes on


def test_a_run_stopped_before_its_turn_never_runs(host):
    first, second, third = Gate(), Gate(), Gate()
    host.start(first)
    waiting, last = host.start(second), host.start(third)
    waiting.stop()
    assert waiting.state == "stopped"
    assert events(waiting) == []
    assert last.place == 1
    first.let(Gate.end)
    third.let(Gate.end)
    assert last.wait(WAIT_S)
    assert not second.started.is_set()


def test_a_run_stopped_while_the_model_loads_never_runs(monkeypatch, fake_engine):
    loading, may_load = threading.Event(), threading.Event()

    def slow(*args: Any, **settings: Any) -> Any:
        loading.set()
        assert may_load.wait(WAIT_S)
        return fake_engine(*args, **settings)

    from lacache_app import options

    monkeypatch.setattr(options, "engine_class", lambda: slow)
    host = EngineHost(EngineSettings())
    gate = Gate()
    run = host.start(gate)
    assert loading.wait(WAIT_S)
    assert (run.state, run.place, host.status().state) == ("loading", 0, "loading")
    assert next(run.batches(0.001)) == []  # which is closed here, and so the run is stopped
    gc.collect()
    may_load.set()
    assert run.wait(WAIT_S)
    assert run.state == "stopped"
    assert not gate.started.is_set()
    assert host.is_loaded  # what was loaded is there for the next one
    assert host.shutdown(WAIT_S)


def test_a_closed_reader_stops_its_run(host):
    gate = Gate()
    run = host.start(gate)

    def handler() -> Iterator[list[Any]]:  # as in the UI
        yield from run.batches(0.01)

    reader = handler()
    gate.let(1)
    assert first_full(reader) == [1]
    reader.close()
    gate.let(2)
    assert run.wait(WAIT_S)
    assert run.state == "stopped"
