"""Engines for the memories under test, one copy of the weights for all of them.

What it is: `Bench`, which holds the model in an engine of 256 cells, reads texts with its vocabulary, says what a spec
becomes for a size and a text (`Setup`), and opens an engine for it beside the weights.
What it does not know: what is measured.

    with Bench(settings, path, options.engine_class()) as bench:
        setup = bench.setup(parse_memory("ladder"), parse_size("512"), n_tokens=4096, n_ubatch=16)
        with bench.open(setup, n_ubatch=16) as engine: ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacache_app.memory_spec import MemorySpec, Size, geometry_here
from lacache_app.settings import policy_dict

from lacache_gguf.checkpoint import fingerprint
from lacache_gguf.errors import UsageError
from lacache_gguf.kv_budget import CELL_STEP
from lacache_gguf.policies import Full, Policy

if TYPE_CHECKING:
    from lacache_gguf.engine import Engine


@dataclass(frozen=True)
class Setup:
    """A memory that can be opened: everything that decides what it answers, and the bytes it takes."""

    policy: Policy
    n_ctx: int
    type_k: str
    type_v: str
    kv_bytes: int  # allocated
    note: str = ""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides a result."""
        values = {"n_ctx": self.n_ctx, "type_k": self.type_k, "type_v": self.type_v}
        return {"policy": policy_dict(self.policy), **values}


class Bench:
    """The model's weights, and engines beside them. Raises what `Engine` raises."""

    def __init__(self, settings: dict[str, Any], path: Path, open_engine: Callable[..., Engine]) -> None:
        """`settings`: keyword arguments of Engine but for budget, policy, KV types and n_ubatch; `path`: the file."""
        self._settings, self._open = settings, open_engine
        self.geometry = geometry_here(path)
        self.n_ctx_train = self.geometry.n_ctx_train
        n_ctx = min(CELL_STEP, self.n_ctx_train or CELL_STEP)
        self.weights = open_engine(**settings, n_ctx=n_ctx, n_ubatch=16, policy=Full())
        self.model = {"name": self.weights.model.name, "file": path.name, "sha256": fingerprint(path)}

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.weights.close()

    def setup(self, spec: MemorySpec, size: Size | None, n_tokens: int, n_ubatch: int) -> Setup:
        """What a memory of this size is for a text of `n_tokens`; its own size wins. A full cache has what it needs.

        Raises UsageError and PolicyError.
        """
        types, note = (spec.type_k, spec.type_v), ""
        size = spec.size or size
        if spec.is_full:
            policy, n_ctx = spec.reference(n_tokens, self.n_ctx_train)
            if not isinstance(policy, Full):
                note = f"a full window of {n_ctx:,} cells that slides: the text is longer than the trained context"
        elif size is None:
            raise UsageError(f"memory {spec.name!r} has no size; give -c or --kv-budget, or cells= with the memory")
        else:
            n_ctx = size.cells(self.geometry, *types, n_ubatch)
            policy = spec.make_policy(self.geometry, n_ctx)
        return Setup(policy, n_ctx, *types, self.geometry.bytes(n_ctx, n_ubatch, *types), note)

    def open(self, setup: Setup, n_ubatch: int) -> Engine:
        """An engine with this memory; use it as a context manager."""
        return self._open(
            **self._settings,
            n_ctx=setup.n_ctx,
            policy=setup.policy,
            n_ubatch=n_ubatch,
            type_k=setup.type_k,
            type_v=setup.type_v,
            beside=self.weights,
        )
