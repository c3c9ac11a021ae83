"""What was fed, in order: every token, and how surprising it was if anybody asks for that. Knows no cells and no model.

history = History(has_losses=True)
history.append([5, 17], losses=[0.0, 3.2])
history.tokens, history.losses
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_N_RESERVED = 1_000_000
"""Tokens that there is room for from the beginning: memory that nobody has touched costs nothing, but what is copied to
grow leaves holes behind."""


class History:
    """Tokens int32 [n] and, with `has_losses`, losses float16 [n] in nats: only their order counts. 4 or 6 bytes a
    token; they never shrink."""

    def __init__(self, has_losses: bool) -> None:
        self.has_losses = has_losses
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._n = 0
        self._tokens = np.empty(_N_RESERVED, dtype=np.int32)
        self._losses = np.empty(_N_RESERVED if self.has_losses else 0, dtype=np.float16)

    @property
    def tokens(self) -> np.ndarray:
        """int32 [n], read-only, valid until the next change."""
        return _read_only(self._tokens[: self._n])

    @property
    def losses(self) -> np.ndarray:
        """float16 [n], or [0] without losses; read-only, valid until the next change."""
        return _read_only(self._losses[: self._n])

    def append(self, tokens: Sequence[int], losses: np.ndarray | None = None) -> None:
        """`tokens` were fed. `losses` of any float type, as many: needed with `has_losses`, left out without."""
        end = self._n + len(tokens)
        if end > len(self._tokens):
            self._tokens = _grown(self._tokens, end)
            self._losses = _grown(self._losses, end) if self.has_losses else self._losses
        self._tokens[self._n : end] = tokens
        if self.has_losses:
            self._losses[self._n : end] = losses
        self._n = end

    def cut(self, n: int) -> None:
        """Take all but the first `n` back."""
        self._n = min(n, self._n)

    def replace(self, tokens: np.ndarray, losses: np.ndarray) -> None:
        """Set both, as `tokens` and `losses` gave them. Raises ValueError, changing nothing, if they do not fit."""
        if losses.dtype != np.float16 or losses.shape != (len(tokens) if self.has_losses else 0,):
            raise ValueError(f"losses are {losses.dtype} {losses.shape}, for {len(tokens)} tokens")
        if not np.isfinite(losses).all():
            raise ValueError("losses are no finite numbers")
        self._n, self._tokens, self._losses = len(tokens), tokens.astype(np.int32), losses.copy()


def _read_only(view: np.ndarray) -> np.ndarray:
    view.flags.writeable = False
    return view


def _grown(array: np.ndarray, n_least: int) -> np.ndarray:
    longer = np.empty(max(2 * len(array), n_least), dtype=array.dtype)
    longer[: len(array)] = array
    return longer
