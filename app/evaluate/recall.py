"""Does a memory still know what stood in a text? Puzzles of a given length, read and answered through it.

What it is: `cases`, an item for every (task, length, memory, size, depth); `n_found`, a few of them for one memory; and
the prompt that a puzzle becomes: the instruction, which is pinned, the text, the question, and the beginning of the
answer, which the model goes on with.
The text is read as the program reads one, so the memory is thinned while it is read, before the question is known.
What it does not know: tables, files.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lacache_app.evaluate.bench import Bench, Setup
from lacache_app.evaluate.runner import Item, Tick
from lacache_app.evaluate.tasks import TASKS, Puzzle, Task
from lacache_app.memory_spec import MemorySpec, Size

from lacache_gguf.errors import LacacheError, UsageError

if TYPE_CHECKING:
    from lacache_gguf.engine import Engine

_N_SPARE = 12  # tokens an answer may have beyond twice those of the right one
_N_UNITS_MAX = 1 << 16
_N_SHORTEST = 512  # tokens of a prompt that any tokenizer can put a puzzle into


@dataclass(frozen=True)
class Ratio:
    """A memory of a share of the prompt's tokens: cells for prompts of this length."""

    value: float

    @property
    def text(self) -> str:
        """ "50 % of the prompt" """
        return f"{100 * self.value:g} % of the prompt"


@dataclass(frozen=True)
class Plan:
    """What is asked: tasks, prompt lengths in tokens, depths 0 .. 1, trials at each, the first seed."""

    tasks: tuple[str, ...]
    lengths: tuple[int, ...]
    n_depths: int = 10
    n_trials: int = 2
    seed: int = 0
    is_chat: bool = False
    is_pinned: bool = True

    @property
    def depths(self) -> list[float]:
        """From the beginning to the end, in equal steps."""
        return [round(i / max(1, self.n_depths - 1), 4) for i in range(self.n_depths)]


@dataclass(frozen=True)
class RecallCase:
    """Where an item belongs in a table. `depth` counts groups of trials where a task has no depth."""

    task: str
    length: int
    size: Ratio | Size | None
    spec: MemorySpec
    depth: float
    setup: Setup | None = None
    item: Item | None = None
    refused: str = ""


def cases(
    bench: Bench, plan: Plan, sizes: Sequence[Ratio | Size], specs: Sequence[MemorySpec], n_ubatch: int
) -> list[RecallCase]:
    """All of them, length by length, so that what is stored first can be compared."""
    found = []
    for name in plan.tasks:
        for length in plan.lengths:
            for size in sizes or (None,):
                for spec in specs:
                    found += _cases(bench, plan, TASKS[name], length, size, spec, n_ubatch)
    return found


def _cases(
    bench: Bench,
    plan: Plan,
    task: Task,
    length: int,
    size: Ratio | Size | None,
    spec: MemorySpec,
    n_ubatch: int,
) -> list[RecallCase]:
    cells = Size(size.text, n_cells=max(1, round(size.value * length))) if isinstance(size, Ratio) else size
    try:
        setup = bench.setup(spec, cells, length + 128, n_ubatch)
    except LacacheError as error:
        return [RecallCase(task.name, length, size, spec, depth, refused=str(error)) for depth in plan.depths]
    found = []
    for number, depth in enumerate(plan.depths):
        seeds = [plan.seed + number * plan.n_trials + trial for trial in range(plan.n_trials)]
        identity = {
            "eval": "recall",
            "model": bench.model["sha256"],
            "task": task.name,
            "length": length,
            "depth": depth if task.has_depth else None,
            "seeds": seeds,
            "n_ubatch": n_ubatch,
            "chat": plan.is_chat,
            "pinned": plan.is_pinned,
            "memory": setup.identity,
        }
        measure = _Measure(bench, plan, task, length, depth, tuple(seeds), spec, size, setup, n_ubatch)
        title = f"{task.name} {spec.name} {setup.n_ctx:,}/{length:,}"
        item = Item(title, identity, length * plan.n_trials, measure)
        found.append(RecallCase(task.name, length, size, spec, depth, setup, item))
    return found


