"""The one engine and the one thread that runs it.

What it is: `EngineHost`, a queue of works. A work is a function that takes the engine and returns an iterator of
events; works are run one after the other in the host's thread, which also loads, changes and frees the engine. Whoever
started a work reads its events from a `Run`, in batches, and stops it there. The engine never waits for a reader.
What it does not know: gradio, chats, documents, what an event is.

    host = EngineHost(EngineSettings(model="smollm2-135m"))
    run = host.start(lambda engine: engine.answer(messages))
    for batch in run.batches():        # closing this iterator stops the work
        for event in batch: ...
    host.shutdown()
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

from lacache_app.run import Run

from lacache_gguf.errors import LacacheError

if TYPE_CHECKING:
    from lacache_gguf.engine import Engine
    from lacache_gguf.policies import Policy

T = TypeVar("T")
_log = logging.getLogger(__name__)
_NICE = 10  # the page is painted, and its server answers, before the next token is computed


class HostClosed(LacacheError):
    """The host was shut down before the work could run."""


@dataclass(frozen=True)
class EngineSettings:
    """Keyword arguments of `Engine`; see there for what they mean. `policy` None: what was calibrated for this model
    and this memory, else what the engine chooses."""

    model: str = "smollm2-135m"
    n_ctx: int | None = None
    kv_budget: str | int | None = None
    policy: Policy | None = None
    n_ubatch: int = 512
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: bool | None = None
    n_gpu_layers: int = -1
    n_threads: int | None = None
    n_threads_batch: int | None = None

    def open(self) -> Engine:
        """Load the model. Raises what `Engine` raises."""
        from lacache_app.calibrated import calibrated_for
        from lacache_app.options import engine_class

        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return engine_class()(**{**values, "policy": self.policy or calibrated_for(self)})


@dataclass(frozen=True)
class HostStatus:
    """What the host is doing, for a header: `state` is empty (nothing loaded), idle, loading or busy."""

    state: str
    settings: EngineSettings
    n_waiting: int
    model: str = ""  # of the loaded engine, as are the next three
    n_ctx: int = 0
    kv_bytes: int = 0
    policy: str = ""


class EngineHost:
    """The one engine and the one thread that runs it.

    settings  of the engine that is or will be loaded (at the first work)
    observe   called with the engine, on the host's thread, after it was loaded, after every event and at a work's end
    """

    def __init__(self, settings: EngineSettings, observe: Callable[[Engine], None] | None = None) -> None:
        self.settings = settings
        self._observe = observe
        self._engine: Engine | None = None
        self._changed = threading.Condition()
        self._queue: deque[Run[Any]] = deque()
        self._current: Run[Any] | None = None
        self._is_dropping = self._is_closed = False
        self._thread: threading.Thread | None = None

    # ---- what anybody may call, from any thread ----------------------------------------------------------------------

    @property
    def is_loaded(self) -> bool:
        """Whether a model is in memory."""
        return self._engine is not None

    @property
    def is_busy(self) -> bool:
        """Whether a work is running or waiting."""
        with self._changed:
            return self._current is not None or bool(self._queue)

    def status(self) -> HostStatus:
        """What the host is doing now."""
        with self._changed:
            engine, current, n_waiting = self._engine, self._current, len(self._queue)
        if current is not None and current.state == "loading":
            return HostStatus("loading", current.settings or self.settings, n_waiting)
        state = "busy" if current is not None else "idle"
        if engine is None:
            return HostStatus("busy" if current is not None else "empty", self.settings, n_waiting)
        return HostStatus(
            state, self.settings, n_waiting, engine.model.name, engine.n_ctx, engine.stats.kv_bytes, engine.policy.name
        )

    def start(self, work: Callable[[Engine], Iterator[T]], settings: EngineSettings | None = None) -> Run[T]:
        """Queue a work and return its run.

        The engine is loaded first if it is not. `settings` other than the present ones become the present ones if they
        load; if not, the run fails with the reason and the engine is as before. Raises HostClosed after `shutdown`.
        The iterator that `work` returns is closed in the host's thread when the run is stopped, so what its `finally`
        does (storing a partial answer) is done even when the program ends.
        """
        run: Run[T] = Run(self, work, settings)
        with self._changed:
            if self._is_closed:
                raise HostClosed("the program is ending; start it again to go on")
            self._queue.append(run)
            if self._thread is None:
                self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return run

    def drop(self) -> None:
        """Free the engine as soon as nothing runs or waits; the next work loads it again. Returns at once."""
        with self._changed:
            self._is_dropping = self._engine is not None or self._current is not None
            self._changed.notify_all()

    def wait_idle(self, timeout_s: float | None = None) -> bool:
        """Wait until nothing runs, waits or is being freed; False if that took longer than the timeout."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._current is None and not self._queue and not self._is_dropping, timeout_s
            )

    def shutdown(self, timeout_s: float = 30.0) -> bool:
        """Stop every run, free the engine and end the thread; safe to call twice. False if it does not end in time."""
        with self._changed:
            self._is_closed = True
            runs = [*self._queue, *([self._current] if self._current else [])]
            self._changed.notify_all()
        for run in runs:
            run.stop()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)
            return not thread.is_alive()
        return True

    # ---- bookkeeping for Run -----------------------------------------------------------------------------------------

    def _place(self, run: Run[Any]) -> int:
        with self._changed:
            if run in self._queue:
                return self._queue.index(run) + (self._current is not None)
            return 0

    def _drop_waiting(self, run: Run[Any]) -> None:
        """A run that is stopped before its turn leaves the queue at once."""
        with self._changed:
            if run not in self._queue:
                return
            self._queue.remove(run)
            self._changed.notify_all()
        run._set("stopped")

    # ---- the thread --------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own, which those that ggml starts inherit
            os.nice(_NICE)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._is_dropping or self._is_closed)
                if self._queue:
                    run = self._current = self._queue.popleft()
                    is_last = False
                else:
                    run, is_last = None, self._is_closed
            if run is not None:
                self._run(run)
                run = None  # what it holds must not live until the next one
                with self._changed:
                    self._current = None
                    self._changed.notify_all()
                continue
            self._close_engine()
            with self._changed:
                self._is_dropping = False
                self._changed.notify_all()
            if is_last:
                return

    def _run(self, run: Run[Any]) -> None:
        """Load what is needed, iterate, close; what is raised goes to the run's reader, never ends the thread."""
        events: Iterator[Any] | None = None
        try:
            if run.is_stopping:
                run._set("stopped")
                return
            engine = self._load(run)
            if run.is_stopping:
                run._set("stopped")
                return
            run._set("running")
            events = iter(run.work(engine))
            for event in events:
                run._push(event)
                self._watch(engine)
                if run.is_stopping:
                    break
            self._close(events)
            self._watch(engine)
            run._set("stopped" if run.is_stopping else "done")
        except BaseException as error:
            if not isinstance(error, LacacheError):
                _log.exception("a work failed")
            with suppress(BaseException):
                self._close(events)
            run._set("failed", error)

    @staticmethod
    def _close(events: Iterator[Any] | None) -> None:
        close = getattr(events, "close", None)
        if close is not None:
            close()

    def _watch(self, engine: Engine) -> None:
        if self._observe is None:
            return
        try:
            self._observe(engine)
        except Exception:
            _log.exception("the observer failed; it is not called again")
            self._observe = None

    def _load(self, run: Run[Any]) -> Engine:
        """The engine for this run's settings, loaded if it is not the present one. Raises why it cannot be."""
        settings = run.settings or self.settings
        if self._engine is not None and settings == self.settings:
            return self._engine
        run._set("loading")
        if self._engine is not None:
            self._check_model(settings)
        had_engine = self._engine is not None
        self._close_engine()
        try:
            self._engine = settings.open()
        except BaseException:
            if had_engine:
                self._reload()
            raise
        self.settings = settings
        self._watch(self._engine)
        return self._engine

    def _check_model(self, settings: EngineSettings) -> None:
        """Before a good engine is given up: is the other model there and readable? Raises why not."""
        if settings.model != self.settings.model:
            from lacache_gguf.catalog import resolve
            from lacache_gguf.gguf_header import read_header

            read_header(resolve(settings.model).path)

    def _reload(self) -> None:
        """The former engine again, after another one could not be loaded."""
        try:
            self._engine = self.settings.open()
            self._watch(self._engine)
        except Exception:
            _log.exception("the former model could not be loaded again; the next work tries it")

    def _close_engine(self) -> None:
        if self._engine is not None:
            engine, self._engine = self._engine, None
            engine.close()
