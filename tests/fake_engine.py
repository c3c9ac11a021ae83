"""A deterministic stand-in for lacache_gguf.Engine that needs nothing built; see the fixture `fake_engine`."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lacache_gguf.catalog import DEFAULT_MODEL, ResolvedModel
from lacache_gguf.errors import CheckpointMismatch, DamagedCheckpoint, MemoryFull, UsageError
from lacache_gguf.events import Progress, Stats, Step
from lacache_gguf.kv_budget import parse_budget
from lacache_gguf.memory import Memory
from lacache_gguf.policies import Need, default_policy

N_BYTES_PER_CELL = 23040  # the default model's, with f16
N_VOCAB = 259
CONTROL = ("<|start|>", "<|end|>", "<|eot|>")


class FakeEngine:
    """Engine's interface over bytes: token = byte, three control tokens, a reply that only depends on what was read.

    Its memory is the real `Memory` with cells that hold nothing, so `held`, counters and compactions are what the
    policy makes of them. Each instance remembers `settings` (its constructor's) and the last call's `messages` and
    `sampling`.
    """

    opened: ClassVar[list[FakeEngine]] = []
    reply = "A summary of {n} tokens, café included."

    def __init__(
        self, model: str = DEFAULT_MODEL, n_ctx: int | None = None, policy: Any = None, **settings: Any
    ) -> None:
        self.settings = {"model": model, "n_ctx": n_ctx, "policy": policy, **settings}
        budget = parse_budget(settings.get("kv_budget") or n_ctx or 1024)
        self.n_ctx = budget.n_cells or (budget.n_bytes or 0) // N_BYTES_PER_CELL
        self.n_ctx_train, self.n_layer = 8192, 30
        self.n_ubatch = settings.get("n_ubatch") or 512
        self.type_k, self.type_v = settings.get("type_k") or "f16", settings.get("type_v") or "f16"
        self.policy = policy or default_policy(self.n_layer, self.n_ctx)
        self.model = ResolvedModel(Path(model if Path(model).is_file() else "fake.gguf"), "fake", "MIT", "path")
        self.sampling: dict[str, Any] = {}
        self.is_closed = False
        self._memory = Memory(self.policy, self.n_layer, self.n_ctx, lambda keep: None, n_head_kv=2, score=self._lots)
        FakeEngine.opened.append(self)
        self.reset()

    def _lots(self, need: Need, first: int) -> np.ndarray:
        """Scores for the policies that want some: float32 [n_layer, 2, n_cells - first]."""
        rng = np.random.default_rng(self._memory.n_seen)
        return rng.random((self.n_layer, 2, self._memory.n_cells), dtype=np.float32)[..., first:]

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.is_closed = True

    def reset(self) -> None:
        self._memory.reset()
        self._seen: list[int] = []
        self.n_decoded = 0
        self.finish_reason: str | None = None

    # ---- text and tokens ---------------------------------------------------------------------------------------------

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        parts = re.split("(" + "|".join(map(re.escape, CONTROL)) + ")", text) if special else [text]
        return [
            t for part in parts for t in ([256 + CONTROL.index(part)] if special and part in CONTROL else part.encode())
        ]

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else CONTROL[token - 256].encode()

    def detokenize(self, tokens: Sequence[int]) -> str:
        return b"".join(self.piece(t) for t in tokens).decode("utf-8", "replace")

    def bos_tokens(self) -> list[int]:
        return [256]

    def render(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
        text = "".join(f"<|start|>{m['role']}\n{m['content']}<|end|>\n" for m in messages)
        return text + ("<|start|>assistant\n" if add_generation_prompt else "")

    @property
    def seen(self) -> np.ndarray:
        return np.asarray(self._seen, dtype=np.int32)

    @property
    def held(self) -> np.ndarray:
        return self._memory.held

    @property
    def n_pinned(self) -> int:
        return self._memory.n_pinned

    @property
    def n_cells_peak(self) -> int:
        return self._memory.n_cells_peak

    # ---- reading and writing -----------------------------------------------------------------------------------------

    def read(self, tokens: Sequence[int], n_pinned: int = 0) -> Iterator[Progress]:
        memory = self._memory
        if n_pinned > self.n_ctx:
            raise MemoryFull(f"{n_pinned} pinned tokens do not fit into {self.n_ctx} cells; raise --kv-budget")
        if n_pinned:
            memory.pin(n_pinned)
        n_chunk = memory.n_read(self.n_ubatch)
        for first in range(0, len(tokens), n_chunk):
            chunk = list(tokens[first : first + n_chunk])
            self._feed(chunk)
            n_done = first + len(chunk)
            yield Progress(n_done, len(tokens), memory.n_cells, self.n_ctx, memory.n_compactions, n_done / 1000)

    def _feed(self, chunk: list[int]) -> None:
        self._memory.make_room(len(chunk))
        self._memory.advance(len(chunk))
        self._seen += chunk

    def generate(
        self, tokens: Sequence[int] = (), *, n_pinned: int = 0, max_tokens: int | None = None, **sampling: Any
    ) -> Iterator[Progress | Step]:
        self.sampling = sampling
        yield from self.read(tokens, n_pinned)
        yield from self._write(max_tokens)

    def _write(self, max_tokens: int | None) -> Iterator[Step]:
        reply = list(self.reply.format(n=len(self._seen)).encode())
        pending = b""
        for i, token in enumerate(reply[:max_tokens]):
            self._feed([token])
            self.n_decoded += 1
            pending += bytes([token])
            text = pending.decode("utf-8", "ignore")
            pending = b"" if text else pending
            is_last = i + 1 == min(len(reply), max_tokens or len(reply))
            self.finish_reason = ("length" if i + 1 < len(reply) else "stop") if is_last else None
            yield Step(token, text, finish_reason=self.finish_reason)

    def answer(
        self,
        messages: Sequence[dict[str, str]],
        *,
        pinned: str = "",
        max_tokens: int | None = None,
        **sampling: Any,
    ) -> Iterator[Progress | Step]:
        """As the real one: goes on where the memory's tokens are the beginning of the prompt's, else starts anew."""
        self.messages, self.sampling = [dict(message) for message in messages], sampling
        prompt = self.tokenize(self.render(messages), special=True)
        n_before = len(self._seen)
        if not n_before or prompt[:n_before] != self._seen or len(prompt) == n_before:
            self.reset()
            n_before = 0
        head = self.render(messages[: messages[0]["role"] == "system"], False)
        if pinned:
            before, found, _ = self.render(messages).partition(pinned)
            assert found, "the first user message must begin with the pinned text"
            head = before + pinned
        n_pinned = 0 if n_before else len(self.tokenize(head, special=True))
        for event in self.read(prompt[n_before:], n_pinned):
            n_done, n_total = n_before + event.n_done, n_before + event.n_total
            yield replace(event, n_done=n_done, n_total=n_total, n_before=n_before)
        yield from self._write(max_tokens)

    def chat(self, messages: Sequence[dict[str, str]], *, on_progress: Any = None, **settings: Any) -> Iterator[str]:
        for event in self.answer(messages, **settings):
            if isinstance(event, Step):
                if event.text:
                    yield event.text
            elif on_progress:
                on_progress(event)

    # ---- measuring ---------------------------------------------------------------------------------------------------

    def logits(self, tokens: Sequence[int], n_ubatch: int = 1) -> Iterator[np.ndarray]:
        """As the real one; guesses "a" the more firmly the more different tokens the memory holds."""
        n_most = self.policy.n_free_max(self.n_layer, self.n_ctx) or self.n_ctx
        if not 1 <= n_ubatch <= n_most:
            raise UsageError(f"n_ubatch is {n_ubatch}; this policy and budget allow 1 to {n_most}")
        self.reset()
        for first in range(0, len(tokens), n_ubatch):
            chunk = [int(token) for token in tokens[first : first + n_ubatch]]
            self._memory.make_room(len(chunk), 1)
            self._memory.advance(len(chunk))
            self._seen += chunk
            rows = np.random.default_rng(first).normal(size=(len(chunk), N_VOCAB)).astype(np.float32)
            rows[:, ord("a")] += len(np.unique(self.held)) / 200
            yield rows

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, note: dict[str, Any] | None = None) -> None:
        counters, arrays = self._memory.state()
        content = {"fake_n_ctx": self.n_ctx, "seen": self._seen, "counters": counters, "note": note or {}}
        with open(path, "wb") as file:
            np.savez(file, allow_pickle=False, content=json.dumps(content), **arrays)

    def load(self, path: str | Path) -> dict[str, Any]:
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            content = json.loads(str(arrays.pop("content")))
            n_ctx = content["fake_n_ctx"]
        except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise DamagedCheckpoint(f"{path} is damaged: {error}") from error
        if n_ctx != self.n_ctx:
            raise CheckpointMismatch(f"{path} is of a memory of {n_ctx} cells, this one has {self.n_ctx}")
        self.reset()
        self._memory.restore(content["counters"], arrays)
        self._seen = content["seen"]
        return content["note"]

    @property
    def stats(self) -> Stats:
        memory, n_seen, per_cell = self._memory, len(self._seen), N_BYTES_PER_CELL
        return Stats(
            n_ctx=self.n_ctx,
            n_seen=n_seen,
            n_cells=memory.n_cells,
            n_cells_peak=memory.n_cells_peak,
            n_compactions=memory.n_compactions,
            n_evicted=memory.n_evicted,
            pos_next=memory.pos_next,
            kv_bytes=self.n_ctx * per_cell,
            kv_bytes_used_peak=memory.n_cells_peak * per_cell,
            kv_bytes_full=n_seen * per_cell,
            n_read=n_seen - self.n_decoded,
            n_decoded=self.n_decoded,
            finish_reason=self.finish_reason,
            seconds={"load": 0.1, "read": n_seen / 1000, "decode": 0.5, "sample": 0.1, "compact": 0.01},
        )
