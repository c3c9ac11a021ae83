"""Which models are on this machine: the one that comes along, the catalog, the hub's cache, folders a person named.

What it is: `library(folders)` -> `Entry` values: size, licence, what the header says, and why a file cannot be used.
Headers are read by gguf_header, which checks every length against the file before it uses it; llama.cpp sees a file
only when it is loaded. What it does not know: how a model is loaded or downloaded, gradio.

    for entry in library(["~/models"]): print(entry.name, entry.size_bytes, entry.state, entry.reason)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from lacache_gguf import hub
from lacache_gguf.catalog import DEFAULT_MODEL, ModelCard, catalog, resolve
from lacache_gguf.errors import DamagedModel, LacacheError, UnsupportedModel, UsageError
from lacache_gguf.gguf_header import SHARD, GgufHeader, read_header, shard_paths
from lacache_gguf.hub_names import is_sidecar
from lacache_gguf.kv_budget import KvGeometry

N_FILES_MAX, N_DEPTH_MAX = 500, 4  # of a folder scan
_NOT_A_MODEL = {"adapter": "a LoRA adapter", "mmproj": "a vision projector", "imatrix": "an importance matrix"}

# What llama-kv-compact-reason.cpp refuses, as far as a header tells it.
_NOT_PLAIN = {
    "hunyuan-moe", "hunyuan-dense", "hunyuan_vl", "maincoder", "afmoe", "cohere2moe", "exaone-moe", "gemma4",
    "gemma4-assistant", "laguna", "llama4", "maple", "mellum", "muse-glimmer", "olmo2", "smallthinker", "spark2_5",
    "step35",
}  # fmt: skip
_M_ROPE = {"qwen2vl", "paddleocr", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe"}
_RECURRENT = {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"}
_NO_KV = {"bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "modern-bert", "neo-bert", "t5encoder", "llada",
          "llada-moe", "dream"}  # fmt: skip
_LEARNED = {"gpt2", "starcoder"}
_SPARSE = {"deepseek32", "glm-dsa"}
_ALL_WINDOWED = {"lfm2", "lfm2moe"}


@dataclass(frozen=True)
class Entry:
    """One model. `id` is what Engine takes as `model`; `reason` says why the state is not "ready".

    state: "ready"; "full only" (cannot forget, so it loads with the policy `full` alone); "not here" (known, but to be
    installed or downloaded); "damaged"; "unsupported".
    """

    id: str
    name: str
    source: str  # "built in" | "catalog" | "hub" | "folder"
    state: str
    size_bytes: int = 0
    licence: str | None = None
    path: Path | None = None
    reason: str = ""
    header: GgufHeader | None = field(default=None, compare=False)

    @property
    def can_load(self) -> bool:
        """Whether loading it may work."""
        return self.state in ("ready", "full only")

    @property
    def facts(self) -> list[tuple[str, str]]:
        """What the header says, for people: (name, value)."""
        if self.header is None:
            return []
        meta, arch = self.header.metadata, self.header.architecture
        rows = [("Architecture", arch)]
        for label, key in (("Size", "general.size_label"), ("By", "general.organization")):
            if meta.get(key):
                rows.append((label, meta[key][:80]))
        for label, key in (("Layers", "block_count"), ("Trained context", "context_length")):
            n = self.header.arch_int(key)
            if n:
                rows.append((label, f"{n:,} tokens" if key == "context_length" else f"{n:,}"))
        if self.header.n_vocab:
            rows.append(("Vocabulary", f"{self.header.n_vocab:,} tokens"))
        return [(label, value) for label, value in rows if value]


def library(folders: Sequence[str] = (), hub_licence: Callable[[str], str | None] = lambda name: None) -> list[Entry]:
    """Every model that is here or known: built in, catalog, hub cache, then the folders; a file appears once.

    `hub_licence(name)`: what the hub said about a downloaded one. Folders that cannot be read are left out.
    """
    entries = [_card_entry(card) for card in catalog().values()]
    for ref, path in hub.list_cached():
        name = f"{ref.repo}:{ref.tag}"
        entries.append(_file_entry(path, "hub", id=name, name=name, licence=hub_licence(name)))
    for folder in folders:
        try:
            entries += scan(folder)
        except UsageError:
            continue
    seen: set[Path] = set()
    found = []
    for entry in entries:
        place = entry.path.resolve() if entry.path else None
        if place is None or place not in seen:
            found.append(entry)
        seen |= {place} if place else set()
    return found


def entry_for(model: str) -> Entry:
    """The entry of anything that Engine takes as `model`: a catalog name, user/repo:QUANT or a path."""
    card = catalog().get(model.lower())
    if card is not None:
        return _card_entry(card)
    try:
        found = resolve(model)
    except LacacheError as error:
        return Entry(model, model, "folder", "not here", reason=str(error))
    source = "hub" if found.source == "hub" else "folder"
    return _file_entry(found.path, source, id=model, name=found.name, licence=found.licence)


def scan(folder: str | os.PathLike[str]) -> list[Entry]:
    """The models in a folder and its subfolders (4 levels, 500 files, no hidden ones), shards of one model together.

    Sidecars of other models (mmproj, mtp, imatrix) are left out. Raises UsageError if it is no folder one can read.
    """
    root = folder_path(folder)
    entries = []
    for path in _gguf_files(root):
        match = SHARD.match(path.name)
        if is_sidecar(path.name) or (match and int(match["index"]) != 1 and _first_shard(path, match).is_file()):
            continue
        name = path.relative_to(root).as_posix()
        entries.append(_file_entry(path, "folder", id=str(path), name=name))
    return entries


def folder_path(folder: str | os.PathLike[str]) -> Path:
    """The folder a person named, absolute. Raises UsageError if there is none or it cannot be read."""
    text = os.fspath(folder).strip()
    path = Path(text).expanduser()
    if not text or not path.is_absolute():
        raise UsageError(f"{text!r} is no full path of a folder; write, say, {Path.home() / 'models'}")
    if not path.is_dir():
        raise UsageError(f"there is no folder {path}; check the spelling")
    try:
        with os.scandir(path) as entries:
            next(entries, None)
    except OSError as error:
        raise UsageError(f"the folder {path} cannot be read: {error.strerror or error}") from error
    return path


def refusal(header: GgufHeader) -> str | None:
    """Why this model cannot forget (so only the policy `full` loads it), as far as its header tells; None if it can.

    The native code has the last word when a model is loaded, and gives the same reasons.
    """
    arch, meta = header.architecture, header.metadata
    if arch in _NO_KV:
        return "it has no KV cache (an encoder or a diffusion model)"
    if arch in _RECURRENT:
        return "it is purely recurrent: its state has a constant size and needs no compaction"
    if arch in _SPARSE:
        return "its KV cache is of a kind (sparse attention, indexer) that has no compaction yet"
    if arch in _ALL_WINDOWED and header.arch_int("attention.sliding_window") > 0:
        return "it has no layer with full attention, so there is nothing to compact"
    if header.arch_int("attention.kv_lora_rank") > 0:
        return "it stores compressed keys (MLA), which cannot be re-rotated row by row"
    sections = meta.get(f"{arch}.rope.dimension_sections", "").strip("[]").split(",")
    if arch in _M_ROPE or (arch in ("glm4", "glm4moe") and any(s.strip() not in ("", "0") for s in sections)):
        return "it uses multi-dimensional positions (M-RoPE), which cannot be renumbered"
    if arch in _LEARNED:
        return "its positions are learned embeddings that are baked into keys and values"
    if arch in _NOT_PLAIN:
        return "its keys are not a plain rotation by the position, so they cannot be re-rotated exactly"
    return None


# ---- one entry -------------------------------------------------------------------------------------------------------


def _card_entry(card: ModelCard) -> Entry:
    source = "built in" if card.id == DEFAULT_MODEL else "catalog"
    try:
        path = resolve(card.id).path
    except LacacheError as error:
        return Entry(card.id, card.name, source, "not here", card.size_bytes, card.licence, reason=str(error))
    return _file_entry(path, source, id=card.id, name=card.name, licence=card.licence)


def _file_entry(path: Path, source: str, *, id: str, name: str, licence: str | None = None) -> Entry:
    try:
        stat = path.stat()
        parts = shard_paths(path)
        size = sum(part.stat().st_size for part in parts)
        header = _header(path, stat.st_size, stat.st_mtime_ns)
        for part in parts[1:]:
            _header(part, part.stat().st_size, part.stat().st_mtime_ns)
    except LacacheError as error:
        size = path.stat().st_size if path.is_file() else 0
        return Entry(id, name, source, "damaged", size, licence, path, str(error).replace(f"{path} ", "it ", 1))
    except OSError as error:
        return Entry(id, name, source, "damaged", 0, licence, path, f"it cannot be read: {error.strerror or error}")
    state, reason = _state(header)
    licence = licence or header.metadata.get("general.license") or None
    return Entry(id, name, source, state, size, licence and licence[:80], path, reason, header)


def _state(header: GgufHeader) -> tuple[str, str]:
    kind = header.metadata.get("general.type", "model")
    if kind in _NOT_A_MODEL or header.architecture == "clip":
        return "unsupported", f"it is no language model but {_NOT_A_MODEL.get(kind, 'a vision projector')}"
    if not header.architecture:
        return "unsupported", "its header does not say which architecture it has"
    reason = refusal(header)
    if header.architecture in _NO_KV | _RECURRENT:
        return "unsupported", reason or ""
    try:
        KvGeometry.from_metadata(header.metadata)
    except UnsupportedModel as error:
        return "unsupported", str(error)
    except DamagedModel as error:
        return "damaged", str(error)
    return ("ready", "") if reason is None else ("full only", reason)


@lru_cache(maxsize=1024)
def _header(path: Path, _size: int, _mtime_ns: int) -> GgufHeader:
    """A file's header; read again only when the file has changed."""
    return read_header(path)


def _first_shard(path: Path, match: Mapping[str, str]) -> Path:
    return path.with_name(f"{match['stem']}-00001-of-{match['count']}{path.name[-5:]}")


def _gguf_files(root: Path) -> Iterator[Path]:
    n_found = 0
    for folder, folders, files in os.walk(root):  # follows no links to folders
        depth = len(Path(folder).relative_to(root).parts)
        folders[:] = sorted(f for f in folders if not f.startswith(".")) if depth < N_DEPTH_MAX else []
        for name in sorted(files):
            if name.lower().endswith(".gguf") and not name.startswith(".") and n_found < N_FILES_MAX:
                n_found += 1
                yield Path(folder) / name
