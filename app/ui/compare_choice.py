"""What the fields of the Compare tab say: contenders, numbers, texts; and what a budget buys each, before any runs.

What it does not know: layout, events, engines.
"""

from __future__ import annotations

import functools
import html
from typing import Any

from lacache_app.compare import LINE_UP, cells
from lacache_app.memory_spec import MemorySpec, geometry_here, memory_text, parse_memory
from lacache_app.policy_words import policy_choices, words_of

from lacache_gguf.errors import LacacheError, UsageError

MIB = (1, 1 << 20)
DEFAULT_MIB = 16
N_FIELDS = 4  # of a contender, see `contender_of`


def kinds() -> list[tuple[str, str]]:
    """What a contender can be: every policy by its name, the published ladder too, and nobody."""
    names = [(words_of(name).title, name) for _text, name in policy_choices()]
    others = [(parse_memory(text).label, text) for text in LINE_UP if all(text != name for _title, name in names)]
    return [*names, *others, ("none", "")]


def contenders_of(values: tuple[Any, ...]) -> list[MemorySpec]:
    """The contenders of the rows, those without a memory left out. Raises UsageError."""
    return [contender_of(*row) for row in grouped(values) if row[0]]


def contender_of(kind: Any, kv: Any, span: Any, overlap: Any) -> MemorySpec:
    """One row: a memory, "q8_0/q4_0", and two numbers or None that only a ladder has. Raises UsageError."""
    ladder = {"span": span, "overlap": overlap} if is_ladder(kind) else {}
    numbers = {name: whole(value, name, 0, 10**6) for name, value in ladder.items() if value is not None}
    spec = parse_memory(str(kind))
    type_k, _, type_v = str(kv).partition("/")
    return parse_memory(memory_text(spec.policy, {**dict(spec.settings), **numbers}), type_k, type_v)


def is_ladder(kind: Any) -> bool:
    """Whether it has the ladder's fields."""
    return str(kind).partition(":")[0] == "ladder"


def whole(value: Any, name: str, low: int, high: int) -> int:
    """A whole number in a range. Raises UsageError."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if not is_number or not low <= value <= high or value != int(value):
        raise UsageError(f"{name} is {str(value)[:40]!r}; give a whole number from {low:,} to {high:,}")
    return int(value)


def read_text(document: str, file: str | None) -> str:
    """The file's text if there is one, else what was pasted. Raises DocumentError."""
    if not file:
        return str(document or "")
    from lacache_app.documents import read_document

    return read_document(file).text


def grouped(values: Any) -> list[tuple[Any, ...]]:
    """The values of all rows, row by row."""
    return [tuple(values[i : i + N_FIELDS]) for i in range(0, len(values), N_FIELDS)]


def sizes(model: str, mib: int, rows: list[tuple[Any, ...]]) -> str:
    """What the budget buys each memory, at once and without loading anything, as HTML."""
    words = []
    for number, row in enumerate(rows, 1):
        if not row[0]:
            continue
        try:
            contender = contender_of(*row)
            _, n_cells = cells(_model_path(model), contender, mib << 20)
            words.append(f"{number}. {words_of(contender.policy).title}: {n_cells:,} cells")
        except LacacheError as error:
            words.append(f"{number}. {error}")
    return remark("   ".join(words))


def largest_mib(model: str) -> int:
    """A memory that holds the model's whole trained context in 16 bits: more would not be used."""
    try:
        geometry = geometry_here(_model_path(model))
    except LacacheError:
        return 1024
    return min(MIB[1], max(DEFAULT_MIB, -(-geometry.bytes(geometry.n_ctx_train or 8192) // 2**20)))


@functools.lru_cache(maxsize=8)
def _model_path(model: str) -> Any:
    from lacache_gguf.catalog import resolve

    return resolve(model, allow_download=False).path


def remark(text: str) -> str:
    """A line below the memories, as HTML."""
    return f'<p class="cmp-sizes">{html.escape(text)}</p>'
