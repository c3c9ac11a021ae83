"""A memory in words: a policy, its settings, KV types, perhaps its own size. Flags, pages and stored findings share it.

What it is: `MemorySpec`, `parse_memory` and its inverse `memory_text`; `make_policy`, which has the settings that
nobody gave; `Size` (cells or bytes) and what it buys. Settings are the fields of the policy's dataclass, so a new
policy needs nothing here.
What it does not know: engines, what a memory is used for.

    spec = parse_memory("ladder:span=15,recent=25%,ctk=q8_0,ctv=q4_0")
    spec.make_policy(geometry, n_ctx=1024)      # Ladder(span=15, n_recent=256), if the model has 30 layers
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lacache_app.policy_words import DEFAULT, words_of

from lacache_gguf.devices import cell_step
from lacache_gguf.errors import UsageError
from lacache_gguf.gguf_header import read_header
from lacache_gguf.kv_budget import CELL_STEP, KV_TYPES, KvGeometry, parse_budget, round_up
from lacache_gguf.model_memory import default_for
from lacache_gguf.policies import POLICIES, Policy, SinkWindow, default_ladder, default_policy

_SHORT = {name: f"n_{name}" for name in ("sink", "recent", "query", "src", "dst", "pos")}
_TYPES = {"ctk": "type_k", "k": "type_k", "type_k": "type_k", "ctv": "type_v", "v": "type_v", "type_v": "type_v"}
_SIZES = ("cells", "c", "n_ctx", "budget", "kv_budget")
_WORDS: dict[str, Any] = {"none": None, "true": True, "false": False}
_KEY = re.compile(r"[a-z][a-z0-9_]*")
_LARGE = (1 << 16, 1 << 20)
"""Layers and cells with which settings are tried before the model is known."""


@dataclass(frozen=True)
class Share:
    """Part of a memory's cells, for settings that shall fit several sizes: "25%"."""

    value: float

    def __str__(self) -> str:
        return f"{100 * self.value:g}%"


@dataclass(frozen=True)
class Size:
    """How much memory, as it was given: `n_cells` (equal cells) or `n_bytes` (equal bytes); neither: the usual one."""

    text: str = ""
    n_cells: int | None = None
    n_bytes: int | None = None

    def cells(self, geometry: KvGeometry, type_k: str, type_v: str, n_ubatch: int) -> int:
        """Cells that this buys in these KV types. Raises UsageError if that is too few, or more than was trained."""
        if self.n_bytes is not None:
            return geometry.cells_for(self.n_bytes, n_ubatch, type_k, type_v)
        return geometry.budget_cells(self.n_cells, None, n_ubatch, type_k, type_v)


def parse_size(text: str) -> Size:
    """ "1024" is cells, "8MiB" bytes. Raises UsageError."""
    budget = parse_budget(text)
    return Size(text.strip(), budget.n_cells, budget.n_bytes)


@dataclass(frozen=True)
class MemorySpec:
    """One memory; `name` is what the user wrote, and what tables of numbers call it. Made by `parse_memory`."""

    name: str
    policy: str
    settings: tuple[tuple[str, Any], ...] = ()
    type_k: str = "f16"
    type_v: str = "f16"
    size: Size | None = field(default=None)  # its own; None = the common one

    @property
    def is_full(self) -> bool:
        """Whether this is the full cache, the reference, which has as many cells as it needs."""
        return self.policy == "full"

    @property
    def is_sink_window(self) -> bool:
        """Whether this is the other reference: plain SinkWindow in f16."""
        plain = (self.policy, self.settings, self.type_k, self.type_v, self.size)
        return plain == ("sink_window", (), "f16", "f16", None)

    @property
    def label(self) -> str:
        """Name for people: "Ladder, span 8, K q8_0, V q4_0"."""
        words, given = [words_of(self.policy).title], dict(self.settings)
        for name in (name for name in fields_of(self.policy) if name in given):
            is_published = (self.policy, name, given[name]) == ("ladder", "n_recent", None)
            words.append("as published" if is_published else f"{name.removeprefix('n_')} {_word(given[name])}")
        if (self.type_k, self.type_v) != ("f16", "f16"):
            words.append(f"K {self.type_k}, V {self.type_v}")
        return ", ".join(words)

    def make_policy(self, geometry: KvGeometry, n_ctx: int) -> Policy:
        """The policy for a memory of this size of such a model, checked; the default is what the engine would choose.

        Raises PolicyError and UsageError.
        """
        if self.policy == DEFAULT:
            return default_for(geometry, n_ctx, self.type_k, self.type_v)
        n_layer = len(geometry.layers_planned)
        policy = make_policy(self.policy, dict(self.settings), n_layer, n_ctx)
        policy.check(n_layer, n_ctx)
        return policy

    def reference(self, n_tokens: int, n_ctx_train: int) -> tuple[Policy, int]:
        """(policy, cells) of a full cache for `n_tokens`; beyond the trained context a full window that slides."""
        n_most = n_ctx_train or 1 << 24
        if n_tokens > n_most:
            return SinkWindow(), n_most
        return POLICIES["full"](), min(round_up(n_tokens, CELL_STEP), n_most)


