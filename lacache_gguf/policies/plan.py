"""The types everything hangs on: a policy looks at a `View` and answers with a `Plan`.

Nothing here knows tensors, ctypes, models or tokens: a policy is arithmetic on cell numbers, and on scores where it has
a `Need`, so it can be tested without a model. Native code executes the plan in every layer at once; after it cell i has
position i in every layer, unless keys keep the position of their token (`n_pos`).

    >>> from lacache_gguf.policies import SinkWindow, View
    >>> policy = SinkWindow(n_sink=4)
    >>> plan = policy.plan(View(n_layer=30, n_cells=256, n_free=64))
    >>> plan.keep.shape
    (30, 192)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, get_args

import numpy as np

from lacache_gguf.errors import PolicyError

ScoreKind = Literal["keydiff", "attention", "surprise", "age"]


@dataclass(frozen=True)
class Need:
    """One thing that a scored policy wants to see besides numbers: a score per layer, KV head and cell, higher = keep.

    kind     "keydiff": -cos(key, mean of all normalised keys), keys without their rotation (arXiv 2504.15364)
             "attention": the attention a cell got from the last queries, averaged over them and the head's group
             "surprise": how unlikely the model found the cell's token, in nats, when it was fed
             "age": minus the number of tokens that were fed after the cell's
    n_query  attention: how many queries vote, >= 1; else 0
    spread   attention: they are spread over the tokens that came since the last plan; else those of the newest ones
    decay    attention: what was known before counts decay**n once n tokens more were fed (an exponential moving
             average; cells that came since start from 0); 0 <= decay < 1, and 0 = the newest queries alone decide
    once     keydiff: a cell is compared once, when it is new, with the newest cells, which cost less to look at; else
             all are compared with all each time, while keys have the positions of their cells

    Raises PolicyError for settings that mean nothing.
    """

    kind: ScoreKind
    n_query: int = 0
    decay: float = 0.0
    once: bool = False
    spread: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(ScoreKind):
            raise PolicyError(f"score {self.kind!r} is unknown; choose one of {', '.join(get_args(ScoreKind))}")
        require_int("score", "n_query", self.n_query, 1 if self.kind == "attention" else 0)
        require_share("score", "decay", self.decay)
        if self.kind != "attention" and (self.n_query or self.decay):
            raise PolicyError(
                f"{self.kind} scores see no queries: n_query {self.n_query}, decay {self.decay} must be 0"
            )
        if (self.once and self.kind != "keydiff") or (self.spread and self.kind != "attention"):
            raise PolicyError(f"{self.kind} scores: only keydiff can be taken once, only attention's queries spread")


@dataclass(frozen=True)
class View:
    """What a policy may look at.

    n_layer    layers of the KV memory
    n_cells    cells in use now, the same in every layer
    n_free     cells that must become free, >= 1: the plan has n_kept <= n_cells - n_free
    n_pinned   first cells that must stay in every layer (BOS, system prompt, instruction)
    cursor     `Plan.cursor` of the previous plan of this sequence, 0 at first; opaque to all but the policy
    sweep      `Plan.sweep` of the previous plan, 0 at first
    n_head_kv  KV heads of every layer, each of which may keep cells of its own
    scores     by kind: float32 [n_layer, n_head_kv, n_cells], higher = keep; one for each `Need` of the policy

    Raises ValueError on a number that no memory can have: the caller's mistake, not the user's.
    """

    n_layer: int
    n_cells: int
    n_free: int
    n_pinned: int = 0
    cursor: int = 0
    sweep: int = 0
    n_head_kv: int = 1
    scores: Mapping[ScoreKind, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if min(self.n_layer, self.n_free, self.n_head_kv) < 1:
            raise ValueError(f"n_layer, n_free and n_head_kv must be >= 1: {self}")
        if min(self.n_cells, self.n_pinned, self.cursor, self.sweep) < 0:
            raise ValueError(f"n_cells, n_pinned, cursor and sweep must be >= 0: {self}")
        if self.n_pinned > self.n_cells:
            raise ValueError(f"n_pinned {self.n_pinned} > n_cells {self.n_cells}")
        shape = (self.n_layer, self.n_head_kv, self.n_cells)
        for kind, scores in self.scores.items():
            if scores.dtype != np.float32 or scores.shape != shape:
                raise ValueError(f"{kind} scores are {scores.dtype} {scores.shape}, not float32 {shape}")


@dataclass(frozen=True, eq=False)
class Plan:
    """Which cells every layer keeps, and where the policy resumes.

    keep    int32 [n_layer, n_kept], C-contiguous; keep[il, i] = source cell of cell i; rows strictly ascending. Or
            int32 [n_layer, n_head_kv, n_kept]: every KV head keeps cells of its own
    cursor  hand it back in the next `View`, likewise `sweep`
    """

    keep: np.ndarray
    cursor: int = 0
    sweep: int = 0

    def __post_init__(self) -> None:
        keep = self.keep
        if keep.dtype != np.int32 or keep.ndim not in (2, 3) or not keep.flags.c_contiguous:
            raise ValueError(
                f"keep must be a C-contiguous int32 matrix, or one per KV head, got {keep.dtype} of {keep.ndim} "
                "dimension(s)"
            )

    @property
    def n_layer(self) -> int:
        """Layers of the plan."""
        return self.keep.shape[0]

    @property
    def n_kept(self) -> int:
        """Cells every layer and head keeps."""
        return self.keep.shape[-1]


class Policy(Protocol):
    """Decides what to forget. Implemented by frozen dataclasses of settings; the state travels in View and Plan.

    A policy that looks at cell numbers alone has nothing else. One that wants scores also has `needs`, a tuple of
    `Need`, and finds the answers in `View.scores`; one whose KV heads keep cells of their own has `is_per_head = True`;
    one whose cells keep the positions of their tokens for a while has `n_pos > 0`, the positions they may take.
    """

    name: ClassVar[str]

    def plan(self, view: View) -> Plan:
        """Free at least `view.n_free` cells. Raises MemoryFull, with the numbers, if the policy cannot."""
        ...

    def check(self, n_layer: int, n_ctx: int, n_pinned: int = 0) -> None:
        """Raise PolicyError, with the numbers, if these settings cannot work for this model and budget.

        If the policy evicts at all and this returns, a full memory of `n_ctx` cells can be thinned without end.
        """
        ...

    def n_free_max(self, n_layer: int, n_cells: int, n_pinned: int = 0) -> int:
        """The most cells one `plan` can free from `n_cells` cells, wherever the cursor stands."""
        ...


def needs_of(policy: Policy) -> tuple[Need, ...]:
    """What `policy` wants to see besides numbers; nothing for a position-only one."""
    return getattr(policy, "needs", ())


def is_per_head(policy: Policy) -> bool:
    """True if the plans of `policy` are [n_layer, n_head_kv, n_kept], False if [n_layer, n_kept]."""
    return bool(getattr(policy, "is_per_head", False))


def n_pos_of(policy: Policy, n_ctx: int, n_ctx_train: int) -> int:
    """Positions that keys spread over in a memory of `n_ctx` cells before they are moved down, at most the trained
    context; 0 if what is left is numbered anew each time, as where they would be no more than there are cells."""
    n_pos = min(getattr(policy, "n_pos", 0), n_ctx_train)
    return n_pos if n_pos > n_ctx else 0


def require_int(owner: str, setting: str, value: Any, lowest: int) -> None:
    """Raise PolicyError unless `value` is a whole number >= `lowest`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise PolicyError(f"{owner}: {setting} must be a whole number, got {value!r}")
    if value < lowest:
        raise PolicyError(f"{owner}: {setting} must be at least {lowest}, got {value}")


def require_share(owner: str, setting: str, value: Any) -> None:
    """Raise PolicyError unless 0 <= `value` < 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise PolicyError(f"{owner}: {setting} must be at least 0 and below 1, got {value!r}")


def require_choice(owner: str, setting: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise PolicyError unless `value` is one of `choices`."""
    if value not in choices:
        raise PolicyError(f"{owner}: {setting} {value!r} is unknown; choose one of {', '.join(choices)}")
