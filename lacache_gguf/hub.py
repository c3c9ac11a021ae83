"""Models on the Hugging Face hub: find one in the standard cache, download it there on request.

Placing files, locks and tokens are huggingface_hub's business: HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and
HF_HUB_OFFLINE count. What it does not know: the catalog, what is in a GGUF file, how progress is shown, how the bytes
of one file come (hub_fetch.py).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacache_gguf.errors import DownloadError, LacacheError, ModelNotFound
from lacache_gguf.hub_fetch import fetch, n_bytes_here
from lacache_gguf.hub_names import HubRef, Variant, choose, variants

OnProgress = Callable[[str, int, int], None]
"""on_progress(file name, bytes done, bytes in all), called often while a file is being downloaded."""


def cache_dir() -> Path:
    """huggingface_hub's cache folder."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def snapshots(repo: str) -> list[Path]:
    """Cached snapshot folders of a repository: the one `main` last pointed at, then the others, newest first."""
    folder = cache_dir() / ("models--" + repo.replace("/", "--"))
    try:
        head = (folder / "refs" / "main").read_text().strip()
    except OSError:
        head = ""
    found = [path for path in (folder / "snapshots").glob("*") if path.is_dir()]
    return sorted(found, key=lambda path: (path.name != head, -path.stat().st_mtime))


