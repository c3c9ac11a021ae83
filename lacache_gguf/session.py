"""The one sequence of an engine: what was fed, in order, and the loops that read and write through a bounded memory.

Knows tokens, not messages or files. Its generators may be closed anywhere; between two events everything is consistent,
so it can be saved there. One that was left behind by a newer one, by `reset` or `restore` refuses to go on.

    session = Session(model, context, memory, n_ubatch=512)
    for progress in session.read(tokens): ...
    for step in session.write(Sampling(temperature=0), max_tokens=10): ...
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lacache_gguf import native
from lacache_gguf.context import Context
from lacache_gguf.errors import UsageError
from lacache_gguf.events import Progress, Step
from lacache_gguf.history import History
from lacache_gguf.memory import Memory
from lacache_gguf.model import Model
from lacache_gguf.sampling import Sampler, Sampling, log_softmax, nll
from lacache_gguf.stream import TextStream
from lacache_gguf.surprise import losses_from, losses_of, n_frequent


class Session:
    """Feeds `context` through `memory`; counts tokens and seconds."""

    def __init__(self, model: Model, context: Context, memory: Memory, n_ubatch: int) -> None:
        self._model, self._context, self._memory, self._n_ubatch = model, context, memory, n_ubatch
        self._history = History(has_losses=memory.wants("surprise"))
        self.reset()

    def reset(self) -> None:
        """Forget everything and start the counters anew."""
        self._context.clear()
        self._memory.reset()
        self._history.clear()
        self.pending: list[int] = []  # sampled, not yet fed
        self._has_logits = False
        self._restored_row: np.ndarray | None = None  # float32 [n_vocab]: logits that came from a checkpoint
        self.seconds = {"read": 0.0, "decode": 0.0, "sample": 0.0}
        self.n_read = self.n_decoded = 0
        self.finish_reason: str | None = None
        self._run = object()

    @property
    def seen(self) -> np.ndarray:
        """Every token fed and not taken back, in order: int32 [n_seen], read-only, valid until the next step."""
        return self._history.tokens

    @property
    def fed(self) -> np.ndarray:
        """`seen` and what is sampled but not yet fed: int32 [n], a copy."""
        return np.concatenate([self.seen, np.asarray(self.pending, dtype=np.int32)])

    # ---- cells come and go -----------------------------------------------------------------------------------------

    def feed(self, chunk: Sequence[int], n_block: int | None = None, all_logits: bool = False) -> None:
        """Make room, decode, count: the only place where cells come. Nothing has changed if a token is refused, or if
        room cannot be made."""
        chunk = self._context.check(chunk)
        losses = np.empty(len(chunk), dtype=np.float32) if self._history.has_losses else None
        if losses is not None:
            losses[0] = losses_of(self._row()[None], chunk[:1])[0] if self._has_logits else self._usual_loss()
        if not self._memory.has_room(len(chunk)):
            self._context.synchronize()  # else the time of the last decode would count as that of the compaction
        try:
            self._memory.make_room(len(chunk), n_block)
        except native.NativeError as error:
            if error.status == native.ERR_COMPUTE:  # the cells are gone
                self.reset()
            raise
        self._has_logits = False
        self._context.decode(chunk, self._memory.pos_next, all_logits or losses is not None)
        if losses is not None and len(chunk) > 1:
            losses[1:] = self._losses(chunk)
        self._history.append(chunk, losses)
        self._memory.advance(len(chunk))
        self._has_logits, self._restored_row = True, None

    def _losses(self, chunk: np.ndarray) -> np.ndarray:
        """Of all but the first token of the chunk that was just decoded: float32 [n - 1]."""
        if n_vocab := self._context.n_vocab:
            return losses_from(self._context.totals(len(chunk) - 1), chunk[1:], n_vocab)
        return losses_of(self._context.logits(len(chunk))[:-1], chunk[1:])

    def _usual_loss(self) -> float:
        """For a token that nothing foretold: the first one, or one behind text that was taken back."""
        losses = self._history.losses
        return float(losses.mean(dtype=np.float32)) if len(losses) else 0.0

    def surprise(self) -> np.ndarray:
        """How unlikely the token of every cell was when it came, in nats: float32 [n_layer, n_head_kv, n_cells]."""
        memory = self._memory
        losses = self._history.losses[memory.held].astype(np.float32)
        return np.broadcast_to(
            losses.reshape(memory.n_layer, memory.n_head, -1), (memory.n_layer, memory.n_head_kv, memory.n_cells)
        )

    def keep(self, n_tokens: int) -> bool:
        """Take back all but the first `n_tokens` of `fed`, the cells included; False, with nothing changed, if the
        memory cannot: some layer no longer holds the newest ones side by side, or the model keeps a running state."""
        n_seen = self._memory.n_seen
        n_back = n_seen - n_tokens
        if n_back > 0:
            if n_back > self._memory.n_retractable:
                return False
            votes = self._memory.votes()
            if not self._context.retract(self._memory.pos_next - n_back):
                return False
            self._memory.retract(n_back, votes)
            self._history.cut(n_tokens)
            self._has_logits = False
        del self.pending[max(0, n_tokens - n_seen) :]
        return True

    # ---- reading ---------------------------------------------------------------------------------------------------

    def read(self, tokens: Sequence[int], n_pinned: int | None = None, n_before: int = 0) -> Iterator[Progress]:
        """Feed what is pending and `tokens`, one ubatch per event; closing the generator stops behind a whole one.

        n_pinned: the first tokens of the memory that are never thinned, None = as before; not once some were thinned.
        n_before: tokens that the events shall count as done already.
        """
        memory = self._memory
        if n_pinned is not None:
            if memory.n_evicted:
                raise UsageError("the memory was thinned already; n_pinned counts from the first token: reset() before")
            memory.pin(n_pinned)
        run = self._begin()
        if self._history.has_losses:
            self._context.set_n_vocab(n_frequent(self._model.n_vocab))
        tokens = np.asarray([*self.pending, *tokens], dtype=np.int64)
        n_chunk = memory.n_read(self._n_ubatch)
        seconds = 0.0
        for first in range(0, len(tokens), n_chunk):
            chunk = tokens[first : first + n_chunk]
            start = time.perf_counter()
            self.feed(chunk)
            del self.pending[: len(chunk)]
            spent = time.perf_counter() - start
            seconds += spent
            self.seconds["read"] += spent
            self.n_read += len(chunk)
            n_done, n_total = n_before + first + len(chunk), n_before + len(tokens)
            yield Progress(n_done, n_total, memory.n_cells, memory.n_ctx, memory.n_compactions, seconds, n_before)
            self._check(run)

    # ---- writing ---------------------------------------------------------------------------------------------------

    @property
    def can_write(self) -> bool:
        """True if there is something to continue: what the next token may be is known, or one pending token away."""
        return self._has_logits or bool(self.pending)

    def write(
        self, sampling: Sampling, max_tokens: int | None = None, stop: Sequence[str] = (), n_logprobs: int = 0
    ) -> Iterator[Step]:
        """Sample until an end token, a stop string or `max_tokens` (None = no limit); a Step per token."""
        if not self.can_write:
            raise UsageError("there is nothing to continue: give at least one token")
        run = self._begin()
        sampler = Sampler(sampling, self._model.n_vocab)
        stream = TextStream([*stop, *self._model.stops])
        try:
            n = 0
            while max_tokens is None or n < max_tokens:
                if self.pending:
                    start = time.perf_counter()
                    self.feed(self.pending)
                    self.pending = []
                    self.seconds["decode"] += time.perf_counter() - start
                start = time.perf_counter()
                token = sampler.sample(self._context.ptr, self._restored_row)
                n += 1
                self.n_decoded += 1
                is_end = self._model.is_eog(token)
                text = "" if is_end else stream.push(self._model.piece(token))
                chosen, top = self._logprobs(token, n_logprobs)
                self.seconds["sample"] += time.perf_counter() - start
                if not is_end:
                    self.pending = [token]
                if is_end or stream.stopped:
                    self.finish_reason = "stop"
                elif n == max_tokens:
                    self.finish_reason = "length"
                if self.finish_reason:
                    text += stream.flush()
                yield Step(token, text, chosen, top, self.finish_reason)
                if self.finish_reason:
                    return
                self._check(run)
            self.finish_reason = "length"
        finally:
            sampler.close()

    def _logprobs(self, token: int, n_top: int) -> tuple[float | None, list[tuple[int, float]] | None]:
        if n_top <= 0:
            return None, None
        row = log_softmax(self._row())
        best = np.argsort(row)[: -n_top - 1 : -1]
        return float(row[token]), [(int(i), float(row[i])) for i in best]

    def _row(self) -> np.ndarray:
        """Logits of the last token fed: float32 [n_vocab]."""
        return self._context.logits()[0] if self._restored_row is None else self._restored_row

    # ---- measuring -------------------------------------------------------------------------------------------------

    def logits(self, tokens: np.ndarray, n_ubatch: int) -> Iterator[np.ndarray]:
        """Logits float32 [<= n_ubatch, n_vocab] of every ubatch of `tokens`; see Engine.logits."""
        run = self._begin()
        self._context.set_n_vocab(0)
        for first in range(0, len(tokens), n_ubatch):
            chunk = tokens[first : first + n_ubatch]
            start = time.perf_counter()
            self.feed(chunk, n_block=1, all_logits=True)
            logits = self._context.logits(len(chunk))
            self.seconds["read"] += time.perf_counter() - start
            self.n_read += len(chunk)
            yield logits
            self._check(run)

    def nll(self, tokens: np.ndarray, n_ubatch: int) -> np.ndarray:
        """Losses in nats, float32 [len(tokens) - 1], of tokens that are fed `n_ubatch` at a time; see Engine.nll."""
        result, n = np.empty(len(tokens) - 1, dtype=np.float32), 0
        for logits in self.logits(tokens[:-1], n_ubatch):
            result[n : n + len(logits)] = nll(logits, tokens[n + 1 : n + 1 + len(logits)])
            n += len(logits)
        return result

    # ---- one at a time ---------------------------------------------------------------------------------------------

    def _begin(self) -> object:
        self.finish_reason = None
        self._run = object()
        return self._run

    @property
    def current(self) -> object:
        """What is under way: another object once anything else begins, `reset` and `restore` included."""
        return self._run

    def _check(self, run: object) -> None:
        if self._run is not run:
            raise UsageError("this generation was left behind: the engine was reset, loaded or used for another one")

    # ---- to and from a file ----------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(plain values, arrays) that `restore` needs; the KV cells as uint8 [n_bytes], a copy."""
        counters, memory = self._memory.state()
        values = {
            "memory": counters,
            "seconds": self.seconds,
            "n_read": self.n_read,
            "n_decoded": self.n_decoded,
            "finish_reason": self.finish_reason,
        }
        arrays = {
            **memory,
            "seen": self.seen,
            **({"losses": self._history.losses} if self._history.has_losses else {}),
            "pending": np.asarray(self.pending, dtype=np.int32),
            "logits": np.array(self._row() if self._has_logits else [], dtype=np.float32),
            "cells": self._context.state() if len(self.seen) else np.empty(0, dtype=np.uint8),
        }
        return values, arrays

    def restore(self, values: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Set what `state` gave. Raises ValueError, changing nothing, if it cannot be a state of this session."""
        seen, pending, logits = arrays["seen"], arrays["pending"], arrays["logits"]
        tokens = np.concatenate([seen, pending])
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < self._model.n_vocab:
            raise ValueError("tokens outside the vocabulary")
        if len(seen) != values["memory"]["n_seen"] or len(logits) not in (0, self._model.n_vocab):
            raise ValueError(f"{len(seen)} tokens and {len(logits)} logits do not fit the counters and the vocabulary")
        seconds = {name: float(values["seconds"][name]) for name in self.seconds}
        n_read, n_decoded = int(values["n_read"]), int(values["n_decoded"])
        saved, finish_reason = arrays["cells"], values["finish_reason"]
        before = self._memory.state()
        cells = self._context.state() if len(self.seen) else np.empty(0, dtype=np.uint8)
        history = History(self._history.has_losses)
        history.replace(seen, arrays.get("losses", np.empty(0, dtype=np.float16)))
        self._memory.restore(values["memory"], arrays)
        try:
            self._context.restore(saved, self._memory.n_cells)
        except ValueError:
            self._memory.restore(*before)
            self._context.restore(cells, self._memory.n_cells)
            raise
        self._history, self.pending = history, [int(token) for token in pending]
        self._has_logits, self._restored_row = len(logits) > 0, logits.copy() if len(logits) else None
        self.seconds, self.n_read, self.n_decoded = seconds, n_read, n_decoded
        self.finish_reason = finish_reason
        self._run = object()