def n_found(bench: Bench, spec: MemorySpec, size: Size, length: int, n_prompts: int, n_ubatch: int, tick: Tick) -> int:
    """How many of `n_prompts` pass keys a memory finds, from the beginning to the end of prompts of `length` tokens.

    Raises LacacheError if the memory cannot be, Stopped from `tick`.
    """
    plan = Plan(("passkey",), (max(length, _N_SHORTEST),), n_depths=n_prompts, n_trials=1)
    found = cases(bench, plan, [size], [spec], n_ubatch)
    return sum(round(sum(case.item.measure(tick)["scores"])) for case in found if case.item and case.item.measure)


@dataclass(frozen=True)
class _Measure:
    bench: Bench
    plan: Plan
    task: Task
    length: int
    depth: float
    seeds: tuple[int, ...]
    spec: MemorySpec
    size: Ratio | Size | None
    setup: Setup
    n_ubatch: int

    def __call__(self, tick: Tick) -> dict[str, Any]:
        from lacache_gguf.events import Progress, Step

        scores, said, n_read = [], [], []
        with self.bench.open(self.setup, self.n_ubatch) as engine:
            for seed in self.seeds:
                prompt = fit(engine, self.task, seed, self.depth, self.length, self.plan.is_chat)
                n_pinned = prompt.n_pinned if self.plan.is_pinned else len(engine.bos_tokens())
                n_answer = sum(len(engine.tokenize(f" {word},")) for word in prompt.puzzle.answers)
                text, n_done = "", 0
                engine.reset()
                events = engine.generate(
                    prompt.tokens, n_pinned=n_pinned, max_tokens=2 * n_answer + _N_SPARE, temperature=0.0
                )
                for event in events:
                    if isinstance(event, Step):
                        text += event.text
                    elif isinstance(event, Progress):
                        tick(event.n_done - n_done, engine)
                        n_done = event.n_done
                scores.append(round(prompt.puzzle.score(text), 4))
                said.append(text.strip())
                n_read.append(len(prompt.tokens))
            stats = engine.stats
        return {
            "name": self.spec.name,
            "size": self.size.text if self.size else None,
            "model_name": self.bench.model["name"],
            "scores": scores,
            "answers": said,
            "n_tokens": n_read,
            "kv_bytes": self.setup.kv_bytes,
            "n_compactions_last": stats.n_compactions,
            "note": self.setup.note,
        }


@dataclass(frozen=True)
class Prompt:
    """What the model reads: tokens, the first of which are pinned, and the puzzle that they put."""

    tokens: tuple[int, ...]
    n_pinned: int
    puzzle: Puzzle


def prompt_of(engine: Engine, puzzle: Puzzle, is_chat: bool = False) -> Prompt:
    """A puzzle as tokens: plain text, or the user's message of a chat whose answer has begun."""
    content = f"{puzzle.instruction}\n\n{puzzle.document}\n\n{puzzle.question}"
    if is_chat:
        text = engine.render([{"role": "user", "content": content}]) + puzzle.opening
    else:
        text = f"{content} {puzzle.opening}"
    bos = engine.bos_tokens()

    def tokens_of(part: str) -> list[int]:
        tokens = engine.tokenize(part, special=is_chat)
        return tokens if tokens[: len(bos)] == bos else [*bos, *tokens]

    tokens = tokens_of(text)
    head = tokens_of(text[: text.index(puzzle.instruction) + len(puzzle.instruction)])
    n_pinned = next((i for i, (a, b) in enumerate(zip(tokens, head, strict=False)) if a != b), len(head))
    return Prompt(tuple(tokens), n_pinned, puzzle)


def fit(engine: Engine, task: Task, seed: int, depth: float, length: int, is_chat: bool = False) -> Prompt:
    """The longest puzzle of this seed with at most `length` tokens. Raises UsageError if none is that short."""

    def made(n_units: int) -> Prompt:
        return prompt_of(engine, task.make(random.Random(f"{task.name} {seed}"), depth, n_units), is_chat)

    low, high = 1, 2
    if len(made(low).tokens) > length:
        raise UsageError(f"{task.name} needs more than {length} tokens; give a larger --length")
    while high < _N_UNITS_MAX and len(made(high).tokens) <= length:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if len(made(middle).tokens) <= length else (low, middle)
    return made(low)
