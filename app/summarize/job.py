"""One summary in the making, on disk: its folder, its checkpoints, and who works on it.

What it is: `Job`, made by `Jobs` (jobs.py) and used by `summarize`. Each file is written to a temporary one, flushed
and renamed, so it is always whole.
What it does not know: what is in a memory; the engine writes and checks its own file.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacache_app.summarize.events import Place, Result
from lacache_app.summarize.task import Task
from lacache_app.summarize.tree import Node

from lacache_gguf.errors import LacacheError, UsageError

if TYPE_CHECKING:
    from lacache_app.documents import Document

    from lacache_gguf.engine import Engine

VERSION = 1
FIRST_S = 2.0  # work of less time is not worth a file
SHARE = 50  # time between two checkpoints, in costs of one: writing takes less than 2 % of the time
_STATE = ("name", "state", "created", "updated", "keep", "sampling", "engine", "texts", "n_done", "n_total", "head")


class Job:
    """One summary in the making. `texts` are the summaries written so far (parts mode), `nodes` the plan."""

    def __init__(self, path: Path, document: Document | None, task: Task, sampling: dict[str, Any], keep: bool) -> None:
        self.path, self.task, self.sampling, self.keep = path, task, sampling, keep
        self.id = path.name
        self._document = document
        self.name = document.name if document else ""
        self.state = "unfinished"
        self.created = self.updated = time.time()
        self.engine: dict[str, Any] = {}
        self.nodes: list[Node] = []
        self.texts: list[str] = []
        self.n_done = self.n_total = 0  # tokens read and to read
        self.result: Result | None = None
        self.problem = ""  # why it cannot be written any more
        self._owner: list[float] | None = None
        self.head: dict[str, Any] = {}
        self.is_on_disk = False
        self._saved_at, self._cost_s = time.perf_counter(), 0.0

    # ---- reading ---------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: Path) -> Job | None:
        """The job in this folder; None if there is none or it cannot be read."""
        try:
            data = json.loads((path / "job.json").read_bytes())
            if data["version"] != VERSION or data["state"] not in ("unfinished", "done"):
                return None
            job = cls(path, None, Task(**data["task"]), {}, False)
            for name in _STATE:
                setattr(job, name, data[name])
            job.nodes = [Node(**{**node, "children": tuple(node["children"])}) for node in data["nodes"]]
            job.result = _result(data["result"])
            job._owner, job.is_on_disk = data["owner"], True
            return job
        except (OSError, ValueError, KeyError, TypeError, LacacheError):
            return None

    @property
    def document(self) -> Document:
        """The document as it was given. Raises UsageError if its file is gone or damaged."""
        if self._document is None:
            from lacache_app.documents import Document, Part

            try:
                text = (self.path / "document.txt").read_bytes().decode("utf-8", "surrogatepass")
                if len(text) != self.head["n_chars"]:
                    raise ValueError(f"it has {len(text):,} characters instead of {self.head['n_chars']:,}")
                parts = tuple(Part(*part) for part in self.head["parts"])
                self._document = Document(self.name, text, self.head["kind"], parts, self.head["note"])
            except (OSError, ValueError, TypeError, KeyError) as error:
                reason = f"the text of {self.name} cannot be read back: {error}; give the file again"
                raise UsageError(reason) from error
        return self._document

    @property
    def fraction(self) -> float:
        """Share that was read at the last checkpoint, 0 .. 1."""
        return min(1.0, self.n_done / self.n_total) if self.n_total else 0.0

    @property
    def is_running(self) -> bool:
        """Whether a living process works on it."""
        return self._owner is not None and _is_alive(self._owner)

    # ---- while it is worked on (called by `summarize`) -------------------------------------------------------------

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """The job belongs to this process in the block. Raises UsageError if another one works on it."""
        if self.is_running:
            raise UsageError(f"{self.name} is being summarized already; stop it there first")
        self._owner = _this_process()
        self._saved_at = time.perf_counter()
        if self.is_on_disk:
            self._write_state()
        try:
            yield
        finally:
            self._owner = None
            if self.is_on_disk:
                with contextlib.suppress(OSError):  # what is on disk stays as it was; a dead owner is no owner
                    self._write_state()

    def restore(self, engine: Engine, stage: int) -> str:
        """Load what the engine had read in this stage. Returns why that was not possible, "" if it was or there was
        nothing to load; then the stage is read from its beginning."""
        path = self.path / "memory.kv"
        if not self.is_on_disk or not path.exists():
            return ""
        problem = ""
        try:
            if _note_of(path, engine) == stage:
                return ""
            engine.reset()
        except LacacheError as error:
            problem = f"{self.name} is read from the beginning of this part again: {error}"
        path.unlink(missing_ok=True)  # of an earlier stage, or of another memory
        return problem

    def checkpoint(self, engine: Engine | None, stage: int, *, force: bool = False) -> None:
        """Write the state if it is time to; with an engine also what its memory holds. Never raises: a summary does
        not fail because the disk is full; `problem` says so."""
        now = time.perf_counter()
        if self.problem or (not force and now - self._saved_at < max(FIRST_S, SHARE * self._cost_s)):
            return
        try:
            self._make()
            if engine is not None:
                engine.save(self.path / "memory.kv", {"stage": stage})
                os.chmod(self.path / "memory.kv", 0o600)
            self._write_state()
        except (OSError, LacacheError) as error:
            self.problem = f"the state of this summary cannot be saved, so a crash would lose it: {error}"
        self._saved_at = time.perf_counter()
        self._cost_s = self._saved_at - now

    def finish(self, engine: Engine, result: Result) -> None:
        """The summary is done: keep the result and the memory it was made with, or delete everything."""
        self.state, self.result = "done", result
        if not self.keep:
            self.is_on_disk = False
            remove(self.path)
            return
        self.n_done = self.n_total
        self.checkpoint(engine, -1, force=True)

    def _make(self) -> None:
        if self.is_on_disk:
            return
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        document = self.document
        write_atomic(self.path / "document.txt", document.text.encode("utf-8", "surrogatepass"))
        parts = [[part.label, part.title, part.start, part.end] for part in document.parts]
        self.head = {"kind": document.kind, "note": document.note, "n_chars": len(document.text), "parts": parts}
        self.is_on_disk = True

    def _write_state(self) -> None:
        self.updated = time.time()
        data = {
            "version": VERSION,
            **{name: getattr(self, name) for name in _STATE},
            "task": asdict(self.task),
            "nodes": [asdict(node) for node in self.nodes],
            "result": asdict(self.result) if self.result else None,
            "owner": self._owner,
        }
        write_atomic(self.path / "job.json", json.dumps(data, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, so that it is the old one or the whole new one at any time."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _result(data: dict[str, Any] | None) -> Result | None:
    return Result(**{**data, "places": tuple(Place(**place) for place in data["places"])}) if data else None


def _note_of(path: Path, engine: Engine) -> int:
    return engine.load(path).get("stage", -1)


def remove(path: Path) -> None:
    """Remove a job's folder, job.json first: what is left of it after a crash is no job."""
    with contextlib.suppress(OSError):
        (path / "job.json").unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _this_process() -> list[float]:
    import psutil

    return [os.getpid(), psutil.Process().create_time()]


def _is_alive(owner: list[float]) -> bool:
    """Whether the process with this number is still the one that began at that time."""
    import psutil

    try:
        process = psutil.Process(int(owner[0]))
        return abs(process.create_time() - owner[1]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return False
