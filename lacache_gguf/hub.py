"""Models on the Hugging Face hub: find one in the standard cache, download it there on request.

Placing files, locks and tokens are huggingface_hub's business: HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and
HF_HUB_OFFLINE count. What it does not know: the catalog, what is in a GGUF file, how progress is shown.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lacache_gguf.errors import DamagedModel, DownloadError, ModelNotFound
from lacache_gguf.hub_names import HubRef, Variant, choose, variants

OnProgress = Callable[[str, int, int], None]
"""on_progress(file name, bytes done, bytes in all), called often while a file is being downloaded."""

_N_TRIES = 3
_HTTP_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")  # of huggingface_hub's versions


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


def download(ref: HubRef, on_progress: OnProgress | None = None) -> tuple[Path, Variant, str | None]:
    """Fetch what `ref` names into the cache: (first file, variant, licence). What is cached is not fetched again.

    Raises ModelNotFound (no such repository, quant or file), DownloadError (offline, gated, no network, no disk space),
    DamagedModel (the received bytes do not have the hub's SHA-256).
    """
    from huggingface_hub import HfApi, constants

    endpoint = constants.ENDPOINT
    with _readable_errors(ref, endpoint):
        info = HfApi(endpoint=endpoint).model_info(ref.repo, files_metadata=True)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    variant = choose(ref, list(siblings), f"{endpoint}/{ref.repo}")
    sizes = {name: siblings[name].size or 0 for name in variant.files}
    newest = snapshots(ref.repo)[:1]
    cached = {path.relative_to(s).as_posix() for s in newest for path in s.rglob("*") if path.is_file()}
    _check_disk_space(sum(size for name, size in sizes.items() if name not in cached))
    paths, tally = [], _Tally(on_progress, sum(sizes.values()))
    for name, size in sizes.items():
        paths.append(_fetch(ref, name, endpoint, tally))
        if name not in cached:
            _check_hash(paths[-1], getattr(siblings[name].lfs, "sha256", None))
        tally.finish(name, size)
    return paths[0], variant, _licence(info)


def _fetch(ref: HubRef, name: str, endpoint: str, tally: _Tally) -> Path:
    """One file into the cache; a connection that breaks is tried again, from where it broke if huggingface_hub can."""
    from huggingface_hub import hf_hub_download

    for n_tries in range(1, _N_TRIES + 1):
        try:
            with _readable_errors(ref, endpoint):
                return Path(hf_hub_download(ref.repo, name, endpoint=endpoint, tqdm_class=tally.bar_class(name)))
        except DownloadError as error:
            is_broken_connection = type(error.__cause__).__module__.partition(".")[0] in _HTTP_CLIENTS
            if n_tries == _N_TRIES or not is_broken_connection:
                raise
            tally.n_file = 0
    raise AssertionError("unreachable")


class _Tally:
    """Sums the progress of the files of one model and hands it on."""

    def __init__(self, on_progress: OnProgress | None, n_total: int) -> None:
        self.on_progress, self.n_total, self.n_before, self.n_file = on_progress, n_total, 0, 0

    def report(self, name: str) -> None:
        if self.on_progress:
            self.on_progress(name, min(self.n_before + self.n_file, self.n_total), self.n_total)

    def finish(self, name: str, size: int) -> None:
        self.n_before, self.n_file = self.n_before + size, 0
        self.report(name)

    def bar_class(self, name: str) -> type:
        """A silent tqdm (huggingface_hub's way of reporting progress) that feeds this tally."""
        from tqdm import tqdm

        tally = self

        class Bar(tqdm):
            def __init__(self, *args: object, **kwargs: object) -> None:
                super().__init__(*args, **{**kwargs, "disable": True})

            def update(self, n: float | None = 1) -> None:
                tally.n_file += int(n or 0)
                tally.report(name)

        return Bar


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


def _check_hash(path: Path, sha256: str | None) -> None:
    if sha256 is None:  # the hub keeps hashes of large files only
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise DamagedModel(
            f"{path} was damaged on the way: its SHA-256 is not the hub's {sha256}; delete it and pull again"
        )


@contextmanager
def _readable_errors(ref: HubRef, endpoint: str) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP client raise into errors that name the value and the remedy."""
    from huggingface_hub import errors

    try:
        yield
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
