"""Models named `user/repo:QUANT` on the Hugging Face hub.

What it is: read such a name, choose the file it means, find that in the standard cache, download it there on request.
Placing files, locks and tokens are huggingface_hub's business: HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and
HF_HUB_OFFLINE count. What it does not know: the catalog, what is in a GGUF file, how progress is shown.

    >>> parse_ref("hf.co/user/repo:q4_k_m")
    HubRef(repo='user/repo', tag='q4_k_m')
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lacache_gguf.errors import DamagedModel, DownloadError, ModelNotFound
from lacache_gguf.gguf_header import SHARD

Progress = Callable[[str, int, int], None]
"""on_progress(file name, bytes done, bytes in all), called often while a file is being downloaded."""

_REF = re.compile(
    r"(?:https?://)?(?:(?:www\.)?(?:hf\.co|huggingface\.co)/)?"
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)/?"
    r"(?:(?:/?(?:resolve|blob)/main/(?P<link>[^:?]+\.gguf)(?:\?[^:]*)?)|:(?P<tag>[^:]+))?"
)
_QUANT = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q\d[0-9A-Z]*(?:_[0-9A-Z]+)*|TQ\d_\d|BF16|FP?16|FP?32|MXFP4\w*))(?=[-.]|$)",
    re.IGNORECASE,
)
_SIDECAR = re.compile(r"mmproj|imatrix|^(?:mtp|eagle3|dflash|dspark)[-.]", re.IGNORECASE)
_PREFERRED = ("Q4_K_M", "Q8_0")  # without a tag, in this order, as llama.cpp does


@dataclass(frozen=True)
class HubRef:
    """A repository and what to take from it: a quant label, a file name, or None for the usual choice."""

    repo: str
    tag: str | None = None


@dataclass(frozen=True)
class Variant:
    """One loadable model in a repository: its quant label ("" where its name has none) and files, first shard first."""

    quant: str
    files: tuple[str, ...]

    @property
    def tag(self) -> str:
        """What a user writes after the colon to get exactly this model."""
        return self.quant or self.files[0]


def parse_ref(text: str) -> HubRef | None:
    """The repository that `text` names; None if it is no `user/repo[:QUANT]`, `hf.co/...` or link to a file."""
    match = _REF.fullmatch(text.strip())
    if match is None or ".." in match["repo"] or (match["repo"].lower().endswith(".gguf") and not match["tag"]):
        return None
    return HubRef(match["repo"], match["link"] or match["tag"])


def is_safe_name(name: str) -> bool:
    """Whether a file name from a hub is a relative .gguf path that stays inside its folder."""
    parts = PurePosixPath(name).parts
    clean = name.isprintable() and not set(name) & set('\\:*?"<>|') and not name.startswith("/")
    return clean and name.lower().endswith(".gguf") and bool(parts) and not any(p in ("..", ".") for p in parts)


def variants(names: Sequence[str]) -> list[Variant]:
    """The models among the file names of a repository, plainest name first; no sidecars, no incomplete shard sets."""
    models = sorted(
        (name for name in names if is_safe_name(name) and not _SIDECAR.search(PurePosixPath(name).name)),
        key=lambda name: (name.count("/"), len(name), name),
    )
    found, present = [], set(models)
    for name in models:
        match = SHARD.match(name)
        if match is None:
            files: tuple[str, ...] = (name,)
        elif int(match["index"]) == 1:
            count = int(match["count"])
            files = tuple(f"{match['stem']}-{i:05d}-of-{match['count']}{name[-5:]}" for i in range(1, count + 1))
        else:
            continue
        if present.issuperset(files):
            stem = match["stem"] if match else name[: -len(".gguf")]
            labels = _QUANT.findall(stem)
            found.append(Variant(labels[-1].upper() if labels else "", files))
    return found


def choose(ref: HubRef, names: Sequence[str], where: str) -> Variant:
    """The variant that `ref.tag` means. Raises ModelNotFound, listing what `where` has instead."""
    found = variants(names)
    if not found:
        raise ModelNotFound(f"{where} has no GGUF model in it; look for a repository whose name ends in -GGUF")
    tags = [ref.tag] if ref.tag else list(_PREFERRED)
    for tag in tags:
        for variant in found:
            if tag.casefold() in (variant.quant.casefold(), variant.files[0].casefold()):
                return variant
    if ref.tag is None:
        return found[0]
    for variant in found:  # any shard of a set names the set
        if ref.tag in variant.files:
            return variant
    offered = ", ".join(dict.fromkeys(variant.tag for variant in found))
    raise ModelNotFound(f"{where} has no {ref.tag!r}; it has: {offered}")


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


def download(ref: HubRef, on_progress: Progress | None = None) -> tuple[Path, Variant, str | None]:
    """Fetch what `ref` names into the cache: (first file, variant, licence). What is cached is not fetched again.

    Raises ModelNotFound (no such repository, quant or file), DownloadError (offline, gated, no network, no disk space),
    DamagedModel (the received bytes do not have the hub's SHA-256).
    """
    from huggingface_hub import HfApi, constants, hf_hub_download

    endpoint = constants.ENDPOINT
    with _readable_errors(ref, endpoint):
        info = HfApi(endpoint=endpoint).model_info(ref.repo, files_metadata=True)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
    variant = choose(ref, list(siblings), f"{endpoint}/{ref.repo}")
    sizes = {name: siblings[name].size or 0 for name in variant.files}
    cached = {
        path.relative_to(s).as_posix() for s in snapshots(ref.repo)[:1] for path in s.rglob("*") if path.is_file()
    }
    _check_disk_space(sum(size for name, size in sizes.items() if name not in cached))
    path, tally = None, _Tally(on_progress, sum(sizes.values()))
    for name in variant.files:
        with _readable_errors(ref, endpoint):
            bar = tally.bar_class(name)
            local = Path(hf_hub_download(ref.repo, name, endpoint=endpoint, tqdm_class=bar))
        if name not in cached:
            _check_hash(local, getattr(siblings[name].lfs, "sha256", None))
        tally.finish(name, sizes[name])
        path = path or local
    assert path is not None, "a variant has at least one file"
    return path, variant, _licence(info)


class _Tally:
    """Sums the progress of the files of one model and hands it on."""

    def __init__(self, on_progress: Progress | None, n_total: int) -> None:
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
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{ref.repo} is gated: accept its terms at {endpoint}/{ref.repo}, then set HF_TOKEN to a token of yours"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"{endpoint} has no model repository {ref.repo!r}, or it is private; check the spelling, or set HF_TOKEN"
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise not_cached(ref) from error
    except (
        Exception
    ) as error:  # HTTP clients differ between versions of huggingface_hub; whatever it is, the download failed
        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
        if isinstance(cause, errors.OfflineModeIsEnabled):
            raise not_cached(ref) from error
        if isinstance(cause, errors.GatedRepoError):
            raise DownloadError(
                f"{ref.repo} is gated: accept its terms at {endpoint}/{ref.repo} and set HF_TOKEN"
            ) from error
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status == 401:
            raise DownloadError(
                f"{endpoint} refused the token in HF_TOKEN (or the one saved by `hf auth login`)"
            ) from error
        reason = " ".join(str(cause).split())[:300] or type(cause).__name__
        raise DownloadError(f"could not download {ref.repo} from {endpoint}: {reason}") from error


def not_cached(ref: HubRef) -> DownloadError:
    """The error for a model that is not in the cache while the network may not be used."""
    name = f"{ref.repo}:{ref.tag}" if ref.tag else ref.repo
    return DownloadError(
        f"{name} is not in the cache ({cache_dir()}) and the network is switched off (--offline or HF_HUB_OFFLINE); "
        f"run `lacache models pull {name}` once without it"
    )
