"""Which text the tokens in the memory stand for, and so how much of the next prompt need not be read again.

Knows text and tokens; no memory, no sampling. The memory's tokens are compared with a prompt in two ways: by text where
an answer was written, because a model need not choose the tokens that its tokenizer would, and token by token behind
that, so that a read that was stopped goes on where it was. Marks remember what text the first n tokens say:

    <|user|>Hi<|end|><|assistant|>        a turn mark: a whole prompt was read
    <|user|>Hi<|end|><|assistant|>Hel     a mark behind every token of the answer that ends with a character
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lacache_gguf.model import Model
from lacache_gguf.template import Span


@dataclass(frozen=True)
class Continuation:
    """The first `n_keep` tokens of the memory stay, then `tokens` are read; marks behind `mark` are forgotten."""

    n_keep: int
    tokens: list[int]
    mark: int


class Transcript:
    """What was rendered and written, with marks that tie it to tokens."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.text = ""  # prompts and answers, as far as they were shown
        self.marks: list[tuple[int, int, bool]] = [(0, 0, True)]  # (characters, tokens that say them, is a turn mark)
        self._begin_answer()

    # ---- what happened ---------------------------------------------------------------------------------------------

    def cut(self, mark: int) -> None:
        """Forget what is behind a mark: another text is about to follow."""
        del self.marks[mark + 1 :]
        self.text = self.text[: self.marks[-1][0]]
        self._begin_answer()

    def turn(self, prompt: str, n_tokens: int) -> None:
        """`prompt` was read whole; it is what the first `n_tokens` tokens say."""
        self.text = prompt
        self.marks.append((len(prompt), n_tokens, True))
        self._begin_answer()

    def wrote(self, data: bytes, shown: str, n_tokens: int) -> None:
        """A token of the answer with these bytes is number `n_tokens` of the memory; `shown` went to the reader, who
        may get text later than its bytes or, behind a stop string, never."""
        self.text += shown
        self._n_chars += len(self._decoder.decode(data))
        if data and not self._decoder.getstate()[0]:
            self.marks.append((self._n_chars, n_tokens, False))

    def end_answer(self) -> int:
        """The answer is over; returns how many tokens say what was shown: those behind are not in the transcript."""
        while self.marks[-1][0] > len(self.text):
            self.marks.pop()
        return self.marks[-1][1]

    def _begin_answer(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._n_chars = len(self.text)

    # ---- what can stay ---------------------------------------------------------------------------------------------

    def continuations(self, prompt: str, spans: Sequence[Span] | None, fed: np.ndarray) -> Iterator[Continuation]:
        """Ways to get from the memory's tokens `fed` int32 [n] to `prompt`, best first; the last reads everything.

        The first one that the memory can take back enough tokens for is right. Seams inside a message come after
        seams where the template's text begins, because there the tokens are those of a fresh read.
        """
        last = self._last_mark(prompt, spans, len(fed))
        is_whole = self.marks[last][1] == len(fed)
        clean = last
        while not (is_whole or self.marks[clean][2] or self._is_end(self.marks[clean][0], spans)):
            clean -= 1
        for mark in dict.fromkeys((clean, last)):
            n_chars, n_tokens, _ = self.marks[mark]
            tokens = self.whole(prompt, spans) if mark == 0 else self._model.tokenize_prompt(prompt, spans, n_chars)
            n_same = n_common(tokens, fed[n_tokens:])
            yield Continuation(n_tokens + n_same, tokens[n_same:], mark)
        yield Continuation(0, self.whole(prompt, spans), 0)

    def _last_mark(self, prompt: str, spans: Sequence[Span] | None, n_fed: int) -> int:
        """Index of the last mark up to which `prompt` says the same, and where it may be cut."""
        low, high = 0, len(self.marks) - 1
        while self.marks[high][0] > len(self.text) or self.marks[high][1] > n_fed:
            high -= 1
        if not prompt.startswith(self.text[: self.marks[high][0]]):
            while low < high:  # the text up to `low` is the same, behind `high` it is not
                middle = (low + high + 1) // 2
                if prompt.startswith(self.text[: self.marks[middle][0]]):
                    low = middle
                else:
                    high = middle - 1
            high = low
        while not self.marks[high][2]:
            n_chars, n_tokens, _ = self.marks[high]
            if spans is None:
                if n_tokens == n_fed:
                    break  # it goes on behind all that was written
            elif any(first <= n_chars <= end for first, end in spans):
                break  # inside a message: no control token of the template is torn apart
            high -= 1
        return high

    def _is_end(self, n_chars: int, spans: Sequence[Span] | None) -> bool:
        return any(end == n_chars for _, end in spans or ())

    def whole(self, prompt: str, spans: Sequence[Span] | None) -> list[int]:
        """Tokens of the whole prompt, BOS in front if the model wants one and its template wrote none."""
        tokens, bos = self._model.tokenize_prompt(prompt, spans), self._model.bos_tokens
        return tokens if tokens[: len(bos)] == bos else [*bos, *tokens]

    # ---- to and from a file ----------------------------------------------------------------------------------------

    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """(text as UTF-8, uint8 [n_bytes]; marks, int64 [n_marks, 3])."""
        text = np.frombuffer(self.text.encode("utf-8", "surrogatepass"), dtype=np.uint8)
        return text, np.asarray(self.marks, dtype=np.int64)

    def restore(self, text: np.ndarray, marks: np.ndarray, n_fed: int) -> None:
        """Set what `state` gave for `n_fed` tokens. Raises ValueError, changing nothing, if it cannot be."""
        decoded = text.tobytes().decode("utf-8", "surrogatepass")
        if marks.ndim != 2 or marks.shape[1] != 3 or marks[:1].tolist() != [[0, 0, 1]]:
            raise ValueError("the marks of the transcript do not begin at 0")
        if (np.diff(marks[:, :2], axis=0) < 0).any() or marks[-1, 1] > n_fed:
            raise ValueError(f"the marks of the transcript do not fit {n_fed} tokens")
        self.text = decoded
        self.marks = [(n_chars, n_tokens, bool(is_turn)) for n_chars, n_tokens, is_turn in marks.tolist()]
        self._begin_answer()


def n_common(one: Sequence[int], other: Sequence[int] | np.ndarray) -> int:
    """Length of the common beginning."""
    n = min(len(one), len(other))
    is_same = np.asarray(one[:n]) == np.asarray(other[:n])
    return n if is_same.all() else int(np.argmin(is_same))