def parse_memory(text: str, type_k: str = "f16", type_v: str = "f16") -> MemorySpec:
    """ "ladder", "sink_window:ctk=q8_0", "scored_ladder:score=attention,recent=25%,cells=512" -> MemorySpec.

    Keys: the policy's fields, `sink` for n_sink and the like, ctk and ctv (or k and v), cells or budget. Values: whole
    numbers, fractions, words, `none`, and N% of the cells. `type_k` and `type_v` hold where none is named.
    Raises UsageError that names what is possible, PolicyError for settings that are impossible for every model.
    """
    text = text.strip()
    policy, _, rest = text.partition(":")
    policy = policy.strip().lower().replace("-", "_")
    if policy != DEFAULT and policy not in POLICIES:
        raise UsageError(f"memory {text!r}: {policy!r} is unknown; choose one of {', '.join((DEFAULT, *POLICIES))}")
    known = fields_of(policy)
    settings: dict[str, Any] = {}
    types, size = {"type_k": type_k, "type_v": type_v}, None
    for part in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, given = (piece.strip() for piece in part.partition("="))
        key, word = key.lower(), given.lower()
        name = _SHORT.get(key, key) if _SHORT.get(key, key) in known else key
        if not equals or not word or not _KEY.fullmatch(key):
            raise UsageError(f"memory {text!r}: {part!r} is not understood; write key=value")
        if key in _TYPES:
            types[_TYPES[key]] = word
        elif key in _SIZES:
            size = parse_size(given)
        elif name in known:
            settings[name] = _value(word)
        else:
            may = [*(next((s for s, f in _SHORT.items() if f == n), n) for n in known), "ctk", "ctv", "cells", "budget"]
            raise UsageError(f"memory {text!r}: {key!r} is unknown; {policy} takes {', '.join(may)}")
    for kv_type in types.values():
        if kv_type not in KV_TYPES:
            raise UsageError(f"memory {text!r}: KV type {kv_type!r} is unknown; choose one of {', '.join(KV_TYPES)}")
    make_policy(policy, settings, *_LARGE)
    return MemorySpec(text, policy, tuple(sorted(settings.items())), size=size, **types)


def memory_text(policy: str, settings: Mapping[str, Any]) -> str:
    """The inverse of `parse_memory` for a policy and some of its settings: "scored_ladder:dst=2,src=4"."""
    short = {field: word for word, field in _SHORT.items()}
    parts = sorted(f"{short.get(name, name)}={_word(value)}" for name, value in settings.items())
    return policy + (":" + ",".join(parts) if parts else "")


def make_policy(name: str, settings: Mapping[str, Any], n_layer: int, n_ctx: int) -> Policy:
    """A policy with the settings that were given, for a model and a memory that `check` has still to look at.

    What is not given is the dataclass's default; the ladder's are span = half of the layers and recent = half of the
    cells (`recent=none` is as published). Raises PolicyError and UsageError.
    """
    if name == DEFAULT:
        return default_policy(n_layer, n_ctx)
    values = {key: round(v.value * n_ctx) if isinstance(v, Share) else v for key, v in settings.items()}
    if name == "ladder" and n_layer < 2:
        raise UsageError(f"the ladder needs a model of at least 2 layers, this one has {n_layer}; use sink_window")
    try:
        if name == "ladder":
            return dataclasses.replace(default_ladder(n_layer, n_ctx), **values)  # type: ignore[type-var]
        return POLICIES[name](**values)
    except TypeError as error:
        raise UsageError(f"memory {name!r}: {error}") from None


def settings_given(policy: Policy, n_layer: int, n_ctx: int) -> dict[str, Any]:
    """The settings of a policy that are not those which `make_policy` has anyway."""
    usual = make_policy(policy.name, {}, n_layer, n_ctx)
    names = (f.name for f in dataclasses.fields(policy))  # type: ignore[arg-type]
    return {name: value for name in names if (value := getattr(policy, name)) != getattr(usual, name)}


def fields_of(policy: str) -> Collection[str]:
    """Names of a policy's settings; the default has none."""
    return [f.name for f in dataclasses.fields(POLICIES[policy])] if policy in POLICIES else []


def geometry_here(path: Path) -> KvGeometry:
    """The attention layers of a model, from its file's header, and the steps in which this machine allocates cells.

    Raises DamagedModel and UnsupportedModel.
    """
    return KvGeometry.from_metadata(read_header(path).metadata, cell_step())


def geometry_and_cells(
    path: Path, size: Size, n_ubatch: int = 512, type_k: str = "f16", type_v: str = "f16"
) -> tuple[KvGeometry, int]:
    """(attention layers of a model, cells that a size buys), from its file's header.

    Raises UsageError if the size is too small, or larger than what the model was trained on.
    """
    geometry = geometry_here(path)
    return geometry, size.cells(geometry, type_k, type_v, n_ubatch)


def _word(value: Any) -> str:
    """The inverse of `_value`."""
    return next((word for word, meant in _WORDS.items() if meant is value), str(value))


def _value(word: str) -> Any:
    if word in _WORDS:
        return _WORDS[word]
    if word.endswith("%"):
        try:
            return Share(float(word[:-1]) / 100)
        except ValueError:
            return word
    for number in (int, float):
        try:
            return number(word)
        except ValueError:
            continue
    return word
