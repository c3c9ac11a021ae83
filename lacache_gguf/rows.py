"""Picking cells out of rows: what every table of cells needs when a plan is carried out."""

from __future__ import annotations

import numpy as np


def taken(rows: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """The `cells` int [..., n_kept] of every one of `rows` [..., n]; axes of length 1 in `cells` serve for all.

    np.take_along_axis for C-contiguous rows, in a fraction of its time.
    """
    n = rows.shape[-1]
    first = np.arange(0, rows.size, n).reshape(*rows.shape[:-1], 1)
    return rows.reshape(-1).take(first + cells)
