"""The cascade with lists, one token at a time, for one head: written from the paper (arXiv 2406.17808, section 3).

>>> cascade = Cascade(n_sink=1, sizes=[2, 2])
>>> for token in range(8):
...     cascade.put(token, {token: 0 for token in range(8)})
>>> cascade.tokens()
[0, 4, 5, 6, 7]
"""

from __future__ import annotations


class Cascade:
    """Sinks and sub-caches, the first one for the newest tokens; every list is oldest first."""

    def __init__(self, n_sink: int, sizes: list[int]) -> None:
        self.n_sink, self.sizes = n_sink, sizes
        self.sinks: list[int] = []
        self.parts: list[list[int]] = [[] for _ in sizes]
        self.n_put = 0  # behind the sinks

    def put(self, token: int, score: dict[int, float]) -> None:
        """A token comes in; `score` of all tokens at this time."""
        if len(self.sinks) < self.n_sink:
            self.sinks.append(token)
            return
        is_filling = self.n_put <= sum(self.sizes)
        comer: int | None = token
        for i, (part, size) in enumerate(zip(self.parts, self.sizes, strict=True)):
            if is_filling or self.n_put % 2**i == 0:
                part.append(comer)
                comer = part.pop(0) if len(part) > size else None
            elif not part:
                part.append(comer)
                comer = None
            else:
                if score[comer] >= score[part[-1]]:
                    part[-1] = comer
                comer = None
            if comer is None:
                break
        self.n_put += 1

    def tokens(self) -> list[int]:
        """All that it holds, oldest first."""
        return self.sinks + [token for part in reversed(self.parts) for token in part]


def equal_parts(n: int, n_parts: int) -> list[int]:
    """Sizes of parts of n cells, the first ones taking one more where it does not divide."""
    sizes = [0] * n_parts
    for i in range(n):
        sizes[i % n_parts] += 1
    return sizes


def replan(
    scores: list[float], *, n_free: int, n_first: int, n_cascade: int, cursor: int, sweep: int
) -> tuple[list[int], int, int]:
    """Build the sub-caches anew from the cells that were stored, put the rest in: (cells kept, cursor, sweep)."""
    n_cells = len(scores)
    n_left = n_cells - n_free
    cascade = Cascade(n_first, equal_parts(n_left - n_first, n_cascade))
    score = dict(enumerate(scores))
    n_stored = min(max(cursor, n_first), n_cells)
    for cell in range(n_cells):
        if cell < max(n_stored, n_left):
            cascade.n_put = 0  # as if it were not full yet: everything is taken, the oldest fall out
        else:
            cascade.n_put = sweep + cell - n_stored
        cascade.put(cell, score)
    return cascade.tokens(), n_left, sweep + n_cells - n_stored
