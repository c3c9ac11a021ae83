"""One file of a hub repository into huggingface_hub's cache, in a way that can be stopped and goes on later.

What it is: `fetch`. huggingface_hub (2.4) throws a half-finished file away, so bytes are collected in a file of ours
beside its blobs, `<etag>.lacache.incomplete`, with HTTP Range requests. When all are there and have the hub's SHA-256,
the file becomes the blob, and huggingface_hub itself enters it into its cache.
What it does not know: which files make a model, how progress is shown, the catalog.

    path = fetch("user/repo", "model.Q4_K_M.gguf", commit, on_bytes=print, should_stop=lambda: False)
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lacache_gguf.errors import DamagedModel, DownloadError

OnBytes = Callable[[int], None]
"""on_bytes(how many bytes of the file are here), called often."""

_N_TRIES = 5  # in a row that brought nothing
_PART = ".lacache.incomplete"
_SHA256 = re.compile(r"[0-9a-f]{64}")
HTTP_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")  # of huggingface_hub's versions


class DownloadStopped(DownloadError):
    """The download was stopped on request; what is there stays and the next attempt goes on from it."""


def repo_dir(repo: str) -> Path:
    """The folder of a model repository in huggingface_hub's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / ("models--" + repo.replace("/", "--"))


def part_path(repo: str, etag: str) -> Path:
    """Where the bytes of an unfinished file are collected."""
    return repo_dir(repo) / "blobs" / (etag + _PART)


def n_bytes_here(repo: str, etag: str) -> int:
    """Bytes of a file that are in the cache, finished or not."""
    for path in (repo_dir(repo) / "blobs" / etag, part_path(repo, etag)):
        if path.is_file():
            return path.stat().st_size
    return 0


def discard_parts(repo: str, etags: tuple[str, ...] | list[str]) -> None:
    """Delete what an unfinished download left behind."""
    for etag in etags:
        part_path(repo, etag).unlink(missing_ok=True)


def fetch(
    repo: str,
    name: str,
    commit: str,
    *,
    sha256: str | None = None,
    on_bytes: OnBytes = lambda n: None,
    on_check: Callable[[], None] = lambda: None,
    should_stop: Callable[[], bool] = lambda: False,
    wait: Callable[[float], Any] = time.sleep,
) -> Path:
    """The file's path in the cache; downloaded if it is not there, going on where an earlier attempt ended.

    sha256: as the hub lists it. `on_check` is called before the checksum is computed, `wait(seconds)` between attempts.
    Raises DownloadStopped, DownloadError (another download of the same file runs, disk full), DamagedModel (the bytes
    are not the hub's), and whatever huggingface_hub and its HTTP client raise.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    cached = try_to_load_from_cache(repo, name, revision=commit)
    if isinstance(cached, str):
        return Path(cached)
    url = hf_hub_url(repo, name, revision=commit, endpoint=constants.ENDPOINT)
    meta = get_hf_file_metadata(url, endpoint=constants.ENDPOINT)
    if not meta.etag or not meta.size:
        raise DownloadError(f"{url} does not say how large the file is; check HF_ENDPOINT, proxy and firewall")
    blob = repo_dir(repo) / "blobs" / meta.etag
    if not blob.exists():
        if meta.size > constants.MAX_HTTP_DOWNLOAD_SIZE:  # too large for plain HTTP: huggingface_hub's own way
            return _enter(repo, name, commit)
        blob.parent.mkdir(parents=True, exist_ok=True)
        part = part_path(repo, meta.etag)
        with _lock(repo, meta.etag, name), _disk_errors(name):
            _collect(url, part, meta.size, on_bytes, should_stop, wait)
            on_check()
            _check(part, name, sha256 or (meta.etag if _SHA256.fullmatch(meta.etag) else None), should_stop)
            os.replace(part, blob)
    return _enter(repo, name, commit)


def _enter(repo: str, name: str, commit: str) -> Path:
    """Let huggingface_hub make the snapshot's link to the blob, and note that `main` is this commit if it still is."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

    head = get_hf_file_metadata(hf_hub_url(repo, name, endpoint=constants.ENDPOINT), endpoint=constants.ENDPOINT)
    revision = None if head.commit_hash == commit else commit
    return Path(hf_hub_download(repo, name, revision=revision, endpoint=constants.ENDPOINT))


