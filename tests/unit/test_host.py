"""The engine host: one thread, works in order, errors, settings that do not load, shutdown."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from lacache_app.host import EngineHost, EngineSettings, HostClosed
from unit.gate import WAIT_S, Gate, events, first_full, numbers

from lacache_gguf.errors import OutOfMemory, UsageError


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
    assert (status.state, status.model, status.n_ctx, status.kv_bytes) == ("idle", "fake", 4096, 4096 * 23040)
    assert fake_engine.opened[0].settings["n_ctx"] == 4096


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


def test_an_error_reaches_the_reader_and_not_the_host(host, caplog):
    gate = Gate()
    run = host.start(gate)
    gate.let(1, RuntimeError("a fault of ours"))
    batches = run.batches(0.01)
    assert first_full(batches) == [1]  # what came before it is not lost
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
    assert [engine.n_ctx for engine in fake_engine.opened] == [4096, 512]
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
    assert host.settings.n_ctx == 4096
    assert host.is_loaded
    assert host.status().n_ctx == 4096
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
    assert first_full(batches) == [1]
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
