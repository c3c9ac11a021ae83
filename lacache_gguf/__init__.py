"""lacache-gguf: endless context for quantized GGUF models at a KV memory that is set once and never exceeded.

from lacache_gguf import Engine, Ladder
engine = Engine(model="smollm2-135m", n_ctx=1024)
for piece in engine.chat([{"role": "user", "content": "Hello"}]):
    print(piece, end="")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lacache_gguf.engine import Engine
    from lacache_gguf.errors import LacacheError
    from lacache_gguf.policies import Full, Ladder, Plan, Policy, SinkWindow, View

__version__ = "0.1.0"

__all__ = ["Engine", "Full", "LacacheError", "Ladder", "Plan", "Policy", "SinkWindow", "View", "__version__"]

_HOMES = {"Engine": "lacache_gguf.engine", "LacacheError": "lacache_gguf.errors"}


def __getattr__(name: str) -> Any:
    # When asked for: policies load numpy and the engine the native library; `lacache --help` needs neither, nor does
    # the process that reads a document.
    if name in __all__:
        return getattr(importlib.import_module(_HOMES.get(name, "lacache_gguf.policies")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
