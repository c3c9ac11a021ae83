"""One question under several memories of equal size: who still knows the answer, how fast, and what was thinned.

What it is: `cells` (what a budget buys a memory), `compare`, which opens an engine for each in turn, lets it read and
answer, and yields what happens, and `word_diff`. Equal size means the same number of bytes, so smaller KV types get
more cells.
What it does not know: gradio, terminals, who else runs an engine. At most one engine of its own is open at any time;
closing the iterator stops it and frees that one.

    question = Question("Who is the murderer?", document=text)
    for event in compare(question, [parse_memory(text) for text in LINE_UP], budget_bytes=8 << 20, ...):
        ...                                     # Event(index, Started | Progress | Step | Outcome)
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lacache_app.memory_spec import DEFAULT, MemorySpec, Size, geometry_and_cells
from lacache_app.policy_words import words_of

from lacache_gguf.errors import LacacheError, MemoryFull, OutOfMemory, UsageError
from lacache_gguf.kv_budget import CELL_STEP, round_up

if TYPE_CHECKING:
    from pathlib import Path

    from lacache_gguf.engine import Engine
    from lacache_gguf.events import Progress, Step
    from lacache_gguf.kv_budget import KvGeometry
    from lacache_gguf.policies import Policy

N_MAX = 4
"""Most contenders of one comparison."""
LINE_UP = ("full", "sink_window", "ladder:recent=none", "default")
"""Who is compared when nobody says: everything if it fits, the newest only, the published ladder, and our choice."""
SAMPLING = {"temperature": 0.0, "repeat_penalty": 1.1, "seed": 0}
"""The likeliest token each time: a difference between two answers is then a difference between two memories."""


@dataclass(frozen=True)
class Question:
    """What every contender gets: a prompt, a text to read before it ("" = none), and how to answer."""

    prompt: str
    document: str = ""
    max_tokens: int = 128
    sampling: dict[str, Any] = field(default_factory=lambda: dict(SAMPLING))

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise UsageError("the prompt is empty; write a question")
        if self.max_tokens < 1:
            raise UsageError(f"max_tokens is {self.max_tokens}; it must be at least 1")

    def messages(self) -> list[dict[str, str]]:
        """One user message; with a document the prompt stands before and behind it."""
        content = f"{self.prompt}\n\n{self.document}\n\n{self.prompt}" if self.document.strip() else self.prompt
        return [{"role": "user", "content": content}]

    @property
    def pinned(self) -> str:
        """The part of the message that is never thinned."""
        return self.prompt if self.document.strip() else ""


@dataclass(frozen=True)
class Started:
    """This contender's turn begins; its engine is being opened."""


@dataclass(frozen=True)
class Outcome:
    """What became of a contender. Refused: `refused` says why and the rest is empty. Seconds are wall time.

    seconds_first   from the question to the first token of the answer, reading included
    n_evicted       tokens of which every layer dropped the cell, or some layers did: n_seen - n_cells
    """

    contender: MemorySpec
    policy: str = ""  # whose it was; it tells what the default was
    text: str = ""
    refused: str = ""
    finish_reason: str | None = None  # None | "stop" | "length" | "memory full"
    n_ctx: int = 0
    n_cells_peak: int = 0
    kv_bytes: int = 0
    n_seen: int = 0
    n_evicted: int = 0
    n_compactions: int = 0
    n_written: int = 0
    seconds_open: float = 0.0
    seconds_read: float = 0.0
    seconds_first: float = 0.0
    read_tps: float = 0.0
    decode_tps: float = 0.0

    @property
    def label(self) -> str:
        """Name for people: "Ladder, span 8", "Best choice (Salience)"."""
        is_default = self.policy and self.contender.policy == DEFAULT
        return self.contender.label + (f" ({words_of(self.policy).title})" if is_default else "")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, seconds and speeds rounded."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "contender"}
        rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in values.items()}
        return {"memory": self.label, **rounded}


@dataclass(frozen=True)
class Event:
    """Something that happened to contender number `index`."""

    index: int
    event: Started | Progress | Step | Outcome


def cells(path: Path, contender: MemorySpec, budget_bytes: int, n_ubatch: int = 512) -> tuple[KvGeometry, int]:
    """(the model's attention layers, cells) of a contender whose KV memory is at most `budget_bytes`, from the header
    of the model file alone. Raises UsageError when the budget is too small."""
    size = Size(n_bytes=budget_bytes)
    return geometry_and_cells(path, size, n_ubatch, contender.type_k, contender.type_v)


def check_contenders(contenders: Sequence[MemorySpec]) -> None:
    """Raise UsageError for a wrong number of contenders, or one that asks for a size of its own."""
    if not 2 <= len(contenders) <= N_MAX:
        raise UsageError(f"{len(contenders)} memories to compare; give 2 to {N_MAX}")
    for contender in contenders:
        if contender.size is not None:
            raise UsageError(f"memory {contender.name!r}: all have the same size here; leave {contender.size.text} out")


def compare(
    question: Question,
    contenders: Sequence[MemorySpec],
    budget_bytes: int,
    *,
    settings: dict[str, Any],
    open_engine: Callable[..., Engine],
    observe: Callable[[Engine], Any] | None = None,
) -> Iterator[Event]:
    """Let the contenders answer in turn, each with a memory of at most `budget_bytes`.

    settings      keyword arguments of Engine but for budget, policy and KV types: model, n_ubatch, n_threads ...
    open_engine   opens an engine (`Engine`)
    observe       called with the contender's engine after every event

    What a contender cannot do (a full cache that is too small, settings that fit no model) becomes its Outcome, and the
    next one has its turn. Raises UsageError as `check_contenders` does.
    """
    check_contenders(contenders)
    for index, contender in enumerate(contenders):
        yield Event(index, Started())
        try:
            yield from _turn(index, question, contender, budget_bytes, settings, open_engine, observe)
        except LacacheError as error:
            yield Event(index, Outcome(contender, refused=str(error)))