def _collect(
    url: str, part: Path, size: int, on_bytes: OnBytes, should_stop: Callable[[], bool], wait: Callable[[float], Any]
) -> None:
    """Append to the part until it has `size` bytes; a connection that breaks is made again."""
    n_here = part.stat().st_size if part.exists() else 0
    if n_here > size:
        part.unlink()
        n_here = 0
    n_tries = 0
    while n_here < size:
        on_bytes(n_here)
        try:
            _append(url, part, n_here, size, on_bytes, should_stop)
            broken: Exception | None = None
        except Exception as error:
            if not _is_broken_connection(error):
                raise
            broken = error
        n_before, n_here = n_here, part.stat().st_size if part.exists() else 0
        n_tries = 0 if n_here > n_before else n_tries + 1
        if n_here < size:
            if n_tries >= _N_TRIES:
                raise broken or DownloadError(f"{url} ends after {n_here:,} of {size:,} bytes; try again later")
            wait(min(8.0, 0.5 * 2**n_tries))
            _stop_if(should_stop)
    on_bytes(size)


def _append(url: str, part: Path, n_here: int, size: int, on_bytes: OnBytes, should_stop: Callable[[], bool]) -> None:
    """One request for the missing bytes, written as they come."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    _stop_if(should_stop)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if n_here:
        headers["Range"] = f"bytes={n_here}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
        if response.status_code == 416:  # what is here is not a beginning of it
            part.unlink(missing_ok=True)
            return
        if response.status_code >= 400:
            response.read()
        hf_raise_for_status(response)
        is_rest = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {n_here}-"
        )
        with part.open("ab" if is_rest else "wb", buffering=0) as file:
            n_here = n_here if is_rest else 0
            for chunk in response.iter_bytes():  # as it arrives, so that little is lost when it breaks off
                n_here += len(chunk)
                if n_here > size:
                    raise DownloadError(f"{url} sends more than the {size:,} bytes it announced; try again later")
                file.write(chunk)
                on_bytes(n_here)
                _stop_if(should_stop)


def _stop_if(should_stop: Callable[[], bool]) -> None:
    if should_stop():
        raise DownloadStopped("the download was stopped; start it again to go on where it ended")


def _is_broken_connection(error: Exception) -> bool:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return status == 429 or status >= 500  # the hub is busy; any other answer is a no
    return type(error).__module__.partition(".")[0] in HTTP_CLIENTS


def _check(part: Path, name: str, sha256: str | None, should_stop: Callable[[], bool]) -> None:
    """Compare the file with the hub's SHA-256 (which it keeps of large files) and delete it if it differs."""
    if sha256 is None:
        return
    digest = hashlib.sha256()
    with part.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            _stop_if(should_stop)
    if digest.hexdigest() != sha256:
        part.unlink()
        raise DamagedModel(
            f"{name} was damaged on the way: its SHA-256 begins with {digest.hexdigest()[:12]}, the hub's with "
            f"{sha256[:12]}; it was deleted, download it again"
        )


@contextmanager
def _lock(repo: str, etag: str, name: str) -> Iterator[None]:
    """huggingface_hub's own lock of the blob, so that no other program fetches the same file at the same time."""
    from huggingface_hub.utils import WeakFileLock

    folder = repo_dir(repo)
    path = folder.parent / ".locks" / folder.name / f"{etag}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = WeakFileLock(path, timeout=1.0)
    try:
        lock.__enter__()
    except TimeoutError:  # filelock.Timeout
        raise DownloadError(f"{name} is being downloaded by another program; wait until it is there") from None
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


@contextmanager
def _disk_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            raise
        raise DownloadError(f"the disk is full, {name} is not complete; free some space and go on") from error
