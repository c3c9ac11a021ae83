"""Summaries that survive a crash: what was read is on disk, and another process goes on with it.

    jobs = Jobs(data_dir)
    job = jobs.create(document, task)              # nothing is written before two seconds of work
    for event in summarize(engine, document, task, job=job): ...
    ...                                            # killed; then, in a new process:
    for job in jobs.unfinished(): resume(engine, job)

A job is a folder jobs/<id>/ of data_dir, readable by its owner only:

    job.json       task, names of the parts, plan, summaries so far, how far it is
    document.txt   the text of the document
    memory.kv      what the model holds of it (Engine.save); it gives the text away as well as document.txt does
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacache_app.summarize.job import Job, remove
from lacache_app.summarize.task import Task

from lacache_gguf.errors import UsageError

if TYPE_CHECKING:
    from lacache_app.documents import Document

N_FINISHED_MAX = 20
N_UNFINISHED_MAX = 50
MEMORY_MAX_BYTES = 4 << 30
AGE_MAX_S = 30 * 24 * 3600
_ID = re.compile(r"[0-9a-f]{16}")


class Jobs:
    """All jobs of a data folder. Safe to use from several threads and processes; a job is run by one at a time."""

    def __init__(self, data_dir: str | Path) -> None:
        self.folder = Path(data_dir) / "jobs"

    def create(
        self, document: Document, task: Task, *, keep: bool = False, sampling: dict[str, Any] | None = None
    ) -> Job:
        """A new job, on disk after its first checkpoint. Without `keep` it is deleted when it is finished."""
        return Job(self.folder / secrets.token_hex(8), document, task, dict(sampling or {}), keep)

    def get(self, job_id: str) -> Job:
        """The job with this id. Raises UsageError if there is none."""
        path = self._path(job_id)
        job = Job.open(path)
        if job is None:
            raise UsageError(f"there is no summary {job_id!r} to go on with; it was finished or deleted")
        return job

    def unfinished(self) -> list[Job]:
        """Jobs that can be resumed, newest first: neither finished nor being worked on."""
        return [job for job in self._all() if job.state != "done" and not job.is_running]

    @property
    def is_any_running(self) -> bool:
        """Whether somebody works on one, or ends to."""
        return any(job.is_running for job in self._all())

    def finished(self) -> list[Job]:
        """Jobs that were kept when they were done, newest first."""
        return [job for job in self._all() if job.state == "done"]

    def delete(self, job_id: str) -> None:
        """Remove a job with everything in it; does nothing if it is gone. Raises UsageError while it is running."""
        path = self._path(job_id)
        job = Job.open(path)
        if job is not None and job.is_running:
            raise UsageError(f"{job.name} is being summarized; stop it first")
        remove(path)

    def prune(self) -> None:
        """Keep disk use within bounds: the newest finished and unfinished jobs, nothing older than 30 days, one
        finished job's memory, 4 GiB of memories in all, no remains of a crash. A job without its memory is read from
        the beginning of its part again."""
        now, n_bytes = time.time(), 0
        kept = {"done": 0, "unfinished": 0}
        for job in self._all():
            if job.is_running:
                continue
            kept[job.state] += 1
            most = N_FINISHED_MAX if job.state == "done" else N_UNFINISHED_MAX
            if kept[job.state] > most or now - job.updated > AGE_MAX_S:
                remove(job.path)
                continue
            memory = job.path / "memory.kv"
            n_bytes += memory.stat().st_size if memory.exists() else 0
            if n_bytes > MEMORY_MAX_BYTES or (job.state == "done" and kept["done"] > 1):
                memory.unlink(missing_ok=True)
        for path in self._folders():
            with contextlib.suppress(OSError):
                is_old = now - path.stat().st_mtime > 3600
                if is_old and not (path / "job.json").exists():
                    remove(path)

    def _all(self) -> list[Job]:
        jobs = [job for path in self._folders() if (job := Job.open(path)) is not None]
        return sorted(jobs, key=lambda job: job.updated, reverse=True)

    def _folders(self) -> list[Path]:
        try:
            return [path for path in self.folder.iterdir() if _ID.fullmatch(path.name) and not path.is_symlink()]
        except OSError:
            return []

    def _path(self, job_id: str) -> Path:
        if not _ID.fullmatch(job_id):
            raise UsageError(f"{job_id!r:.40} is no id of a summary; `lacache summarize --resume` lists them")
        return self.folder / job_id
