"""Downloads from the model hub that can be paused, survive a restart, and tell how they are getting on.

What it is: `Downloads`, which runs each download in a thread of its own and remembers unfinished ones in a file.
`status()` gives values to show. The bytes of an unfinished download lie in the hub's cache (lacache_gguf/hub_fetch.py),
so a later start, also of another program run, goes on where it ended.
What it does not know: gradio, what a model is good for. It takes `user/repo:QUANT` and nothing else: no free addresses.

    downloads = Downloads(data_dir)
    name = downloads.start("user/repo:Q4_K_M")        # its full name
    downloads.status(name).text                       # "1.2 of 4.6 GiB, 24 MiB/s, 2 min left"
    downloads.pause(name); downloads.resume(name); downloads.cancel(name)
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lacache_app.download_status import Speed, Status

from lacache_gguf import hub
from lacache_gguf.errors import DamagedModel, LacacheError, UsageError
from lacache_gguf.hub_fetch import DownloadStopped, discard_parts, n_bytes_here
from lacache_gguf.hub_names import HubRef, parse_ref

_log = logging.getLogger(__name__)
_FILE = "downloads.json"


@dataclass
class _Job:
    """A download's thread and what is to be remembered of it."""

    status: Status
    ref: HubRef
    etags: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    is_cancelled: bool = False
    thread: threading.Thread | None = None


