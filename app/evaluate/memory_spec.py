"""A memory under test, as it is written on the command line: a policy, its settings, KV types, perhaps its own size.

What it is: `MemorySpec` and `parse_memory`; `Size` (cells or bytes) and what it buys. Settings are the fields of the
policy's dataclass, so a new policy needs nothing here.
What it does not know: engines, files, what is measured.

    spec = parse_memory("ladder:span=15,recent=25%,ctk=q8_0,ctv=q4_0")
    spec.make_policy(n_layer=30, n_ctx=1024)      # Ladder(span=15, n_recent=256)
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from lacache_gguf.errors import UsageError
from lacache_gguf.kv_budget import KV_TYPES, KvGeometry, parse_budget
from lacache_gguf.policies import POLICIES, Policy, SinkWindow, default_policy

DEFAULT = "default"
"""The memory that the program uses when nobody chooses one."""
_SHORT = {"sink": "n_sink", "recent": "n_recent", "query": "n_query", "src": "n_src", "dst": "n_dst"}
_TYPES = {"ctk": "type_k", "k": "type_k", "type_k": "type_k", "ctv": "type_v", "v": "type_v", "type_v": "type_v"}
_SIZES = ("cells", "c", "n_ctx", "budget", "kv_budget")
_WORDS: dict[str, Any] = {"none": None, "true": True, "false": False}
_KEY = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Share:
    """Part of a memory's cells, for settings that shall fit several sizes: "25%"."""

    value: float

    def __str__(self) -> str:
        return f"{100 * self.value:g}%"


@dataclass(frozen=True)
class Size:
    """How much memory, as it was given: `n_cells` (equal cells) or `n_bytes` (equal bytes), exactly one of them."""

    text: str
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
    """One memory under test; `name` is what the user wrote, and what tables call it. Made by `parse_memory`."""

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

    def make_policy(self, n_layer: int, n_ctx: int) -> Policy:
        """The policy for a memory of this size, checked. Raises PolicyError and UsageError.

        What is not given is the dataclass's default; the ladder's are span = half of the layers and recent = half of
        the cells, as the program uses it (`recent=none` is as published).
        """
        if self.policy == DEFAULT:
            return default_policy(n_layer, n_ctx)
        kind = POLICIES[self.policy]
        values = {name: round(v.value * n_ctx) if isinstance(v, Share) else v for name, v in self.settings}
        if kind.name == "ladder":
            values = {"span": max(1, n_layer // 2), "n_recent": n_ctx // 2, **values}
        try:
            policy = kind(**values)
        except TypeError as error:
            raise UsageError(f"memory {self.name!r}: {error}") from None
        policy.check(n_layer, n_ctx)
        return policy

    def reference(self, n_tokens: int, n_ctx_train: int) -> tuple[Policy, int]:
        """(policy, cells) of a full cache for `n_tokens`; beyond the trained context a full window that slides."""
        n_most = n_ctx_train or 1 << 24
        if n_tokens > n_most:
            return SinkWindow(), n_most
        return POLICIES["full"](), min(-(-n_tokens // 256) * 256, n_most)


def parse_memory(text: str, type_k: str = "f16", type_v: str = "f16") -> MemorySpec:
    """ "ladder", "sink_window:ctk=q8_0", "scored_ladder:score=attention,recent=25%,cells=512" -> MemorySpec.

    Keys: the policy's fields, `sink` for n_sink and the like, ctk and ctv (or k and v), cells or budget. Values: whole
    numbers, fractions, words, `none`, and N% of the cells. `type_k` and `type_v` hold where none is named.
    Raises UsageError that names what is possible.
    """
    text = text.strip()
    policy, _, rest = text.partition(":")
    policy = policy.strip().lower().replace("-", "_")
    if policy != DEFAULT and policy not in POLICIES:
        raise UsageError(f"memory {text!r}: {policy!r} is unknown; choose one of {', '.join((DEFAULT, *POLICIES))}")
    kind = POLICIES.get(policy)
    known = {f.name: f for f in dataclasses.fields(kind)} if kind else {}
    settings: dict[str, Any] = {}
    types, size = {"type_k": type_k, "type_v": type_v}, None
    for part in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, given = (piece.strip() for piece in part.partition("="))
        key, word = key.lower(), given.lower()
        name = _SHORT.get(key, key) if _SHORT.get(key, key) in known else key
        if not equals or not word or not _KEY.fullmatch(key):
            raise UsageError(f"memory {text!r}: {part!r} is not understood; write key=value")
        if key in _TYPES:
            if word not in KV_TYPES:
                raise UsageError(f"memory {text!r}: {key} is {word!r}; choose one of {', '.join(KV_TYPES)}")
            types[_TYPES[key]] = word
        elif key in _SIZES:
            size = parse_size(given)
        elif name in known:
            settings[name] = _value(word)
        else:
            may = [*(next((s for s, f in _SHORT.items() if f == n), n) for n in known), "ctk", "ctv", "cells", "budget"]
            raise UsageError(f"memory {text!r}: {key!r} is unknown; {policy} takes {', '.join(may)}")
    return MemorySpec(text, policy, tuple(sorted(settings.items())), size=size, **types)


def policy_dict(policy: Policy) -> dict[str, Any]:
    """Name and settings as plain values for JSON."""
    return {"name": policy.name, **dataclasses.asdict(policy)}  # type: ignore[call-overload]


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
