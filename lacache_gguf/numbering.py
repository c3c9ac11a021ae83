"""The positions of keys: where the key of every cell was turned to, and the position of the next token.

A key carries its position as a rotation. `InCache` closes the gaps that thinning leaves, so cell i has position i and
positions never exceed the budget (StreamingLLM, arXiv 2309.17453, section 3.2). `Original` leaves keys where they were
written: attention sees true distances, nothing is rounded anew, thinning is a copy of rows. Positions then grow with
every token, so when `n_pos` of them are used up all are moved down. Neither knows tokens or scores.

    numbering = Original(n_rows=90, n_ctx=1024, n_pos=8192)
    numbering.advance(n_cells, n_tokens)          # cells came in
    numbering.move(keep)                          # a plan was carried out
    turned = numbering.turn_down(n_cells, 128)    # (turn, shift) before positions are used up, else None
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from lacache_gguf.rows import taken


class Numbering(Protocol):
    """Positions of the cells of one sequence; n_rows is 1 per layer, or 1 per layer and KV head."""

    pos_next: int

    def reset(self) -> None:
        """Forget everything."""

    def advance(self, n_cells: int, n_tokens: int) -> None:
        """`n_tokens` came in behind `n_cells` cells."""

    def move(self, keep: np.ndarray) -> None:
        """The cells `keep` int32 [n_rows, n_kept] stay, as cells 0 .. n_kept - 1."""

    def retract(self, n_tokens: int) -> None:
        """The newest `n_tokens` cells, which have no gap among them, are gone."""

    def turn_down(self, n_cells: int, n_tokens: int) -> tuple[np.ndarray, int] | None:
        """(int32 [n_rows, n_cells] positions by which keys must turn, by how much the newest position changes) if
        `n_tokens` more would need positions that are not to be used; None if nothing is to be done. Changes nothing."""

    def turned(self, turn: np.ndarray, shift: int) -> None:
        """What `turn_down` gave was carried out."""

    def state(self, n_cells: int) -> dict[str, np.ndarray]:
        """Arrays that `restore` needs."""

    def restore(self, n_cells: int, pos_next: int, arrays: dict[str, np.ndarray]) -> None:
        """Set what `state` gave. Raises ValueError, changing nothing, if it cannot be."""


class InCache:
    """Cell i has position i."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.pos_next = 0

    def advance(self, n_cells: int, n_tokens: int) -> None:
        self.pos_next = n_cells + n_tokens

    def move(self, keep: np.ndarray) -> None:
        self.pos_next = keep.shape[-1]

    def retract(self, n_tokens: int) -> None:
        self.pos_next -= n_tokens

    def turn_down(self, n_cells: int, n_tokens: int) -> None:
        return None

    def turned(self, turn: np.ndarray, shift: int) -> None:
        raise AssertionError("cell i has position i: nothing turns")

    def state(self, n_cells: int) -> dict[str, np.ndarray]:
        return {}

    def restore(self, n_cells: int, pos_next: int, arrays: dict[str, np.ndarray]) -> None:
        if pos_next != n_cells:
            raise ValueError(f"the next position is {pos_next} behind {n_cells} cells")
        self.pos_next = pos_next


class Original:
    """A cell keeps the position that its token had, less what all were moved down."""

    def __init__(self, n_rows: int, n_ctx: int, n_pos: int) -> None:
        self._n_pos = n_pos
        self._pos = np.zeros((n_rows, n_ctx), dtype=np.int32)
        self.reset()

    def reset(self) -> None:
        self.pos_next = 0

    def advance(self, n_cells: int, n_tokens: int) -> None:
        end = self.pos_next + n_tokens
        self._pos[:, n_cells : n_cells + n_tokens] = np.arange(self.pos_next, end, dtype=np.int32)
        self.pos_next = end

    def move(self, keep: np.ndarray) -> None:
        self._pos[:, : keep.shape[1]] = taken(self._pos, keep)

    def retract(self, n_tokens: int) -> None:
        self.pos_next -= n_tokens

    def turn_down(self, n_cells: int, n_tokens: int) -> tuple[np.ndarray, int] | None:
        """Half of the positions become free, if the cells leave so many. Distances up to half of them stay; older cells
        close up behind position 0, each at its number at least, so that no two meet."""
        if self.pos_next + n_tokens <= self._n_pos or self.pos_next <= n_cells:
            return None
        shift = min(max(n_cells, self._n_pos // 2), self._n_pos - n_tokens) - self.pos_next
        if shift >= 0:
            return None
        pos = self._pos[:, :n_cells]
        return np.maximum(pos + shift, np.arange(n_cells, dtype=np.int32)) - pos, shift

    def turned(self, turn: np.ndarray, shift: int) -> None:
        self._pos[:, : turn.shape[1]] += turn
        self.pos_next += shift

    def state(self, n_cells: int) -> dict[str, np.ndarray]:
        return {"pos": self._pos[:, :n_cells].copy()}

    def restore(self, n_cells: int, pos_next: int, arrays: dict[str, np.ndarray]) -> None:
        pos = arrays.get("pos")
        if pos is None or pos.dtype != np.int32 or pos.shape != (len(self._pos), n_cells):
            raise ValueError(f"positions of {n_cells} cells in {len(self._pos)} rows are missing")
        if n_cells and not (pos.min() >= 0 and (np.diff(pos, axis=1) > 0).all() and (pos[:, -1] < pos_next).all()):
            raise ValueError(f"positions that are not in order below {pos_next}")
        if pos_next < n_cells:
            raise ValueError(f"the next position is {pos_next} behind {n_cells} cells")
        self._pos[:, :n_cells] = pos
        self.pos_next = pos_next
