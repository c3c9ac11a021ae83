"""The scored policies with lists and loops: slow, obvious, and written without looking at the fast ones.

Every row (a layer, or a KV head of a layer) is a plain list of cell numbers and one of scores; nothing is vectorised.

    >>> drop_lowest([5, 1, 4, 1, 9, 2], n_free=2, n_first=0, n_tail=1)
    [0, 2, 4, 5]
    >>> thin_rungs([5, 1, 4, 1, 9, 2], n_free=2, n_first=1, n_tail=1, n_src=2, n_dst=1)
    ([0, 2, 4, 5], 3, 0)
"""

from __future__ import annotations


class Full(Exception):
    """There is not that much that may go."""


def rows_of(scores: list[list[list[float]]], heads: str) -> list[list[list[float]]]:
    """[layer][row][cell]: each head's own scores, or one row with their mean (for scores that add up exactly)."""
    if heads == "each":
        return scores
    return [[[sum(cell) / len(cell) for cell in zip(*layer, strict=True)]] for layer in scores]


def n_tail_of(n_recent: int | None, n_cells: int) -> int:
    """Newest cells that never go."""
    if n_recent is None:
        n_recent = n_cells // 2
    return n_recent if n_recent > 0 else 1


def drop_lowest(scores: list[float], *, n_free: int, n_first: int, n_tail: int) -> list[int]:
    """Take the lowest cell away, `n_free` times; of equal ones the oldest. Cells kept, ascending. Raises Full."""
    kept = list(range(len(scores)))
    for _ in range(n_free):
        choices = [cell for cell in kept if n_first <= cell < len(scores) - n_tail]
        if not choices:
            raise Full
        worst = choices[0]
        for cell in choices:
            if scores[cell] < scores[worst]:
                worst = cell
        kept.remove(worst)
    return kept


def pooled(scores: list[float], n_tail: int, width: int) -> list[float]:
    """Every score before the last `n_tail` becomes the highest among its neighbours there, `width` wide with itself."""
    n, half = len(scores) - n_tail, width // 2
    return [max(scores[max(0, i - half) : min(n, i + half + 1)]) for i in range(n)] + scores[n:]


def added_ranks(rows: list[tuple[float, list[float]]], fade: float, ages: list[float]) -> list[float]:
    """For every cell its weighted ranks, added up: (weight, scores) of one row, and `fade` times what `ages` says of
    it, a negative number.

    >>> added_ranks([(1, [7, 7, 3]), (2, [0, 5, 9])], fade=0.25, ages=[-8, -1, 0])
    [-1.0, 3.75, 4.0]
    """
    totals = [fade * age for age in ages]
    for weight, scores in rows:
        for cell, score in enumerate(scores):
            rank = sum(other < score for other in scores) + sum(other == score for other in scores[:cell])
            totals[cell] += weight * rank
    return totals


def thin_rungs(
    scores: list[float],
    *,
    n_free: int,
    n_first: int,
    n_tail: int,
    n_src: int,
    n_dst: int,
    cursor: int = 0,
    sweep: int = 0,
) -> tuple[list[int], int, int]:
    """Thin rung after rung until `n_free` cells are free: (cells kept, cursor, sweep). Raises Full."""
    kept = list(range(len(scores)))
    cursor = max(cursor, n_first)
    while len(scores) - len(kept) < n_free:
        if cursor + n_src > len(kept) - n_tail:
            if n_first + n_src > len(kept) - n_tail:
                raise Full
            cursor, sweep = n_first, sweep + 1
        rung = kept[cursor : cursor + n_src]
        while len(rung) > n_dst:
            worst = min(rung, key=lambda cell: (scores[cell], cell))
            rung.remove(worst)
        kept = kept[:cursor] + rung + kept[cursor + n_src :]
        cursor += n_dst
    return kept, cursor, sweep
