"""The engine: text and tokens in, events out, at a KV memory that is never exceeded.

    engine = Engine(model="smollm2-135m", kv_budget="22.5MiB")
    for event in engine.generate(engine.tokenize("Once upon a time"), max_tokens=100):
        ...                                       # Progress while it reads, then one Step per token

A model reads and writes through one `Memory`: before every ubatch the memory makes room, so the length of what was seen
is unlimited. Closing a generator stops the work, also in the middle of a long read. It knows no UI.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lacache_gguf import checkpoint, native
from lacache_gguf.catalog import resolve
from lacache_gguf.context import Context
from lacache_gguf.conversation import Conversation
from lacache_gguf.errors import CheckpointMismatch, UsageError
from lacache_gguf.events import Progress, Stats, Step
from lacache_gguf.kv_budget import KvGeometry
from lacache_gguf.model import Model
from lacache_gguf.model_memory import make_memory
from lacache_gguf.policies import Policy
from lacache_gguf.sampling import Sampling
from lacache_gguf.session import Session
from lacache_gguf.transcript import Transcript


class Engine:
    """A model with a bounded memory. One sequence, used by one thread at a time; `tokenize`, `detokenize` and `piece`
    may be called beside a running generation.

    model         path of a GGUF file, catalog name, or "user/repo:QUANT" on the model hub
    n_ctx         budget in cells (tokens per layer), or
    kv_budget     the same as memory: "256MiB"; a plain number is cells. Neither: 1,024 cells
    policy        what to forget; None = `default_policies`
    n_ubatch      most tokens read at a time; small budgets read in smaller steps (`Memory.n_read`)
    type_k/v      KV types: f32 f16 bf16 q8_0 q5_1 q5_0 q4_1 q4_0 iq4_nl
    flash_attn    None = where the backend has it
    n_gpu_layers  layers offloaded to a GPU, negative = all
    n_threads,    CPU threads that write and that read; None = physical cores, and as many read as write
    n_threads_batch
    seed          of the sampler, used by every generation that names none
    beside        another engine of the same model file, whose weights are used instead of loading them again; it must
                  live as long as this one

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
        n_threads_batch: int | None = None,
        seed: int = 0,
        beside: Engine | None = None,
    ) -> None:
        start = time.perf_counter()
        if n_ubatch < 1:
            raise UsageError(f"n_ubatch is {n_ubatch}; it must be at least 1")
        self.seed = seed
        self.type_k, self.type_v = type_k, type_v
        self.model = resolve(model)
        if beside is not None and beside.model.path != self.model.path:
            raise UsageError(f"{self.model.name} cannot use the weights of {beside.model.name}; name the same model")
        self._owns_model = beside is None
        self._model = Model(self.model.path, n_gpu_layers) if beside is None else beside._model
        try:
            self._geometry = KvGeometry.from_metadata(self._model.metadata, native.cell_step())
            self.n_ctx = self._geometry.budget_cells(n_ctx, kv_budget, n_ubatch, type_k, type_v)
            self.n_ubatch = min(n_ubatch, self.n_ctx)
            self._context = Context(
                self._model,
                self.n_ctx,
                n_ubatch=self.n_ubatch,
                type_k=type_k,
                type_v=type_v,
                flash_attn=flash_attn,
                n_threads=n_threads,
                n_threads_batch=n_threads_batch,
            )
            try:
                self._memory = make_memory(
                    self.model.name,
                    self._context,
                    len(self._geometry.layers),
                    policy,
                    self.n_ctx,
                    type_k,
                    surprise=lambda: self._session.surprise(),
                )
            except BaseException:
                self._context.close()
                raise
        except BaseException:
            self._close_model()
            raise
        self._session = Session(self._model, self._context, self._memory, self.n_ubatch)
        self.policy = self._memory.policy
        self.n_layer = self._memory.n_layer
        self.n_ctx_train = self._model.n_ctx_train
        self._conversation = Conversation(self._model, self._session, self._memory)
        self._seconds_load = time.perf_counter() - start

    # ---- life ------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget everything that was read and start the counters anew."""
        self._conversation.reset()

    def close(self) -> None:
        """Free model and memory; safe to call twice."""
        self._context.close()
        self._close_model()

    def _close_model(self) -> None:
        if self._owns_model:
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

    def piece(self, token: int) -> bytes:
        """Bytes of one token; a piece may end inside a character. Raises UsageError outside the vocabulary."""
        return self._model.piece(token)

    def bos_tokens(self) -> list[int]:
        """What must precede a text: [BOS], or [] if the model wants none."""
        return list(self._model.bos_tokens)

    def render(self, messages: Sequence[dict], add_generation_prompt: bool = True) -> str:
        """The model's chat template applied to {"role", "content"} messages, in a sandbox."""
        return self._model.render(messages, add_generation_prompt)

    # ---- what is in the memory -------------------------------------------------------------------------------------

    @property
    def seen(self) -> np.ndarray:
        """Every token fed, in order: int32 [n_seen], read-only, valid until the next step. Tokens that were taken back
        (the answer before a new one, what a stop string hides) are not among them."""
        return self._session.seen

    @property
    def held(self) -> np.ndarray:
        """Which token (an index of `seen`) every cell holds: int32 [n_layer, n_cells], read-only, valid until the next
        step. [n_layer * n_head_kv, n_cells], head by head, where every KV head keeps cells of its own."""
        return self._memory.held

    @property
    def stats(self) -> Stats:
        """Counters up to now."""
        memory, session = self._memory, self._session
        size = self._geometry.bytes_per_cell(self.type_k, self.type_v)
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
            n_read=session.n_read,
            n_decoded=session.n_decoded,
            finish_reason=session.finish_reason,
            seconds={"load": self._seconds_load, **session.seconds, "compact": memory.seconds_compact},
        )

    # ---- reading and writing ---------------------------------------------------------------------------------------

    def read(self, tokens: Sequence[int], n_pinned: int = 0) -> Iterator[Progress]:
        """Feed `tokens`, one ubatch per event; closing the generator stops behind a whole ubatch.

        n_pinned: the first tokens of the memory that are never thinned; only while nothing was thinned yet.
        Raises MemoryFull if the policy cannot make room, UsageError for a token outside the vocabulary.
        """
        self._conversation.transcript.cut(0)
        yield from self._session.read(tokens, n_pinned or None)

    def generate(
        self,
        tokens: Sequence[int] = (),
        *,
        n_pinned: int = 0,
        max_tokens: int | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        logprobs: int = 0,
        **sampling: float,
    ) -> Iterator[Progress | Step]:
        """Read `tokens`, then write until an end token, a stop string or `max_tokens` (None = no limit).

        Yields Progress per ubatch read, then a Step per token; `logprobs` > 0 adds the log-probability (nats) of the
        token and of that many most likely ones, before sampling. Closing the generator stops it. `sampling`:
        temperature, top_k, top_p, min_p, repeat_penalty (`sampling.Sampling`).
        """
        settings = self._sampling(max_tokens, seed, sampling)
        yield from self.read(tokens, n_pinned)
        yield from self._session.write(settings, max_tokens, stop, logprobs)

    def _sampling(self, max_tokens: int | None, seed: int | None, sampling: dict[str, float]) -> Sampling:
        if max_tokens is not None and max_tokens < 0:
            raise UsageError(f"max_tokens is {max_tokens}; give 0 or more, or None for no limit")
        return Sampling(**sampling, seed=self.seed if seed is None else seed)

    # ---- chat ------------------------------------------------------------------------------------------------------

    def answer(
        self,
        messages: Sequence[dict],
        *,
        pinned: str = "",
        max_tokens: int | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        **sampling: float,
    ) -> Iterator[Progress | Step]:
        """Answer the last of `messages` ({"role", "content"}): Progress per ubatch read, then a Step per token.

        The system message is pinned, and so is `pinned`, a text with which the first user message begins (an
        instruction before a document). What the memory holds of the conversation is not read again: it goes on behind
        the last answer, and where a read was stopped. Cells of a text that was edited or removed are taken back if they
        are the newest of every layer, as for another answer to the same question; else everything is forgotten and
        re-read. So no answer comes from stale cells. Closing the generator stops it anywhere; what was shown of an
        answer counts as said, what a stop string cut off does not.
        """
        settings = self._sampling(max_tokens, seed, sampling)
        yield from self._conversation.answer(messages, settings, pinned=pinned, max_tokens=max_tokens, stop=stop)

    def chat(
        self, messages: Sequence[dict], *, on_progress: Callable[[Progress], None] | None = None, **options
    ) -> Iterator[str]:
        """`answer` as pieces of text; `on_progress` gets the events of the reading. Options as for `answer`:
        max_tokens, temperature, top_k, top_p, min_p, repeat_penalty, seed, stop, pinned."""
        for event in self.answer(messages, **options):
            if isinstance(event, Progress):
                if on_progress:
                    on_progress(event)
            elif event.text:
                yield event.text

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def save(self, path: str | Path, note: dict | None = None) -> None:
        """Write the memory to one file: cells, counters, tokens, transcript, and `note`, anything JSON. Between events.

        An existing file is replaced only when the new one is complete. Takes as much memory as the cells in use.
        Raises StorageError if it cannot be written.
        """
        values, arrays = self._session.state()
        text, marks = self._conversation.transcript.state()
        content = {"of": self._identity(), "session": values, "note": note or {}}
        checkpoint.write(Path(path), content, {**arrays, "text": text, "marks": marks})

    def load(self, path: str | Path) -> dict:
        """Replace the memory by a saved one and return its note. What follows is token for token what would have
        followed there (greedy; a sampler's random numbers begin anew).

        Raises DamagedCheckpoint for a file that is not what was written, CheckpointMismatch for one of another model,
        budget, KV type or policy; the memory is unchanged then. Load only files that you trust as a program.
        """
        content, arrays = checkpoint.read(Path(path))
        checkpoint.compare(Path(path), content.get("of"), self._identity())
        transcript = Transcript(self._model)
        try:
            transcript.restore(arrays["text"], arrays["marks"], len(arrays["seen"]) + len(arrays["pending"]))
            self._session.restore(content["session"], arrays)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointMismatch(f"{path} does not fit this engine: {error}") from error
        self._conversation.transcript = transcript
        return content.get("note", {})

    def _identity(self) -> dict:
        """What a checkpoint must agree in."""
        policy = " ".join([self.policy.name, *(f"{name}={value}" for name, value in asdict(self.policy).items())])
        settings = {"n_ctx": self.n_ctx, "type_k": self.type_k, "type_v": self.type_v, "policy": policy}
        return {"model": self.model.name, "model_sha256": checkpoint.fingerprint(self.model.path), **settings}

    # ---- measuring -------------------------------------------------------------------------------------------------

    def nll(self, tokens: Sequence[int], n_ubatch: int = 1) -> np.ndarray:
        """Teacher-forced negative log-likelihood in nats, float32 [len(tokens) - 1]: entry t is that of token t + 1
        given what the memory holds after tokens 0 .. t were fed, `n_ubatch` at a time. Fresh memory, no BOS added.

        Room is made for exactly one ubatch whenever the memory is full, so n_ubatch=1 is token-by-token eviction as
        published. Raises UsageError if n_ubatch exceeds what the policy can free at once.
        """
        tokens = self._teacher_forced(tokens, n_ubatch, 2)
        return self._session.nll(tokens, n_ubatch)

    def logits(self, tokens: Sequence[int], n_ubatch: int = 1) -> Iterator[np.ndarray]:
        """The same as logits: per ubatch a float32 [<= n_ubatch, n_vocab], row t of all of them for what follows token
        t; valid until the next one. Closing the generator stops behind a whole ubatch. Raises as `nll` does.
        """
        tokens = self._teacher_forced(tokens, n_ubatch, 1)
        yield from self._session.logits(tokens, n_ubatch)

    def _teacher_forced(self, tokens: Sequence[int], n_ubatch: int, n_least: int) -> np.ndarray:
        """Check what is to be fed to a fresh memory: int64 [n]."""
        tokens = np.asarray(tokens, dtype=np.int64)
        if tokens.ndim != 1 or len(tokens) < n_least:
            raise UsageError(f"needs at least {n_least} token(s) in one row, got an array of shape {tokens.shape}")
        if not 1 <= n_ubatch <= self._memory.n_at_once(min(n_ubatch, self.n_ctx), n_pinned=0):
            n_most = self._memory.n_at_once(self.n_ctx, n_pinned=0)
            raise UsageError(f"n_ubatch is {n_ubatch}; this policy and budget allow 1 to {n_most}")
        self.reset()
        return tokens
