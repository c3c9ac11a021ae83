"""The ladder with lists and loops: slow, obvious, and written without looking at the fast one.

Source of the rules: the LaCache paper (arXiv 2507.14204, section 3) and the behaviour of its published code.
It does not know numpy, `View` or `Plan`; every layer is a plain list of cell numbers that is thinned rung by rung.

    >>> evict(n_layer=4, n_cells=8, n_free=2, span=2, overlap=0, n_sink=1, n_recent=2)[0][:2]
    [[0, 1, 3, 5, 6, 7], [0, 2, 4, 5, 6, 7]]
"""

from __future__ import annotations


class Full(Exception):
    """No whole rung is left between the sinks and the recent cells."""


def rung_size(n_layer: int, span: int, overlap: int) -> tuple[int, int]:
    """(cells that enter one rung, cells of it that each layer keeps), by building the stairs step by step.

    Step j holds one cell and covers the `span` layers from j * (span - overlap) on; the stairs end with the first step
    that reaches the last layer. A layer keeps as many cells as there are steps that start within one span.
    """
    stride = span - overlap
    n_src, first_layer = 1, 0
    while first_layer + span < n_layer:
        first_layer += stride
        n_src += 1
    n_dst, layer = 0, 0
    while layer < span and n_dst < n_src:
        layer += stride
        n_dst += 1
    return n_src, n_dst


def rung_offset(il: int, n_layer: int, n_choices: int, layers: str, sweep: int) -> int:
    """The first offset that layer `il` keeps inside a rung; `n_choices` offsets are possible."""
    if layers == "interleaved":
        while il >= n_choices:
            il -= n_choices
        return il
    if layers == "contiguous":
        group = 0
        while (group + 1) * n_layer <= il * n_choices:
            group += 1
        return group
    assert layers == "digit"
    n_digits, reach = 1, n_choices
    while reach < n_layer:
        n_digits, reach = n_digits + 1, reach * n_choices
    digits = []
    for _ in range(n_digits):
        digits.append(il % n_choices)
        il = il // n_choices
    while sweep >= n_digits:
        sweep -= n_digits
    return digits[sweep]


def evict(
    *,
    n_layer: int,
    n_cells: int,
    n_free: int,
    span: int,
    overlap: int = 0,
    n_sink: int = 4,
    n_recent: int | None = None,
    layers: str = "interleaved",
    n_pinned: int = 0,
    cursor: int = 0,
    sweep: int = 0,
) -> tuple[list[list[int]], int, int]:
    """Thin rung after rung until `n_free` cells are free: (cells kept by each layer, cursor, sweep). Raises Full."""
    n_src, n_dst = rung_size(n_layer, span, overlap)
    if n_dst >= n_src:
        raise ValueError("this ladder frees nothing")
    first = max(n_sink, n_pinned)
    n_tail = n_layer if n_recent is None else n_recent
    if n_tail == 0:
        n_tail = 1
    kept = [list(range(n_cells)) for _ in range(n_layer)]
    cursor = max(cursor, first)
    while n_cells - len(kept[0]) < n_free:
        if cursor + n_src > len(kept[0]) - n_tail:
            if first + n_src > len(kept[0]) - n_tail:
                raise Full
            cursor, sweep = first, sweep + 1
        for il in range(n_layer):
            offset = rung_offset(il, n_layer, n_src - n_dst + 1, layers, sweep)
            rung = kept[il][cursor : cursor + n_src]
            survivors = [rung[offset + j] for j in range(n_dst)]
            kept[il] = kept[il][:cursor] + survivors + kept[il][cursor + n_src :]
        cursor += n_dst
    return kept, cursor, sweep