def _turn(
    index: int,
    question: Question,
    contender: MemorySpec,
    budget_bytes: int,
    settings: dict[str, Any],
    open_engine: Callable[..., Engine],
    observe: Callable[[Engine], Any] | None,
) -> Iterator[Event]:
    from lacache_gguf.catalog import resolve
    from lacache_gguf.events import Step

    start = time.perf_counter()
    path = resolve(settings["model"]).path
    geometry, n_ctx = cells(path, contender, budget_bytes, settings.get("n_ubatch", 512))
    check_free_memory(budget_bytes)
    types = {"type_k": contender.type_k, "type_v": contender.type_v}
    policy = _policy(contender, path, geometry, n_ctx)
    with open_engine(**{**settings, **types, "kv_budget": None, "n_ctx": n_ctx, "policy": policy}) as engine:
        seconds_open = time.perf_counter() - start
        if contender.policy == "full":
            _check_full(engine, question, budget_bytes)
        text, reason, seconds_first, start = "", None, 0.0, time.perf_counter()
        answer = engine.answer(
            question.messages(), pinned=question.pinned, max_tokens=question.max_tokens, **question.sampling
        )
        try:
            for event in answer:
                if isinstance(event, Step):
                    seconds_first = seconds_first or time.perf_counter() - start
                    text += event.text
                    reason = event.finish_reason
                yield Event(index, event)
                if observe is not None:
                    observe(engine)
        except MemoryFull:
            if not text:
                raise
            reason = "memory full"
        stats = engine.stats
        outcome = Outcome(
            contender,
            policy=engine.policy.name,
            text=text.strip(),
            finish_reason=reason,
            n_ctx=stats.n_ctx,
            n_cells_peak=stats.n_cells_peak,
            kv_bytes=stats.kv_bytes,
            n_seen=stats.n_seen,
            n_evicted=stats.n_evicted,
            n_compactions=stats.n_compactions,
            n_written=stats.n_decoded,
            seconds_open=seconds_open,
            seconds_read=stats.seconds["read"],
            seconds_first=seconds_first,
            read_tps=stats.read_tps,
            decode_tps=stats.decode_tps,
        )
    yield Event(index, outcome)


def check_free_memory(budget_bytes: int) -> None:
    """Refuse a KV memory that this machine has not got now: the weights are shared, the cells are not.

    Raises OutOfMemory.
    """
    import psutil

    free = psutil.virtual_memory().available
    if budget_bytes > free:
        raise OutOfMemory(
            f"{_mib(budget_bytes)} of cells beside what is loaded, but only {_mib(free)} are free; lower the memory"
        )


def _check_full(engine: Engine, question: Question, budget_bytes: int) -> None:
    """Refuse a full cache that cannot even hold the question. Raises MemoryFull, with the sizes."""
    n_tokens = len(engine.tokenize(engine.render(question.messages()), special=True)) + 1
    if n_tokens <= engine.n_ctx:
        return
    stats = engine.stats
    needed = round_up(n_tokens, CELL_STEP) * stats.kv_bytes / stats.n_ctx
    if n_tokens > engine.n_ctx_train:
        remedy = f"and no budget helps, because the model was trained on {engine.n_ctx_train:,} positions"
    else:
        remedy = f"it would need {_mib(needed)}"
    raise MemoryFull(
        f"{n_tokens:,} tokens do not fit into the {engine.n_ctx:,} cells that {_mib(budget_bytes)} hold, and a full "
        f"cache forgets nothing; {remedy}"
    )


def _policy(contender: MemorySpec, path: Path, geometry: KvGeometry, n_ctx: int) -> Policy | None:
    """The policy of a contender; None = the engine's default, if none was calibrated. Raises PolicyError."""
    from lacache_app.calibrated import calibrated_policy

    if contender.policy != DEFAULT:
        return contender.make_policy(geometry, n_ctx)
    found = calibrated_policy(path, lambda: (geometry, n_ctx), contender.type_k, contender.type_v)
    return found[0] if found else None


def _mib(n_bytes: float) -> str:
    return f"{n_bytes / 2**20:,.1f} MiB"


# ---- differences -----------------------------------------------------------------------------------------------------


def word_diff(old: str, new: str) -> list[tuple[str, str]]:
    """How to get from one text to another, word by word: ("same" | "del" | "ins", text) in reading order. The texts of
    same and ins together are `new`; those of same and del are the words of `old`."""
    a, b = _words(old), _words(new)
    matcher = difflib.SequenceMatcher(None, [w.strip() for w in a], [w.strip() for w in b], autojunk=False)
    parts: list[tuple[str, str]] = []
    for kind, i0, i1, j0, j1 in matcher.get_opcodes():
        if kind == "equal":
            parts.append(("same", "".join(b[j0:j1])))
            continue
        parts += [("del", "".join(a[i0:i1]))] if i1 > i0 else []
        parts += [("ins", "".join(b[j0:j1]))] if j1 > j0 else []
    return parts


def _words(text: str) -> list[str]:
    """Words, each with the white space behind it (and before the first one)."""
    return re.findall(r"^\s+|\S+\s*", text)
