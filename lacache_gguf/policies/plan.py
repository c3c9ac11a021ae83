"""The types everything hangs on: a policy looks at a `View` and answers with a `Plan`.

Nothing here knows tensors, ctypes, models or tokens: a policy is arithmetic on cell numbers, so it can be tested for
every integer. Native code executes the plan in every layer at once; after it cell i has position i in every layer.

    >>> from lacache_gguf.policies import SinkWindow, View
    >>> policy = SinkWindow(n_sink=4)
    >>> plan = policy.plan(View(n_layer=30, n_cells=256, n_free=64))
    >>> plan.keep.shape
    (30, 192)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from lacache_gguf.errors import PolicyError


@dataclass(frozen=True)
class View:
    """What a policy may look at; integers only.

    n_layer   layers of the KV memory
    n_cells   cells in use now, the same in every layer (== the position of the next token)
    n_free    cells that must become free, >= 1: the plan has n_kept <= n_cells - n_free
    n_pinned  first cells that must stay in every layer (BOS, system prompt, instruction)
    cursor    `Plan.cursor` of the previous plan of this sequence, 0 at first; opaque to all but the policy
    sweep     `Plan.sweep` of the previous plan, 0 at first

    Raises ValueError on a number that no memory can have: the caller's mistake, not the user's.
    """

    n_layer: int
    n_cells: int
    n_free: int
    n_pinned: int = 0
    cursor: int = 0
    sweep: int = 0

    def __post_init__(self) -> None:
        if self.n_layer < 1 or self.n_free < 1 or min(self.n_cells, self.n_pinned, self.cursor, self.sweep) < 0:
            raise ValueError(f"n_layer and n_free must be >= 1 and the rest >= 0: {self}")
        if self.n_pinned > self.n_cells:
            raise ValueError(f"n_pinned {self.n_pinned} > n_cells {self.n_cells}")


@dataclass(frozen=True, eq=False)
class Plan:
    """Which cells every layer keeps, and where the policy resumes.

    keep    int32 [n_layer, n_kept], C-contiguous; keep[il, i] = source cell of cell i; rows strictly ascending
    cursor  hand it back in the next `View`, likewise `sweep`
    """

    keep: np.ndarray
    cursor: int = 0
    sweep: int = 0

    def __post_init__(self) -> None:
        keep = self.keep
        if keep.dtype != np.int32 or keep.ndim != 2 or not keep.flags.c_contiguous:
            raise ValueError(f"keep must be a C-contiguous int32 matrix, got {keep.dtype} of {keep.ndim} dimension(s)")

    @property
    def n_layer(self) -> int:
        """Rows of the plan."""
        return self.keep.shape[0]

    @property
    def n_kept(self) -> int:
        """Cells every layer keeps."""
        return self.keep.shape[1]


class Policy(Protocol):
    """Decides what to forget. Implemented by frozen dataclasses of settings; the state travels in View and Plan.

    Position-only by design: a method that reads keys or attention is another protocol, not a new argument here.
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


def require_int(owner: str, setting: str, value: Any, lowest: int) -> None:
    """Raise PolicyError unless `value` is a whole number >= `lowest`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise PolicyError(f"{owner}: {setting} must be a whole number, got {value!r}")
    if value < lowest:
        raise PolicyError(f"{owner}: {setting} must be at least {lowest}, got {value}")
