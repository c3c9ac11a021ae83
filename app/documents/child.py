"""Parse a document in a process of its own, so that a hostile or damaged file costs that process and nothing else.

A fresh interpreter rather than a fork or multiprocessing: it works from any thread of a server, on every platform,
and imports neither the app's `__main__` nor what a folder or PYTHON* variable would slip in.

What it does not know: formats (see worker.py, which runs in the child).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict
from typing import Any

from lacache_app.documents.document import Document, Part
from lacache_app.documents.limits import DocumentError, Limits

_MAIN = """\
import json, sys
sys.path += [entry for entry in json.loads(sys.argv[1]) if entry not in sys.path]
from lacache_app.documents import worker
worker.main()
"""
_HAS_MEMORY_LIMIT = sys.platform.startswith(("linux", "freebsd"))  # elsewhere the parent looks at it
_POLL_S = 0.25
_SECRET = re.compile("TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY")  # variables that reading a document does not need


def parse_in_child(data: bytes, name: str, limits: Limits) -> Document:
    """As loaders.load, in a child process that is ended at the limits, at Ctrl-C and when this process dies.

    Raises DocumentError, also when the child was killed or crashed.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", "-X", "utf8", "-c", _MAIN, json.dumps(_import_path())],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env={key: value for key, value in os.environ.items() if not _SECRET.search(key.upper())},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise DocumentError(f"cannot start a process to read {name}: {error}; close other programs") from error
        feeder = threading.Thread(target=_feed, args=(process, data, name, limits), daemon=True)
        feeder.start()
        try:
            trouble = _wait(process, limits)
        finally:
            process.kill()
            process.wait()
            feeder.join()
            with contextlib.suppress(OSError):
                process.stdin.close()
        out.seek(0)
        answer = out.read()
        err.seek(0)
        last_words = err.read()[-2000:].decode("utf-8", "replace").strip()
    if trouble:
        raise DocumentError(_too_much(trouble, name, limits))
    if not answer:
        raise DocumentError(_death(process.returncode, last_words, name, limits))
    return _document(json.loads(answer.decode("utf-8", "surrogatepass")), name, limits)


def _feed(process: subprocess.Popen[bytes], data: bytes, name: str, limits: Limits) -> None:
    """Write task and bytes; the pipe stays open, as the child's lifeline. In a thread: a full pipe would block."""
    task = {"name": name, "n_bytes": len(data), "limits": asdict(limits)}
    with contextlib.suppress(OSError):  # the child has ended, and says why elsewhere
        process.stdin.write(json.dumps(task).encode() + b"\n")
        process.stdin.write(data)
        process.stdin.flush()


def _wait(process: subprocess.Popen[bytes], limits: Limits) -> str:
    """Until the child has ended by itself: "". Otherwise what it used too much of: "time" or "memory"."""
    end = time.monotonic() + limits.seconds
    while True:
        left = end - time.monotonic()
        try:
            process.wait(max(0.0, left if _HAS_MEMORY_LIMIT else min(left, _POLL_S)))
            return ""
        except subprocess.TimeoutExpired:
            if time.monotonic() >= end:
                return "time"
            if _memory_of(process.pid) > limits.memory_bytes:
                return "memory"


def _memory_of(pid: int) -> int:
    """Resident bytes of a process, 0 if it has just ended."""
    import psutil

    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0


def _document(answer: dict[str, Any], name: str, limits: Limits) -> Document:
    if "document" in answer:
        fields = answer["document"]
        return Document(**{**fields, "parts": tuple(Part(**part) for part in fields["parts"])})
    if "error" in answer:
        raise DocumentError(answer["error"])
    if answer["failure"] in ("memory", "nesting"):
        raise DocumentError(_too_much(answer["failure"], name, limits))
    raise DocumentError(f"{name} is damaged or unusual, and its reader failed ({answer['reason']}); {_REMEDY}")


_REMEDY = "save it in another format, or as plain text"


def _too_much(what: str, name: str, limits: Limits) -> str:
    used = {
        "time": f"took longer than {limits.seconds:g} s",
        "memory": f"needed more than {limits.memory_bytes / 2**20:,.0f} MiB of memory",
        "nesting": "has elements nested too deeply",
    }[what]
    return f"{name} {used} to read and was given up; it may be damaged or made to do harm; {_REMEDY}"


def _death(code: int, last_words: str, name: str, limits: Limits) -> str:
    """A sentence for a child that ended without an answer."""
    if code in (-getattr(signal, "SIGXCPU", 0), -getattr(signal, "SIGKILL", 0)) and code:
        return _too_much("time" if code == -getattr(signal, "SIGXCPU", 0) else "memory", name, limits)
    if "MemoryError" in last_words or "cannot allocate memory" in last_words.lower():
        return _too_much("memory", name, limits)
    with contextlib.suppress(ValueError):
        if code < 0:
            crash = f"made its reader crash ({signal.Signals(-code).name})"
            return f"{name} {crash}: it is damaged or made to do harm; {_REMEDY}"
    reason = f": {last_words.splitlines()[-1]}" if last_words else ""
    return f"the process that reads {name} ended with code {code}{reason}; {_REMEDY}"


def _import_path() -> list[str]:
    """Where this process finds its modules, without the current folder, from which nothing must be imported."""
    here = os.path.realpath(os.getcwd())
    return [entry for entry in sys.path if os.path.isabs(entry) and os.path.realpath(entry) != here]