class Downloads:
    """All downloads of this program; safe to use from any thread.

    folder  where `downloads.json` lies: unfinished downloads, and the licences the hub gave for finished ones
    clock   seconds, for the speed (tests put another one here)
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = folder / _FILE, clock
        self._changed = threading.Condition()
        self._licences: dict[str, str] = {}
        self._jobs: dict[str, _Job] = {}
        self._aliases: dict[str, str] = {}  # names as they were typed -> full names
        self._revision = 0
        self._restore()

    # ---- what is going on ------------------------------------------------------------------------------------------

    def all(self) -> tuple[Status, ...]:
        """Every download of this run and every unfinished one of earlier runs, newest last."""
        with self._changed:
            return tuple(job.status for job in self._jobs.values())

    def status(self, name: str) -> Status | None:
        """One of them, None if there is none of that name."""
        with self._changed:
            job = self._job(name)
            return job.status if job else None

    def licence(self, name: str) -> str | None:
        """The licence that the hub gave for a downloaded "user/repo:QUANT"."""
        with self._changed:
            return self._licences.get(name.partition(":")[0])

    @property
    def revision(self) -> int:
        """Grows with every change."""
        return self._revision

    def wait(self, until: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until `until()` is true, looked at after every change; False if it was not within the timeout."""
        with self._changed:
            return self._changed.wait_for(until, timeout_s)

    # ---- what a person does ----------------------------------------------------------------------------------------

    def start(self, text: str) -> str:
        """Begin to download "user/repo[:QUANT]", or go on with it. Returns a name for it, at once; its status has the
        full name once the hub was asked.

        Raises UsageError if `text` names no repository.
        """
        ref = parse_ref(text)
        if ref is None:
            raise UsageError(
                f"{text.strip()[:80]!r} is no model on the hub: write user/repo or user/repo:Q4_K_M; "
                "other addresses are not downloaded"
            )
        name = f"{ref.repo}:{ref.tag}" if ref.tag else ref.repo
        with self._changed:
            job = self._job(name)
            if job is None:
                job = self._jobs[name] = _Job(Status(name, "paused"), ref)
            if not job.status.is_active:
                self._run(job)
        return name

    def resume(self, name: str) -> None:
        """Go on with a paused or failed download."""
        with self._changed:
            job = self._job(name)
            if job is not None and not job.status.is_active and job.status.state != "done":
                self._run(job)

    def pause(self, name: str) -> None:
        """Stop it behind the chunk it is at; returns at once. `resume` goes on from there."""
        with self._changed:
            job = self._job(name)
            if job is not None and job.status.state in ("looking", "running", "checking"):
                job.stop.set()
                self._set(job, state="pausing")

    def cancel(self, name: str) -> None:
        """Stop it and delete what was downloaded of it, unless it is complete; returns at once."""
        with self._changed:
            job = self._job(name)
            if job is None:
                return
            job.is_cancelled = True
            job.stop.set()
            if not job.status.is_active:
                self._forget(job)

    def close(self, timeout_s: float = 5.0) -> None:
        """Pause everything, for the end of the program."""
        with self._changed:
            jobs = [job for job in self._jobs.values() if job.thread is not None]
        for job in jobs:
            job.stop.set()
        for job in jobs:
            if job.thread is not None:
                job.thread.join(timeout_s)

    def _job(self, name: str) -> _Job | None:
        return self._jobs.get(self._aliases.get(name, name))

    # ---- the threads -----------------------------------------------------------------------------------------------

    def _run(self, job: _Job) -> None:
        job.stop, job.is_cancelled = threading.Event(), False
        self._set(job, state="looking", error="", bytes_per_s=0.0)
        job.thread = threading.Thread(target=self._main, args=(job,), name=f"download {job.status.name}", daemon=True)
        job.thread.start()

    def _main(self, job: _Job) -> None:
        try:
            path = self._download(job)
        except DownloadStopped:
            changes: dict[str, Any] = {"state": "paused"}
        except DamagedModel as error:
            changes = {"state": "failed", "error": str(error), "n_done": 0}
        except LacacheError as error:
            changes = {"state": "failed", "error": str(error)}
        except Exception as error:
            _log.exception("the download of %s failed", job.status.name)
            changes = {"state": "failed", "error": f"the download failed: {error or type(error).__name__}; try again"}
        else:
            changes = {"state": "done", "path": str(path), "n_done": job.status.n_total}
        with self._changed:
            if job.is_cancelled and changes["state"] != "done":
                self._forget(job)
                return
            if changes["state"] == "done" and job.status.licence:
                self._licences[job.ref.repo] = job.status.licence
            self._set(job, bytes_per_s=0.0, **changes)

    def _download(self, job: _Job) -> Path:
        if hub.is_offline():
            raise hub.not_cached(job.ref)
        offer = hub.look_up(job.ref)
        self._rename(job, offer)
        job.etags = [file.sha256 for file in offer.files if file.sha256]
        if job.stop.is_set():
            raise DownloadStopped("stopped before it began")
        speed = Speed(self._clock)
        with self._changed:
            if job.status.state == "looking":
                here = offer.n_here()
                self._set(job, state="running", n_total=offer.size_bytes, n_done=here, licence=offer.licence)

        def on_progress(_file: str, n_done: int, n_total: int) -> None:
            with self._changed:
                state = "running" if job.status.state == "checking" else job.status.state
                self._set(
                    job, is_stored=False, state=state, n_done=n_done, n_total=n_total, bytes_per_s=speed.at(n_done)
                )

        def on_check() -> None:
            with self._changed:
                if job.status.state == "running":
                    self._set(job, is_stored=False, state="checking")

        path, _variant, _licence = hub.download(
            job.ref, on_progress, offer=offer, should_stop=job.stop.is_set, on_check=on_check, wait=job.stop.wait
        )
        return path

    def _rename(self, job: _Job, offer: hub.Offer) -> None:
        """Under its full name, so that one model is one download however it was asked for."""
        with self._changed:
            old, job.ref = job.status.name, HubRef(offer.ref.repo, offer.variant.tag)
            if old == offer.name:
                return
            other = self._jobs.get(offer.name)
            if other is not None and other.status.is_active:
                raise UsageError(f"{offer.name} is being downloaded already")
            self._jobs = {offer.name if name == old else name: j for name, j in self._jobs.items() if j is not other}
            self._aliases[old] = offer.name
            self._set(job, name=offer.name)

    def _set(self, job: _Job, is_stored: bool = True, **changes: Any) -> None:
        """Change a status; the caller holds the lock."""
        job.status = replace(job.status, **changes)
        self._revision += 1
        if is_stored:
            self._store()
        self._changed.notify_all()

    def _forget(self, job: _Job) -> None:
        discard_parts(job.ref.repo, job.etags)
        self._jobs.pop(job.status.name, None)
        self._revision += 1
        self._store()
        self._changed.notify_all()

    # ---- the file --------------------------------------------------------------------------------------------------

    def _store(self) -> None:
        jobs = [{**asdict(job.status), "etags": job.etags} for job in self._jobs.values() if job.status.state != "done"]
        text = json.dumps({"unfinished": jobs, "licences": self._licences}, indent=1, sort_keys=True)
        try:
            handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=".downloads-")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text + "\n")
            os.replace(temporary, self._path)
        except OSError as error:  # then they are forgotten at the end of this run, and nothing worse
            _log.warning("%s cannot be written: %s", self._path, error)

    def _restore(self) -> None:
        """Take up what an earlier run left; whatever was being downloaded then is paused now."""
        try:
            stored = json.loads(self._path.read_text("utf-8"))
            self._licences = {str(repo): str(text) for repo, text in stored["licences"].items()}
            for entry in stored["unfinished"]:
                ref = parse_ref(entry["name"])
                if ref is None:
                    continue
                error = str(entry["error"])
                status = Status(
                    entry["name"],
                    "failed" if error else "paused",
                    int(entry["n_done"]),
                    int(entry["n_total"]),
                    licence=entry["licence"],
                    error=error,
                )
                etags = [etag for etag in entry["etags"] if etag.isalnum()]
                n_parts = sum(n_bytes_here(ref.repo, etag) for etag in etags)
                status = replace(status, n_done=max(status.n_done, min(n_parts, status.n_total)))
                self._jobs[status.name] = _Job(status, ref, etags)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("%s is not used: %s", self._path, error)
