"""Names of models on the Hugging Face hub: what `user/repo:QUANT` means among the files of a repository.

What it is: pure functions of strings. What it does not know: networks, caches, what is in a file.

    >>> parse_ref("hf.co/user/repo:q4_k_m")
    HubRef(repo='user/repo', tag='q4_k_m')
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from lacache_gguf.errors import ModelNotFound
from lacache_gguf.gguf_header import SHARD

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
    """One loadable model in a repository: its quant label ("" if none, or taken) and its files, first shard first."""

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


def is_sidecar(name: str) -> bool:
    """Whether a file name is that of a companion (vision projector, draft head, ...), which is no model by itself."""
    return _SIDECAR.search(PurePosixPath(name).name) is not None


def variants(names: Sequence[str]) -> list[Variant]:
    """The models among the file names of a repository, plainest name first; no sidecars, no incomplete shard sets."""
    models = sorted(
        (name for name in names if is_safe_name(name) and not is_sidecar(name)),
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
            labels = _QUANT.findall(match["stem"] if match else name[: -len(".gguf")])
            quant = labels[-1].upper() if labels else ""
            is_taken = any(variant.quant == quant for variant in found)  # then only its file name leads to it
            found.append(Variant("" if is_taken else quant, files))
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
