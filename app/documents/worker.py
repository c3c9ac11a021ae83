"""The process that parses one untrusted document and ends: `python -I -c "... worker.main()"`.

It gets its task and the file's bytes on standard input, limits itself, and writes one JSON object to standard output.
Standard input stays open as a lifeline: when the parent dies, it closes, and this process ends as well.

What holds it: address space and processor time (where the platform has such limits), no core dumps, and an audit hook
that refuses network connections, other programs and files opened for writing. The hook stops what our libraries might
do by mistake or by design (fetching a linked picture); it is no sandbox against native code that was taken over.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from dataclasses import asdict
from typing import Any, BinaryIO

_REFUSED = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.system",
            "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename", "os.rmdir", "shutil.", "urllib.Request",
            "ftplib.", "smtplib.", "webbrowser.")  # fmt: skip
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC


def main() -> None:
    """Read the task, parse, answer. Always exits 0 when an answer was written."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    task = json.loads(source.readline())
    set_limits(task["limits"]["memory_bytes"], task["limits"]["seconds"])
    data = source.read(task["n_bytes"])
    if len(data) != task["n_bytes"]:
        return  # the parent has gone
    threading.Thread(target=_end_with_parent, args=(source,), daemon=True).start()
    sys.addaudithook(refuse_side_effects)
    sys.setrecursionlimit(5_000)
    answer = json.dumps(_answer(data, task), ensure_ascii=False).encode("utf-8", "surrogatepass")
    sink.write(answer)
    sink.flush()
    os._exit(0)  # without tearing down gigabytes of trees first


def _answer(data: bytes, task: dict[str, Any]) -> dict[str, Any]:
    from lacache_app.documents.limits import DocumentError, Limits
    from lacache_app.documents.loaders import load

    name = task["name"]
    try:
        return {"document": asdict(load(data, name, Limits(**task["limits"])))}
    except DocumentError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"failure": "memory"}
    except RecursionError:
        return {"failure": "nesting"}
    except Exception as error:
        return {"failure": "crash", "reason": f"{type(error).__name__}: {error}"[:300]}


def set_limits(memory_bytes: int, seconds: float) -> None:
    """Limit this process where the platform can; the parent watches time everywhere, and memory where this cannot."""
    try:
        import resource
    except ImportError:  # Windows
        return
    cpu = max(1, int(seconds) + 1)
    for limit, soft, hard in (  # beyond the soft limit of time comes a signal that tells the parent what it was
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, memory_bytes, memory_bytes),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some of them
            highest = resource.getrlimit(limit)[1]
            if highest != resource.RLIM_INFINITY:
                soft, hard = min(soft, highest), min(hard, highest)
            resource.setrlimit(limit, (soft, hard))


def refuse_side_effects(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook: raises PermissionError for whatever reading a document does not need."""
    if event == "open":
        _, mode, flags = (*args, None, None, None)[:3]
        writes = isinstance(mode, str) and any(letter in mode for letter in "wax+")
        if writes or (isinstance(flags, int) and flags & _WRITING):
            raise PermissionError(f"reading a document does not write files: {args[0]!r}")
    elif event.startswith(_REFUSED):
        raise PermissionError(f"reading a document needs no {event}")


def _end_with_parent(source: BinaryIO) -> None:
    source.read(1)
    os._exit(1)
