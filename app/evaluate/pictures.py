"""Pictures of results that were stored: what `lacache eval --plots` draws, from the lines that `--json-out` wrote.

What it is: `pictures_of`, which reads a file of results and returns PNG images; nothing is measured, nothing is kept.
What it does not know: what the pictures look like (plots.py), who shows them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lacache_app.evaluate import plots
from lacache_app.evaluate.ppl import Case
from lacache_app.evaluate.recall import Ratio, RecallCase
from lacache_app.evaluate.results import rows_of
from lacache_app.evaluate.runner import Run
from lacache_app.evaluate.texts import Text
from lacache_app.memory_spec import MemorySpec, Size, parse_size

from lacache_gguf.errors import UsageError

N_BYTES_MAX = 64 << 20
"""Of a file of results."""


@dataclass(frozen=True)
class _Stored:
    """What is left of an item, and of the memory that it was measured with."""

    id: str
    kv_bytes: int


def pictures_of(path: Path) -> dict[str, bytes]:
    """PNG images by name. Raises UsageError if the file holds nothing that can be drawn, or matplotlib is missing."""
    plots.check_matplotlib()
    if path.stat().st_size > N_BYTES_MAX:
        raise UsageError(f"{path.name} is larger than {N_BYTES_MAX >> 20} MiB; give a file of results")
    rows = rows_of(path.read_bytes(), path.name)
    images: dict[str, bytes] = {}
    with TemporaryDirectory() as folder:
        for kind, (case_of, draw) in _KINDS.items():
            here = {name: row for name, row in rows.items() if row.get("eval") == kind}
            try:
                drawn = draw(_cases(here, case_of), Run(here), Path(folder))
            except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
                raise UsageError(f"{path.name} has a result that makes no sense ({error!r:.100})") from error
            images |= {picture.stem: picture.read_bytes() for picture in drawn}
    if not images:
        raise UsageError(f"{path.name} has no result of ppl, agree, passkey or needles")
    return images


def _cases(rows: dict[str, dict[str, Any]], case_of: Callable[..., Any]) -> list[Any]:
    """A case for every row; the full cache has no size of its own and stands beside every size."""
    sizes = dict.fromkeys(_size(row) for row in rows.values() if row["memory"]["policy"]["name"] != "full")
    found = []
    for name, row in rows.items():
        policy = str(row["memory"]["policy"]["name"])
        spec, stored = MemorySpec(str(row["name"]), policy), _Stored(name, int(row["kv_bytes"]))
        for size in sizes if policy == "full" and sizes else (_size(row),):
            found.append(case_of(row, size, spec, stored))
    return found


def _size(row: dict[str, Any]) -> Size | Ratio | None:
    text = row["size"]
    if text is None:
        return None
    share = re.fullmatch(r"([0-9.]+) % of the prompt", text)
    return Ratio(float(share[1]) / 100) if share else parse_size(text)


def _text_case(row: dict[str, Any], size: Any, spec: MemorySpec, stored: Any) -> Case:
    return Case(Text(str(row["text"]["name"]), ""), size, spec, stored, stored)


def _recall_case(row: dict[str, Any], size: Any, spec: MemorySpec, stored: Any) -> RecallCase:
    return RecallCase(row["task"], int(row["length"]), size, spec, float(row["depth"] or 0), stored, stored)


_Draw = Callable[[Sequence[Any], Run, Path], list[Path]]
_KINDS: dict[str, tuple[Callable[..., Any], _Draw]] = {
    "ppl": (_text_case, plots.perplexity_plots),
    "agree": (_text_case, plots.agreement_plots),
    "recall": (_recall_case, plots.recall_plots),
}
