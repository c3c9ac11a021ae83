"""Fixtures for everybody: `fake_engine`, a deterministic stand-in for lacache_gguf.Engine that needs nothing built, and
the rule that tests marked `native` or `model` are skipped where the library or the embedded model is missing.

LACACHE_REQUIRE=native,model (set in CI) turns those skips into failures.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lacache_gguf.catalog import DEFAULT_MODEL, ResolvedModel, resolve
from lacache_gguf.errors import LacacheError, MemoryFull
from lacache_gguf.events import Progress, Stats, Step
from lacache_gguf.policies import default_policy

CONTROL = ("<|start|>", "<|end|>", "<|eot|>")


class FakeEngine:
    """Engine's interface over bytes: token = byte, three control tokens, an answer that only depends on what was read.

    The memory is a count: cells fill up to n_ctx, then every ubatch makes room for itself, as in the real one. Each
    instance remembers `settings` (its constructor's), `seen` (all tokens fed) and `n_pinned`.
    """

    opened: ClassVar[list[FakeEngine]] = []
    answer = "A summary of {n} tokens, café included."

    def __init__(
        self, model: str = DEFAULT_MODEL, n_ctx: int | None = None, policy: Any = None, **settings: Any
    ) -> None:
        self.settings = {"model": model, "n_ctx": n_ctx, "policy": policy, **settings}
        self.n_ctx, self.n_ctx_train, self.n_layer = n_ctx or 1024, 8192, 30
        self.n_ubatch = settings.get("n_ubatch") or 512
        self.policy = policy or default_policy(self.n_layer, self.n_ctx)
        self.model = ResolvedModel(Path("fake.gguf"), "fake", "MIT", "path")
        self.sampling: dict[str, Any] = {}
        self.is_closed = False
        FakeEngine.opened.append(self)
        self.reset()

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self.is_closed = True

    def reset(self) -> None:
        self.seen: list[int] = []
        self.n_cells = self.n_cells_peak = self.n_compactions = self.n_decoded = self.n_pinned = 0
        self.finish_reason: str | None = None

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        parts = re.split("(" + "|".join(map(re.escape, CONTROL)) + ")", text) if special else [text]
        return [
            t for part in parts for t in ([256 + CONTROL.index(part)] if special and part in CONTROL else part.encode())
        ]

    def detokenize(self, tokens: Sequence[int]) -> str:
        return b"".join(bytes([t]) if t < 256 else CONTROL[t - 256].encode() for t in tokens).decode("utf-8", "replace")

    def bos_tokens(self) -> list[int]:
        return [256]

    def render(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:
        text = "".join(f"<|start|>{m['role']}\n{m['content']}<|end|>\n" for m in messages)
        return text + ("<|start|>assistant\n" if add_generation_prompt else "")

    def read(self, tokens: Sequence[int], n_pinned: int = 0) -> Iterator[Progress]:
        self.n_pinned = n_pinned or self.n_pinned
        if self.n_pinned > self.n_ctx:
            raise MemoryFull(f"{self.n_pinned} pinned tokens do not fit into {self.n_ctx} cells; raise --kv-budget")
        for first in range(0, len(tokens), self.n_ubatch):
            chunk = list(tokens[first : first + self.n_ubatch])
            self._feed(chunk)
            n_done = first + len(chunk)
            yield Progress(n_done, len(tokens), self.n_cells, self.n_ctx, self.n_compactions, n_done / 1000)

    def _feed(self, chunk: list[int]) -> None:
        if self.n_cells + len(chunk) > self.n_ctx:
            self.n_compactions += 1
            self.n_cells = max(0, self.n_ctx - max(64, len(chunk)))
        self.n_cells += len(chunk)
        self.n_cells_peak = max(self.n_cells_peak, self.n_cells)
        self.seen += chunk

    def generate(
        self, tokens: Sequence[int] = (), *, n_pinned: int = 0, max_tokens: int | None = None, **sampling: Any
    ) -> Iterator[Progress | Step]:
        self.sampling = sampling
        yield from self.read(tokens, n_pinned)
        answer = list(self.answer.format(n=len(self.seen)).encode())
        pending = b""
        for i, token in enumerate(answer[:max_tokens]):
            self._feed([token])
            self.n_decoded += 1
            pending += bytes([token])
            text = pending.decode("utf-8", "ignore")
            pending = b"" if text else pending
            is_last = i + 1 == min(len(answer), max_tokens or len(answer))
            self.finish_reason = ("length" if i + 1 < len(answer) else "stop") if is_last else None
            yield Step(token, text, finish_reason=self.finish_reason)

    def chat(self, messages: Sequence[dict[str, str]], *, on_progress: Any = None, **settings: Any) -> Iterator[str]:
        self.messages = [dict(message) for message in messages]
        for event in self.generate(self.tokenize(self.render(messages), special=True), **settings):
            if isinstance(event, Step):
                if event.text:
                    yield event.text
            elif on_progress:
                on_progress(event)

    @property
    def stats(self) -> Stats:
        n_seen, per_cell = len(self.seen), 23040
        return Stats(
            n_ctx=self.n_ctx,
            n_seen=n_seen,
            n_cells=self.n_cells,
            n_cells_peak=self.n_cells_peak,
            n_compactions=self.n_compactions,
            n_evicted=n_seen - self.n_cells,
            pos_next=self.n_cells,
            kv_bytes=self.n_ctx * per_cell,
            kv_bytes_used_peak=self.n_cells_peak * per_cell,
            kv_bytes_full=n_seen * per_cell,
            n_read=n_seen - self.n_decoded,
            n_decoded=self.n_decoded,
            finish_reason=self.finish_reason,
            seconds={"load": 0.1, "read": n_seen / 1000, "decode": 0.5, "sample": 0.1, "compact": 0.01},
        )


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> type[FakeEngine]:
    """The commands load models with FakeEngine; `fake_engine.opened` lists the engines they opened."""
    from lacache_app import options

    monkeypatch.setattr(FakeEngine, "opened", [])
    monkeypatch.setattr(options, "engine_class", lambda: FakeEngine)
    return FakeEngine


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests see neither the user's settings nor their hub cache, history or token."""
    for name in list(os.environ):
        is_ours = name.startswith("LACACHE_") and name not in ("LACACHE_LIB_DIR", "LACACHE_REQUIRE")
        if is_ours or name.startswith(("LLAMA_ARG_", "HF_", "HUGGINGFACE_")):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))


def _missing() -> dict[str, str]:
    """Marker -> why tests with it cannot run here."""
    from lacache_gguf import native

    missing = {}
    if error := native.load_error():
        missing["native"] = error
    try:
        resolve(DEFAULT_MODEL)
    except LacacheError as error:
        missing["model"] = str(error)
    return missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here, unless LACACHE_REQUIRE says that it must."""
    wanted = [item for item in items if any(item.get_closest_marker(name) for name in ("native", "model"))]
    if not wanted:
        return
    missing, required = _missing(), os.environ.get("LACACHE_REQUIRE", "").split(",")
    for name, reason in missing.items():
        if name in required:
            raise pytest.UsageError(f"LACACHE_REQUIRE={','.join(required)}, but: {reason}")
    for item in wanted:
        for name, reason in missing.items():
            if item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))
