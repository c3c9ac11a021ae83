"""Aligned text that can be piped: columns, differences, shares and intervals as words. Knows no results."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lacache_app.evaluate.stats import Interval
from lacache_app.memory_spec import Size

MISSING = "-"


def aligned(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns: the first to the left, the others to the right, under a line of headers."""
    cells = [list(headers), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    lines = []
    for row in cells:
        columns = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(columns).rstrip())
    return "\n".join(lines) + "\n"


def signed(interval: Interval, digits: int = 4) -> str:
    """A difference: "-0.0312 [-0.0451, -0.0178]"."""
    if math.isnan(interval.value):
        return MISSING
    value = f"{interval.value:+.{digits}f}"
    return value if math.isnan(interval.low) else f"{value} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"


def percent(interval: Interval) -> str:
    """A share: "53 % [48, 58]"."""
    if math.isnan(interval.value):
        return MISSING
    value = f"{100 * interval.value:.0f} %"
    return value if math.isnan(interval.low) else f"{value} [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def spread(interval: Interval, scale: float, digits: int) -> str:
    """A value with its interval: "0.0675 [0.0238, 0.0901]"."""
    value = f"{scale * interval.value:.{digits}f}"
    if math.isnan(interval.low):
        return value
    return f"{value} [{scale * interval.low:.{digits}f}, {scale * interval.high:.{digits}f}]"


def size_title(size: Size | None) -> str:
    """A common size in words."""
    if size is None:
        return "sizes of their own"
    return f"{size.n_cells:,} cells" if size.n_cells is not None else size.text