def find_cached(ref: HubRef) -> tuple[Path, Variant] | None:
    """First file and variant of `ref` in the cache; None if it is not there. Never touches the network."""
    for snapshot in snapshots(ref.repo):
        names = [p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*.[gG][gG][uU][fF]") if p.is_file()]
        try:
            variant = choose(ref, names, ref.repo)
        except ModelNotFound:
            continue
        return snapshot / variant.files[0], variant
    return None


def list_cached() -> list[tuple[HubRef, Path]]:
    """Every GGUF model in the cache, by repository and quant."""
    found = []
    for folder in sorted(cache_dir().glob("models--*")):
        repo = folder.name.removeprefix("models--").replace("--", "/", 1)
        for snapshot in snapshots(repo)[:1]:
            names = [p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*.gguf") if p.is_file()]
            found += [(HubRef(repo, variant.tag), snapshot / variant.files[0]) for variant in variants(names)]
    return found


@dataclass(frozen=True)
class RemoteFile:
    """One file on the hub; sha256 None where the hub keeps none (small files)."""

    name: str
    size_bytes: int
    sha256: str | None


@dataclass(frozen=True)
class Offer:
    """What the hub has under a reference: the files of the chosen variant, the others it could be, and the licence."""

    ref: HubRef
    commit: str
    variant: Variant
    files: tuple[RemoteFile, ...]
    licence: str | None
    sizes: dict[str, int]  # tag of every variant in the repository -> bytes

    @property
    def name(self) -> str:
        """ "user/repo:QUANT" that means exactly this."""
        return f"{self.ref.repo}:{self.variant.tag}"

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(file.size_bytes for file in self.files)

    def n_here(self) -> int:
        """Bytes of it that are in the cache already, those of an unfinished download included."""
        return sum(self._n_here(file) for file in self.files)

    def _n_here(self, file: RemoteFile) -> int:
        path = next((s / file.name for s in snapshots(self.ref.repo) if s.name == self.commit), None)
        if path is not None and path.is_file():
            return file.size_bytes
        return min(n_bytes_here(self.ref.repo, file.sha256), file.size_bytes) if file.sha256 else 0


def look_up(ref: HubRef) -> Offer:
    """Ask the hub what `ref` names; nothing is downloaded.

    Raises ModelNotFound (no such repository, quant or file), DownloadError (offline, gated, no network).
    """
    from huggingface_hub import HfApi, constants

    endpoint = constants.ENDPOINT
    with readable_errors(ref, endpoint):
        info = HfApi(endpoint=endpoint).model_info(ref.repo, files_metadata=True)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    where = f"{endpoint}/{ref.repo}"
    variant = choose(ref, list(siblings), where)
    if not info.sha:
        raise DownloadError(f"{where} does not say which commit it is at; check HF_ENDPOINT")

    def file(name: str) -> RemoteFile:
        return RemoteFile(name, siblings[name].size or 0, getattr(siblings[name].lfs, "sha256", None))

    sizes = {v.tag: sum(file(name).size_bytes for name in v.files) for v in variants(list(siblings))}
    return Offer(ref, info.sha, variant, tuple(map(file, variant.files)), _licence(info), sizes)


def download(
    ref: HubRef,
    on_progress: OnProgress | None = None,
    *,
    offer: Offer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_check: Callable[[], None] = lambda: None,
    wait: Callable[[float], Any] = time.sleep,
) -> tuple[Path, Variant, str | None]:
    """Fetch what `ref` names into the cache: (first file, variant, licence). What is cached is not fetched again, and
    what an earlier attempt left is gone on with. `offer`: the answer of `look_up`, if it is known already.

    Raises ModelNotFound (no such repository, quant or file), DownloadError (offline, gated, no network, no disk space),
    DamagedModel (the received bytes do not have the hub's SHA-256), DownloadStopped (`should_stop`, see hub_fetch.py).
    """
    from huggingface_hub import constants

    offer = offer or look_up(ref)
    _check_disk_space(offer.size_bytes - offer.n_here())
    n_before, paths = 0, []
    for file in offer.files:

        def on_bytes(n: int, file: RemoteFile = file, n_before: int = n_before) -> None:
            if on_progress:
                on_progress(file.name, n_before + n, offer.size_bytes)

        with readable_errors(ref, constants.ENDPOINT):
            path = fetch(
                ref.repo,
                file.name,
                offer.commit,
                sha256=file.sha256,
                on_bytes=on_bytes,
                on_check=on_check,
                should_stop=should_stop,
                wait=wait,
            )
        on_bytes(file.size_bytes)
        paths.append(path)
        n_before += file.size_bytes
    return paths[0], offer.variant, offer.licence


def _licence(info: object) -> str | None:
    tags = [tag for tag in getattr(info, "tags", None) or [] if tag.startswith("license:")]
    return tags[0].removeprefix("license:") if tags else None


def _check_disk_space(n_bytes: int) -> None:
    folder = cache_dir()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise DownloadError(
            f"the model needs {n_bytes / 2**20:,.0f} MiB, but only {free / 2**20:,.0f} MiB are free in {cache_dir()}; "
            "free some space, or set HF_HOME to a folder on a larger disk"
        )


@contextmanager
def readable_errors(ref: HubRef, endpoint: str) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP client raise into errors that name the value and the remedy."""
    from huggingface_hub import errors

    try:
        yield
    except LacacheError:
        raise
    except Exception as error:  # HTTP clients differ between versions of huggingface_hub; whatever it is, it failed
        cause = error
        if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
            cause = error.__cause__  # it wraps what went wrong on the way to the hub
        raise _readable(cause, ref, endpoint) from cause


def _readable(error: Exception, ref: HubRef, endpoint: str) -> ModelNotFound | DownloadError:
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return not_cached(ref)
    if isinstance(error, errors.GatedRepoError):
        page = f"{endpoint}/{ref.repo}"
        return DownloadError(f"{ref.repo} is gated: accept its terms at {page}, then set HF_TOKEN to a token of yours")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelNotFound(
            f"{endpoint} has no model repository {ref.repo!r}, or it is private; check the spelling, or set HF_TOKEN"
        )
    if getattr(getattr(error, "response", None), "status_code", None) == 401:
        return DownloadError(f"{endpoint} refused the token in HF_TOKEN (or saved by `hf auth login`)")
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return DownloadError(f"could not download {ref.repo} from {endpoint}: {reason}; check the network and try again")


def not_cached(ref: HubRef) -> DownloadError:
    """The error for a model that is not in the cache while the network may not be used."""
    name = f"{ref.repo}:{ref.tag}" if ref.tag else ref.repo
    return DownloadError(
        f"{name} is not in the cache ({cache_dir()}) and the network is switched off (--offline or HF_HUB_OFFLINE); "
        f"run `lacache models pull {name}` once without it"
    )
