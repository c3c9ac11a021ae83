"""The engine: text and tokens in, events out, at a KV memory that is never exceeded.

    engine = Engine(model="smollm2-135m", kv_budget="22.5MiB")
    for event in engine.generate(engine.tokenize("Once upon a time"), max_tokens=100):
        ...                                       # Progress while it reads, then one Step per token

A model reads and writes through one `Memory`: before every ubatch the memory makes room, so the length of what was seen
is unlimited. Closing a generator stops the work, also in the middle of a long read. It knows no files, no UI.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from lacache_gguf import native
from lacache_gguf.catalog import resolve
from lacache_gguf.context import Context
from lacache_gguf.conversation import Conversation
from lacache_gguf.errors import UnsupportedModel, UsageError
from lacache_gguf.events import Progress, Stats, Step
from lacache_gguf.kv_budget import KvGeometry, parse_budget
from lacache_gguf.memory import Memory
from lacache_gguf.model import Model
from lacache_gguf.policies import Full, Policy, default_policy
from lacache_gguf.sampling import Sampler, Sampling, log_softmax, nll
from lacache_gguf.stream import TextStream

_N_CTX_DEFAULT = 1024


class Engine:
    """A model with a bounded memory. One sequence; not for use from several threads at once.

    model         path of a GGUF file, catalog name, or "user/repo:QUANT" on the model hub
    n_ctx         budget in cells (tokens per layer), or
    kv_budget     the same as memory: "256MiB"; a plain number is cells. Neither: 1,024 cells
    policy        what to forget; None = `default_policy`
    n_ubatch      most tokens read at a time; small budgets read in smaller steps (`Memory.n_read`)
    type_k/v      KV types: f32 f16 bf16 q8_0 q5_1 q5_0 q4_1 q4_0 iq4_nl
    flash_attn    None = where the backend has it
    n_gpu_layers  layers offloaded to a GPU, negative = all
    n_threads     None = physical cores
    seed          of the sampler, used by every generation that names none

    Raises ModelNotFound, DamagedModel, UnsupportedModel, OutOfMemory, PolicyError, UsageError.
    """

    def __init__(
        self,
        model: str = "smollm2-135m",
        n_ctx: int | None = None,
        policy: Policy | None = None,
        *,
        kv_budget: str | int | None = None,
        n_ubatch: int = 512,
        type_k: str = "f16",
        type_v: str = "f16",
        flash_attn: bool | None = None,
        n_gpu_layers: int = -1,
        n_threads: int | None = None,
        seed: int = 0,
    ) -> None:
        start = time.perf_counter()
        if n_ubatch < 1:
            raise UsageError(f"n_ubatch is {n_ubatch}; it must be at least 1")
        self.seed = seed
        self.type_k, self.type_v = type_k, type_v
        self.model = resolve(model)
        self._model = Model(self.model.path, n_gpu_layers)
        try:
            self._geometry = KvGeometry.from_metadata(self._model.metadata)
            self.n_ctx = self._budget_cells(n_ctx, kv_budget, n_ubatch)
            self.n_ubatch = min(n_ubatch, self.n_ctx)
            self._context = Context(
                self._model,
                self.n_ctx,
                n_ubatch=self.n_ubatch,
                type_k=type_k,
                type_v=type_v,
                flash_attn=flash_attn,
                n_threads=n_threads,
            )
            try:
                self._memory = self._make_memory(policy)
            except BaseException:
                self._context.close()
                raise
        except BaseException:
            self._model.close()
            raise
        self.policy = self._memory.policy
        self.n_layer = self._memory.n_layer
        self.n_ctx_train = self._model.n_ctx_train
        self._seconds_load = time.perf_counter() - start
        self.reset()

    def _budget_cells(self, n_ctx: int | None, kv_budget: str | int | None, n_ubatch: int) -> int:
        if n_ctx is not None and kv_budget is not None:
            raise UsageError(f"n_ctx {n_ctx} and kv_budget {kv_budget} both set the budget; give one of them")
        budget = parse_budget(kv_budget if kv_budget is not None else n_ctx if n_ctx is not None else _N_CTX_DEFAULT)
        if budget.n_bytes is not None:
            return self._geometry.cells_for(budget.n_bytes, n_ubatch, self.type_k, self.type_v)
        n_train = self._model.n_ctx_train
        if n_ctx is None and kv_budget is None:
            return min(budget.n_cells, n_train)
        if budget.n_cells > n_train:
            raise UsageError(
                f"a budget of {budget.n_cells} cells exceeds the {n_train} positions this model was trained on; "
                f"lower --ctx-size/--kv-budget to {n_train} or less (the text itself may be of any length)"
            )
        return budget.n_cells

    def _make_memory(self, policy: Policy | None) -> Memory:
        context = self._context
        n_layer = native.compact_n_layer(context.ptr)
        if reason := native.compact_reason(context.ptr):
            if not isinstance(policy, Full):
                raise UnsupportedModel(
                    f"{self.model.name} cannot forget selectively: {reason}; use --policy full with a budget that "
                    "holds the whole text, or another model"
                )
            n_layer = len(self._geometry.layers)
        return Memory(policy or default_policy(n_layer, self.n_ctx), n_layer, self.n_ctx, context.compact)

    # ---- life ------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget everything that was read and start the counters anew."""
        self._context.clear()
        self._memory.reset()
        self._seen: list[int] = []
        self._pending: list[int] = []  # sampled, not yet fed
        self._has_logits = False
        self._conversation = Conversation(self._model)
        self._seconds = {"read": 0.0, "decode": 0.0, "sample": 0.0}
        self._n_read = self._n_decoded = 0
        self._finish_reason: str | None = None

    def close(self) -> None:
        """Free model and memory; safe to call twice."""
        self._context.close()
        self._model.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    # ---- text and tokens -------------------------------------------------------------------------------------------

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Tokens of `text`, no BOS; with `special`, control tokens written in it become themselves."""
        return self._model.tokenize(text, special)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Text of `tokens`."""
        return self._model.detokenize(tokens)

    def bos_tokens(self) -> list[int]:
        """What must precede a text: [BOS], or [] if the model wants none."""
        return list(self._model.bos_tokens)

    def render(self, messages: Sequence[dict], add_generation_prompt: bool = True) -> str:
        """The model's chat template applied to {"role", "content"} messages, in a sandbox."""
        return self._model.render(messages, add_generation_prompt)

    def piece(self, token: int) -> bytes:
        """Bytes of one token; a piece may end inside a character. Raises UsageError outside the vocabulary."""
        return self._model.piece(token)

    @property
    def seen(self) -> np.ndarray:
        """Every token fed, in order: int32 [n_seen], read-only."""
        return np.asarray(self._seen, dtype=np.int32)

    @property
    def held(self) -> np.ndarray:
        """Which token (counted as fed) every cell holds: int32 [n_layer, n_cells], read-only, valid until the next
        step."""
        return self._memory.held

    @property
    def stats(self) -> Stats:
        """Counters up to now."""
        memory, size = self._memory, self._geometry.bytes_per_cell(self.type_k, self.type_v)
        return Stats(
            n_ctx=self.n_ctx,
            n_seen=memory.n_seen,
            n_cells=memory.n_cells,
            n_cells_peak=memory.n_cells_peak,
            n_compactions=memory.n_compactions,
            n_evicted=memory.n_evicted,
            pos_next=memory.pos_next,
            kv_bytes=self._geometry.bytes(self.n_ctx, self.n_ubatch, self.type_k, self.type_v),
            kv_bytes_used_peak=memory.n_cells_peak * size,
            kv_bytes_full=memory.n_seen * size,
            n_read=self._n_read,
            n_decoded=self._n_decoded,
            finish_reason=self._finish_reason,
            seconds={"load": self._seconds_load, **self._seconds, "compact": memory.seconds_compact},
        )

    # ---- reading ---------------------------------------------------------------------------------------------------

    def read(self, tokens: Sequence[int], n_pinned: int = 0) -> Iterator[Progress]:
        """Feed `tokens`, one ubatch per event; closing the generator stops behind a whole ubatch.

        n_pinned: the first tokens of the memory that are never thinned; only before anything was read.
        Raises MemoryFull if the policy cannot make room, UsageError for a token outside the vocabulary.
        """
        self._conversation.transcript = None
        yield from self._read(tokens, n_pinned)

    def _read(self, tokens: Sequence[int], n_pinned: int) -> Iterator[Progress]:
        memory = self._memory
        if n_pinned:
            if memory.n_seen:
                raise UsageError(
                    f"{memory.n_seen} tokens were read already; n_pinned counts from the first: reset() before"
                )
            memory.pin(n_pinned)
        tokens = np.asarray([*self._pending, *tokens], dtype=np.int64)
        self._pending = []
        n_chunk = memory.n_read(self.n_ubatch)
        seconds = 0.0
        for first in range(0, len(tokens), n_chunk):
            chunk = tokens[first : first + n_chunk]
            start = time.perf_counter()
            self._feed(chunk)
            spent = time.perf_counter() - start
            seconds += spent
            self._seconds["read"] += spent
            self._n_read += len(chunk)
            yield Progress(first + len(chunk), len(tokens), memory.n_cells, self.n_ctx, memory.n_compactions, seconds)

    def _feed(self, chunk: Sequence[int], n_block: int | None = None, all_logits: bool = False) -> None:
        """Make room, decode, count: the only place where cells come and go."""
        self._has_logits = False
        self._memory.make_room(len(chunk), n_block)
        self._context.decode(chunk, self._memory.pos_next, all_logits)
        self._memory.advance(len(chunk))
        self._seen.extend(int(token) for token in chunk)
        self._has_logits = True

    # ---- writing ---------------------------------------------------------------------------------------------------

    def generate(
        self,
        tokens: Sequence[int] = (),
        *,
        n_pinned: int = 0,
        max_tokens: int | None = None,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        logprobs: int = 0,
    ) -> Iterator[Progress | Step]:
        """Read `tokens`, then write until an end token, a stop string or `max_tokens` (None = no limit).

        Yields Progress per ubatch read, then a Step per token; `logprobs` > 0 adds the log-probability (nats) of the
        token and of that many most likely ones, before sampling. Closing the generator stops it.
        """
        settings = Sampling(temperature, top_k, top_p, min_p, repeat_penalty, self.seed if seed is None else seed)
        if max_tokens is not None and max_tokens < 0:
            raise UsageError(f"max_tokens is {max_tokens}; give 0 or more, or None for no limit")
        self._conversation.transcript = None
        yield from self._generate(tokens, n_pinned, max_tokens, settings, stop, logprobs)

    def _generate(
        self,
        tokens: Sequence[int],
        n_pinned: int,
        max_tokens: int | None,
        settings: Sampling,
        stop: Sequence[str],
        logprobs: int,
    ) -> Iterator[Progress | Step]:
        self._finish_reason = None
        yield from self._read(tokens, n_pinned)
        if not self._has_logits:
            raise UsageError("there is nothing to continue: give at least one token")
        sampler = Sampler(settings, self._model.n_vocab)
        stream = TextStream([*stop, *self._model.stops])
        try:
            n = 0
            while max_tokens is None or n < max_tokens:
                if self._pending:
                    start = time.perf_counter()
                    self._feed(self._pending)
                    self._pending = []
                    self._seconds["decode"] += time.perf_counter() - start
                start = time.perf_counter()
                token = sampler.sample(self._context.ptr)
                n += 1
                self._n_decoded += 1
                is_end = self._model.is_eog(token)
                text = "" if is_end else stream.push(self._model.piece(token))
                chosen, top = self._logprobs(token, logprobs)
                self._seconds["sample"] += time.perf_counter() - start
                if not is_end:
                    self._pending = [token]
                if is_end or stream.stopped:
                    self._finish_reason = "stop"
                elif n == max_tokens:
                    self._finish_reason = "length"
                if self._finish_reason:
                    text += stream.flush()
                yield Step(token, text, chosen, top, self._finish_reason)
                if self._finish_reason:
                    return
            self._finish_reason = "length"
        finally:
            sampler.close()

    def _logprobs(self, token: int, n_top: int) -> tuple[float | None, list[tuple[int, float]] | None]:
        if n_top <= 0:
            return None, None
        row = log_softmax(self._context.logits()[0])
        best = np.argsort(row)[: -n_top - 1 : -1]
        return float(row[token]), [(int(i), float(row[i])) for i in best]

    # ---- chat ------------------------------------------------------------------------------------------------------

    def answer(
        self,
        messages: Sequence[dict],
        *,
        pinned: str = "",
        max_tokens: int | None = None,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[Progress | Step]:
        """Events of the answer to the last of `messages`. The system message is pinned.

        What the memory already holds of the conversation is not read again. If an earlier message was edited or
        removed, everything is forgotten and re-read, so no answer comes from stale cells.
        """
        settings = Sampling(temperature, top_k, top_p, min_p, repeat_penalty, self.seed if seed is None else seed)
        prompt = self.render(messages)
        contents = [message["content"] for message in messages]
        n_pinned = 0
        tokens = self._conversation.new_part(prompt, contents)
        if tokens is None:
            self.reset()
            tokens, n_pinned = self._conversation.whole(prompt, contents), self._conversation.n_system(messages)
        # while it is being read the transcript is unknown: a stopped read must not be taken for a whole one
        self._conversation.transcript = None
        written = ""
        for event in self._generate(tokens, n_pinned, max_tokens, settings, stop, 0):
            if isinstance(event, Step):
                written += event.text
                self._conversation.transcript = prompt + written
            yield event

    def chat(
        self, messages: Sequence[dict], *, on_progress: Callable[[Progress], None] | None = None, **options
    ) -> Iterator[str]:
        """`answer` as pieces of text; `on_progress` gets the events of the reading."""
        for event in self.answer(messages, **options):
            if isinstance(event, Progress):
                if on_progress:
                    on_progress(event)
            elif event.text:
                yield event.text

    # ---- measuring -------------------------------------------------------------------------------------------------

    def nll(self, tokens: Sequence[int], n_ubatch: int = 1) -> np.ndarray:
        """Teacher-forced negative log-likelihood in nats, float32 [len(tokens) - 1]: entry t is that of token t + 1
        given what the memory holds after tokens 0 .. t were fed, `n_ubatch` at a time. Fresh memory, no BOS added.

        Room is made for exactly one ubatch whenever the memory is full, so n_ubatch=1 is token-by-token eviction as
        published. Raises UsageError if n_ubatch exceeds what the policy can free at once.
        """
        tokens = np.asarray(tokens, dtype=np.int64)
        if tokens.ndim != 1 or len(tokens) < 2:
            raise UsageError(f"nll needs at least 2 tokens in one row, got an array of shape {tokens.shape}")
        n_most = self.policy.n_free_max(self.n_layer, self.n_ctx) or self.n_ctx
        if not 1 <= n_ubatch <= n_most:
            raise UsageError(f"n_ubatch is {n_ubatch}; this policy and budget allow 1 to {n_most}")
        self.reset()
        result = np.empty(len(tokens) - 1, dtype=np.float32)
        for first in range(0, len(result), n_ubatch):
            chunk = tokens[first : min(first + n_ubatch, len(result))]
            start = time.perf_counter()
            self._feed(chunk, n_block=1, all_logits=True)
            self._seconds["read"] += time.perf_counter() - start
            self._n_read += len(chunk)
            targets = tokens[first + 1 : first + 1 + len(chunk)]
            result[first : first + len(chunk)] = nll(self._context.logits(len(chunk)), targets)
        return result
