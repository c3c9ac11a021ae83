"""A conversation whose model says what the test wants, on a memory whose every cell can be looked at.

A model of bytes and a cache of lists stand in for the real ones; session, memory, transcript and conversation are real.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from lacache_gguf import native
from lacache_gguf.conversation import Conversation
from lacache_gguf.errors import UsageError
from lacache_gguf.events import Step
from lacache_gguf.memory import Memory
from lacache_gguf.policies import Ladder
from lacache_gguf.sampling import Sampling
from lacache_gguf.session import Session

CONTROL = ("<s>", "<e>")  # begins and ends a message; token 256 and 257
BOS, END = 258, 257
N_LAYER = 4


class ByteModel:
    """Tokens are bytes, or pairs of letters where the tokenizer has the choice: so a model's own tokens may differ."""

    n_vocab = 600
    stops = ()
    bos_tokens = (BOS,)
    strips = False

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        if special:
            parts = re.split("(" + "|".join(CONTROL) + ")", text)
            return [t for p in parts for t in ([256 + CONTROL.index(p)] if p in CONTROL else self.tokenize(p))]
        data, tokens = text.encode(), []
        while data:
            is_pair = len(data) > 1 and data[:1] == b"a" and 97 <= data[1] <= 122
            tokens.append(300 + data[1] if is_pair else data[0])
            data = data[1 + is_pair :]
        return tokens

    def piece(self, token: int) -> bytes:
        return b"" if token > 500 or token == BOS else b"a" + bytes([token - 300]) if token >= 300 else bytes([token])

    def is_eog(self, token: int) -> bool:
        return token == END

    def is_plain(self, text: str) -> bool:
        return not any(control in text for control in CONTROL)

    def render(self, messages: Sequence[dict]) -> str:
        self.spans_of, prompt = [], ""
        for message in messages:
            content = message["content"].strip() if self.strips else message["content"]
            prompt += f"<s>{message['role']}\n"
            self.spans_of.append((len(prompt), len(prompt) + len(content)))
            prompt += content + "<e>\n"
        return prompt + "<s>assistant\n"

    def spans(self, messages: Sequence[dict], prompt: str) -> list:
        self.render(messages)
        return self.spans_of

    def tokenize_prompt(self, prompt: str, spans, start: int = 0) -> list[int]:
        from lacache_gguf.model import Model

        return Model.tokenize_prompt(self, prompt, spans, start)


class ListContext:
    """A cache of lists: rows[il] are the tokens that layer il holds. What it will write next is in `script`."""

    def __init__(self) -> None:
        self.ptr = self
        self.rows: list[list[int]] = [[] for _ in range(N_LAYER)]
        self.can_retract, self.status = True, 0
        self.script: list[int] = []

    def clear(self) -> None:
        self.rows = [[] for _ in range(N_LAYER)]

    def compact(self, keep: np.ndarray) -> None:
        if self.status:
            self.clear()
            raise native.NativeError("the backend failed half way", self.status)
        self.rows = [[row[i] for i in kept] for row, kept in zip(self.rows, keep, strict=True)]

    def check(self, tokens) -> np.ndarray:
        if not all(0 <= token < ByteModel.n_vocab for token in tokens):
            raise UsageError("not in the vocabulary")
        return np.asarray(tokens, dtype=np.int64)

    def decode(self, tokens, pos: int, all_logits: bool = False) -> None:
        assert all(len(row) == pos for row in self.rows)
        for row in self.rows:
            row += [int(t) for t in tokens]

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def retract(self, pos: int) -> bool:
        if self.can_retract:
            for row in self.rows:
                del row[pos:]
        return self.can_retract


class ScriptSampler:
    def __init__(self, *_: object) -> None:
        pass

    def sample(self, context: ListContext, _row) -> int:
        return context.script.pop(0) if context.script else END

    def close(self) -> None:
        pass


class Talk:
    """A conversation on a small memory, and checks that it holds what it should."""

    def __init__(self, n_ctx: int = 120) -> None:
        self.model, self.context = ByteModel(), ListContext()
        self.memory = Memory(Ladder(span=2, n_recent=40), N_LAYER, n_ctx, self.context.compact)
        self.session = Session(self.model, self.context, self.memory, n_ubatch=16)
        self.conversation = Conversation(self.model, self.session, self.memory)

    def answer(self, messages, script=(), n_events: int | None = None, **options) -> tuple[str, list]:
        """Shown text and events; `n_events` closes it behind so many."""
        self.context.script = list(script)
        run = self.conversation.answer(messages, Sampling(temperature=0), **options)
        events = []
        for event in run:
            events.append(event)
            if len(events) == n_events:
                break
        run.close()
        self.check()
        return "".join(e.text for e in events if isinstance(e, Step)), events

    def check(self) -> None:
        """Every layer's tokens are those that `held` names, and nothing is held that was not fed."""
        seen, held = self.session.seen, self.memory.held
        assert len(seen) == self.memory.n_seen
        assert self.context.rows == seen[held].tolist()

    def said(self) -> str:
        """What the memory's tokens say, control tokens included, BOS left out."""
        return self.said_bytes().decode()

    def said_bytes(self) -> bytes:
        tokens = self.session.fed.tolist()
        assert tokens[:1] in ([], [BOS])
        return b"".join(CONTROL[t - 256].encode() if t in (256, 257) else self.model.piece(t) for t in tokens)
