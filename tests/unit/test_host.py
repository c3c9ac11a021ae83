"""The engine host: one thread, works in order, batches at once and then gathered, stop, settings that do not load."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from lacache_app.host import EngineHost, EngineSettings, HostClosed
from lacache_app.run import Run

from lacache_gguf.errors import OutOfMemory, UsageError

WAIT_S = 30  # nothing takes this long, unless it hangs


class Gate:
    """A work whose every event waits for the test: `let(event)` gives one, `end()` ends it."""

    made: ClassVar[list[Gate]] = []

    def __init__(self) -> None:
        self.made.append(self)
        self._changed = threading.Condition()
        self._events: list[Any] = []
        self.started, self.closed = threading.Event(), threading.Event()
        self.n_given = 0
        self.thread: threading.Thread | None = None

    def let(self, *events: Any) -> None:
        with self._changed:
            self._events += events
            self._changed.notify_all()

    end = object()

    def __call__(self, engine: Any) -> Iterator[Any]:
        self.engine, self.thread = engine, threading.current_thread()
        self.started.set()
        try:
            while True:
                with self._changed:
                    assert self._changed.wait_for(lambda: self._events, WAIT_S)
                    event = self._events.pop(0)
                if event is self.end:
                    return
                if isinstance(event, Exception):
                    raise event
                self.n_given += 1
                yield event
        finally:
            self.closed.set()


@pytest.fixture
def host(fake_engine) -> Iterator[EngineHost]:
    host = EngineHost(EngineSettings(n_ctx=256))
    yield host
    for gate in Gate.made:
        gate.let(Gate.end)
    Gate.made.clear()
    assert host.shutdown(WAIT_S)
    assert all(engine.is_closed for engine in fake_engine.opened)


def events(run: Run[Any]) -> list[Any]:
    return [event for batch in run.batches(0.01) for event in batch]


def numbers(n: int):
    return lambda _engine: iter(range(n))


def test_nothing_is_loaded_until_it_is_needed(host, fake_engine):
    assert not host.is_loaded
    assert host.status().state == "empty"
    assert fake_engine.opened == []
    run = host.start(lambda engine: engine.generate(engine.tokenize("hello")))
    text = "".join(getattr(event, "text", "") for event in events(run))
    assert text == "A summary of 5 tokens, café included."
    assert host.is_loaded
    assert run.state == "done"
    status = host.status()
    assert (status.state, status.model, status.n_ctx, status.kv_bytes) == ("idle", "fake", 256, 256 * 23040)
    assert fake_engine.opened[0].settings["n_ctx"] == 256


def test_works_run_one_after_the_other_in_one_thread(host, fake_engine):
    gates = [Gate(), Gate(), Gate()]
    runs = [host.start(gate) for gate in gates]
    assert gates[0].started.wait(WAIT_S)
    assert [run.place for run in runs] == [0, 1, 2]
    assert [run.state for run in runs[1:]] == ["waiting", "waiting"]
    assert host.is_busy
    assert host.status().n_waiting == 2
    for gate in gates:
        gate.let(Gate.end)
    assert all(run.wait(WAIT_S) for run in runs)
    assert len({gate.thread for gate in gates}) == 1
    assert gates[0].thread is not threading.current_thread()
    assert len(fake_engine.opened) == 1
    assert host.wait_idle(WAIT_S)
    assert not host.is_busy


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
def test_the_engine_computes_with_a_lower_priority_than_page_and_server(host):
    own = os.getpriority(os.PRIO_PROCESS, 0)

    def priorities(_engine: Any) -> Iterator[int]:
        yield os.getpriority(os.PRIO_PROCESS, 0)
        inherited: list[int] = []
        child = threading.Thread(target=lambda: inherited.append(os.getpriority(os.PRIO_PROCESS, 0)))
        child.start()
        child.join(WAIT_S)
        yield from inherited

    assert [n for batch in host.start(priorities).batches() for n in batch] == [min(19, own + 10)] * 2
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_the_first_event_comes_at_once_and_later_ones_are_gathered(host):
    gate = Gate()
    batches = host.start(gate).batches(interval_s=3600)
    gate.let(1)
    assert _first_full(batches) == [1]  # long before the interval has passed
    gate.let(2, 3, 4, Gate.end)
    assert next(batches) == [2, 3, 4]  # the end does not wait for the interval either
    assert list(batches) == []


def test_another_kind_of_event_comes_at_once_too(host):
    gate = Gate()
    batches = host.start(gate).batches(interval_s=3600)
    gate.let("read")
    assert _first_full(batches) == ["read"]
    gate.let("read", "read", 1)  # the first token behind the progress of the read
    seen: list[Any] = []
    while 1 not in seen:
        seen += next(batches)
    assert seen == ["read", "read", 1]


def test_later_events_come_when_the_interval_has_passed(host):
    gate = Gate()
    batches = host.start(gate).batches(interval_s=0.05)
    gate.let(1)
    _first_full(batches)
    start = time.monotonic()
    gate.let(2, 3)
    assert _first_full(batches)[0] == 2
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
    assert _first_full(batches) == [1]
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
    assert _first_full(reader) == [1]
    reader.close()
    gate.let(2)
    assert run.wait(WAIT_S)
    assert run.state == "stopped"


def test_an_error_reaches_the_reader_and_not_the_host(host, caplog):
    gate = Gate()
    run = host.start(gate)
    gate.let(1, RuntimeError("a fault of ours"))
    batches = run.batches(0.01)
    assert _first_full(batches) == [1]  # what came before it is not lost
    with pytest.raises(RuntimeError, match="a fault of ours"):
        list(batches)
    assert run.state == "failed"
    assert "a fault of ours" in caplog.text
    assert events(host.start(numbers(2))) == [0, 1]


def test_a_users_error_is_not_logged(host, caplog):
    run = host.start(lambda _engine: (_ for _ in ()).throw(UsageError("nothing to read")))
    with pytest.raises(UsageError):
        events(run)
    assert caplog.text == ""


def test_a_work_that_cannot_even_start_fails_alone(host):
    with pytest.raises(TypeError):
        events(host.start(lambda _engine: None))
    assert events(host.start(numbers(1))) == [0]


def test_other_settings_load_another_engine_and_stay(host, fake_engine):
    events(host.start(numbers(1)))
    other = EngineSettings(n_ctx=512)
    events(host.start(numbers(1), other))
    assert [engine.n_ctx for engine in fake_engine.opened] == [256, 512]
    assert fake_engine.opened[0].is_closed  # before the other one was loaded: both need not fit at once
    assert host.settings == other
    events(host.start(numbers(1)))
    events(host.start(numbers(1), other))
    assert len(fake_engine.opened) == 2


def test_settings_that_do_not_load_leave_the_engine_as_it_was(host, fake_engine, monkeypatch):
    from lacache_app import options

    class Refusing(fake_engine):
        def __init__(self, *args: Any, n_ctx: int, **settings: Any) -> None:
            if n_ctx == 99:
                raise OutOfMemory("99 cells do not fit")
            super().__init__(*args, n_ctx=n_ctx, **settings)

    monkeypatch.setattr(options, "engine_class", lambda: Refusing)
    events(host.start(numbers(1)))
    with pytest.raises(OutOfMemory):
        events(host.start(numbers(1), EngineSettings(n_ctx=99)))
    assert host.settings.n_ctx == 256
    assert host.is_loaded
    assert host.status().n_ctx == 256
    assert events(host.start(numbers(2))) == [0, 1]


def test_a_model_that_is_not_there_does_not_cost_the_loaded_one(host, fake_engine, tmp_path):
    events(host.start(numbers(1)))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no model")
    for model in ("no/such.gguf", str(broken)):
        with pytest.raises(Exception, match=r"such|broken"):
            events(host.start(numbers(1), EngineSettings(model=model)))
    assert len(fake_engine.opened) == 1
    assert not fake_engine.opened[0].is_closed


def test_drop_frees_when_idle_and_the_next_work_loads_again(host, fake_engine):
    gate = Gate()
    run = host.start(gate)
    assert gate.started.wait(WAIT_S)
    host.drop()
    assert not fake_engine.opened[0].is_closed  # it is at work
    gate.let(Gate.end)
    assert run.wait(WAIT_S)
    assert host.wait_idle(WAIT_S)
    assert fake_engine.opened[0].is_closed
    assert not host.is_loaded
    events(host.start(numbers(1)))
    assert len(fake_engine.opened) == 2
    host.drop()
    host.drop()
    assert host.wait_idle(WAIT_S)
    assert not host.is_loaded


def test_the_observer_sees_the_engine_on_its_thread_and_may_fail(fake_engine, caplog):
    seen: list[tuple[Any, threading.Thread]] = []

    def observe(engine: Any) -> None:
        seen.append((engine, threading.current_thread()))
        if len(seen) == 3:
            raise ValueError("cannot draw")

    host = EngineHost(EngineSettings(), observe)
    gate = Gate()
    run = host.start(gate)
    gate.let(1, 2, 3, Gate.end)
    assert events(run) == [1, 2, 3]
    assert len(seen) == 3  # loaded, 1, 2: then never again
    assert {thread for _, thread in seen} == {gate.thread}
    assert "cannot draw" in caplog.text
    assert host.shutdown(WAIT_S)


def test_shutdown_stops_everything_and_closes_works_in_the_thread(fake_engine):
    host = EngineHost(EngineSettings())
    gate, waiting = Gate(), Gate()
    run, other = host.start(gate), host.start(waiting)
    gate.let(1)
    batches = run.batches(0.01)
    assert _first_full(batches) == [1]
    closer = threading.Thread(target=host.shutdown)
    closer.start()
    gate.let(2)
    closer.join(WAIT_S)
    assert not closer.is_alive()
    assert gate.closed.is_set()  # its finally was run: a partial answer is stored
    assert (run.state, other.state) == ("stopped", "stopped")
    assert fake_engine.opened[0].is_closed
    with pytest.raises(HostClosed):
        host.start(numbers(1))
    assert host.shutdown()  # twice is fine


def _first_full(batches: Iterator[list[Any]]) -> list[Any]:
    return next(batch for batch in batches if batch)
