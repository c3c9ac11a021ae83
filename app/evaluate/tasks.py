"""Tests of memory: a long text with something to remember in it, and a question behind it.

What it is: `TASKS`, functions that make a `Puzzle` from a seed, a depth and a number of fillers. `passkey` is the test
of the LaCache paper (arXiv 2507.14204, section 4: a number of five digits in repeated filler); the others are made in
the manner of RULER (arXiv 2404.06654, section 3): one of several keys, all values of a key, variables that pass a value
on, the commonest words of a list. The wording is ours.
What it does not know: tokens, models, how answers are had.

    puzzle = TASKS["passkey"].make(random.Random(0), depth=0.5, n_units=40)
    puzzle.score("The pass key is 48213.")      # 1.0 or 0.0
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lacache_app.evaluate.words import ADJECTIVES, FILLER, NOUNS, REPEATED

N_KEYS = 4
"""Keys of `multikey`, values of `multivalue`, hops of `variables`: enough to be hard, few enough for short texts."""
N_COMMON = 5
_TIMES_COMMON = 10  # a common word is there so many times as often as another one
_N_OTHER = 100


@dataclass(frozen=True)
class Puzzle:
    """An instruction that stands first, the text, the question behind it, how the answer begins, what it must say."""

    instruction: str
    document: str
    question: str
    opening: str
    answers: tuple[str, ...]

    def score(self, answer: str) -> float:
        """Share of the answers that the text names, as whole words or numbers: 0 .. 1."""
        found = [re.search(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.IGNORECASE) for word in self.answers]
        return sum(match is not None for match in found) / len(self.answers)


@dataclass(frozen=True)
class Task:
    """A kind of puzzle; `has_depth` tells whether what is asked for stands at one place of the text."""

    name: str
    make: Callable[[random.Random, float, int], Puzzle]
    has_depth: bool


def passkey(rng: random.Random, depth: float, n_units: int) -> Puzzle:
    """One number in filler that repeats."""
    key = str(rng.randrange(10_000, 100_000))
    needle = f"The pass key is {key}. Keep {key} in mind, for it is the pass key."
    return Puzzle(
        "In the text below a pass key is hidden among sentences that do not matter. Find it and remember it. "
        "You will be asked for the pass key.",
        _hide([REPEATED] * n_units, [(depth, needle)]),
        "What is the pass key?",
        "The pass key is",
        (key,),
    )


def multikey(rng: random.Random, depth: float, n_units: int) -> Puzzle:
    """Several owners, each with a number; one is asked for."""
    owners, codes = _owners(rng, N_KEYS), _numbers(rng, N_KEYS)
    depths = [depth, *(rng.random() for _ in owners[1:])]
    needles = [f"The door code of the {owner} is {code}." for owner, code in zip(owners, codes, strict=True)]
    return Puzzle(
        "The text below mentions door codes among other things. Remember all of them. You will be asked for one.",
        _hide(_filler(rng, n_units), list(zip(depths, needles, strict=True))),
        f"What is the door code of the {owners[0]}?",
        f"The door code of the {owners[0]} is",
        (codes[0],),
    )


def multivalue(rng: random.Random, depth: float, n_units: int) -> Puzzle:
    """One owner with several numbers at places of their own; all are asked for."""
    owner, codes = _owners(rng, 1)[0], _numbers(rng, N_KEYS)
    needles = [(rng.random(), f"One of the door codes of the {owner} is {code}.") for code in codes]
    return Puzzle(
        "The text below mentions several door codes among other things. Remember all of them.",
        _hide(_filler(rng, n_units), needles),
        f"What are all the {len(codes)} door codes of the {owner}?",
        f"The door codes of the {owner} are",
        codes,
    )


def variables(rng: random.Random, depth: float, n_units: int) -> Puzzle:
    """A number that variables pass on to each other, in the order of the text."""
    value = _numbers(rng, 1)[0]
    names = ["".join(letters) for letters in _distinct(lambda: rng.choices("BCDFGHJKLMNPQRSTVWXZ", k=3), N_KEYS)]
    needles = [
        f"Let {names[0]} be {value}.",
        *(f"Let {b} be equal to {a}." for a, b in pairwise(names)),
    ]
    depths = sorted(rng.random() for _ in needles)
    return Puzzle(
        "The text below gives values to variables among other things. Follow which variable has which value.",
        _hide(_filler(rng, n_units), list(zip(depths, needles, strict=True))),
        f"Which {len(names)} variables have the value {value}?",
        f"The variables with the value {value} are",
        tuple(names),
    )


def words(rng: random.Random, depth: float, n_units: int) -> Puzzle:
    """A list in which a few words are ten times as common as the others; `n_units` rounds of 16 words or so."""
    n_words = 16 * n_units
    pool = rng.sample(NOUNS, N_COMMON + _N_OTHER)
    common, others = pool[:N_COMMON], pool[N_COMMON:]
    n_each = -(-n_words // (_N_OTHER + _TIMES_COMMON * N_COMMON))
    n_other = max(0, n_words // n_each - _TIMES_COMMON * N_COMMON)
    listed = n_each * (_TIMES_COMMON * common + others[:n_other])
    rng.shuffle(listed)
    return Puzzle(
        f"Below is a list of words. {N_COMMON} of them occur far more often than the others. Remember those.",
        ", ".join(listed) + ".",
        f"What are the {N_COMMON} most common words of the list?",
        f"The {N_COMMON} most common words of the list are",
        tuple(common),
    )


TASKS = {
    task.name: task
    for task in (
        Task("passkey", passkey, True),
        Task("multikey", multikey, True),
        Task("multivalue", multivalue, False),
        Task("variables", variables, False),
        Task("words", words, False),
    )
}
NEEDLES = ("multikey", "multivalue", "variables", "words")


def _hide(units: Sequence[str], needles: Sequence[tuple[float, str]]) -> str:
    """The units with every needle between two of them, at its depth 0 .. 1; ties keep their order."""
    parts = [(float(i), 0, unit) for i, unit in enumerate(units)]
    parts += [(round(depth * len(units)) - 0.5, 1, needle) for depth, needle in needles]
    return " ".join(text for _place, _kind, text in sorted(parts, key=lambda part: part[:2]))


def _filler(rng: random.Random, n_units: int) -> list[str]:
    """Sentences in an order that does not repeat."""
    return [rng.choice(FILLER) for _ in range(n_units)]


def _numbers(rng: random.Random, n: int) -> tuple[str, ...]:
    return tuple(_distinct(lambda: str(rng.randrange(10_000, 100_000)), n))


def _owners(rng: random.Random, n: int) -> list[str]:
    return [f"{a} {b}" for a, b in zip(rng.sample(ADJECTIVES, n), rng.sample(NOUNS, n), strict=True)]


def _distinct(draw: Callable[[], Sequence[str]], n: int) -> list[Sequence[str]]:
    found: list[Sequence[str]] = []
    while len(found) < n:
        if (value := draw()) not in found:
            found.append(value)
    return found
