"""ROUGE: how much of a reference's wording a summary shares. Plain text in, numbers out.

ROUGE-N counts shared runs of N words, ROUGE-L the longest common subsequence of the whole texts (Lin, "ROUGE: A Package
for Automatic Evaluation of Summaries", 2004, sections 2 and 3.1). Words are runs of letters and digits in lower case;
nothing is stemmed and no word is left out. `f` is the harmonic mean of precision and recall.

    rouge("the cat sat on the mat", "a cat was on the mat")["rouge1"].f      # 0.667
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Score:
    """Shares 0 .. 1: of the summary that is in the reference, of the reference that is in the summary, and of both."""

    precision: float
    recall: float

    @property
    def f(self) -> float:
        """Harmonic mean."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def rouge(reference: str, summary: str) -> dict[str, Score]:
    """rouge1, rouge2 and rougeL."""
    expected, found = words(reference), words(summary)
    scores = {f"rouge{n}": _shared(expected, found, n) for n in (1, 2)}
    n_common = n_common_subsequence(expected, found)
    return {**scores, "rougeL": _score(n_common, len(expected), len(found))}


def words(text: str) -> list[str]:
    """Words of a text, in lower case."""
    return _WORD.findall(text.lower())


def n_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest sequence of words that both have in this order."""
    number = {word: i for i, word in enumerate(dict.fromkeys((*a, *b)))}
    row, ids = np.zeros(len(b) + 1, dtype=np.int64), np.array([number[word] for word in b], dtype=np.int64)
    for word in a:
        # longest[j] = max(longest of the row above, 1 + diagonal where the words are equal), then the best so far
        better = np.maximum(row[1:], np.where(ids == number[word], row[:-1] + 1, 0))
        row = np.concatenate([row[:1], np.maximum.accumulate(better)])
    return int(row[-1])


def _shared(expected: Sequence[str], found: Sequence[str], n: int) -> Score:
    a, b = (Counter(zip(*(text[i:] for i in range(n)), strict=False)) for text in (expected, found))
    return _score((a & b).total(), a.total(), b.total())


def _score(n_common: int, n_expected: int, n_found: int) -> Score:
    return Score(n_common / n_found if n_found else 0.0, n_common / n_expected if n_expected else 0.0)
