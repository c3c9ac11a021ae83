"""lacache-gguf: endless context for quantized GGUF models at a KV memory that is set once and never exceeded.

    from lacache_gguf import Engine, Ladder
    engine = Engine(model="smollm2-135m", n_ctx=1024)
    for piece in engine.chat([{"role": "user", "content": "Hello"}]):
        print(piece, end="")
"""

from __future__ import annotations

from lacache_gguf.errors import LacacheError
from lacache_gguf.policies import Full, Ladder, Plan, Policy, SinkWindow, View

__version__ = "0.1.0"

__all__ = ["Engine", "Full", "LacacheError", "Ladder", "Plan", "Policy", "SinkWindow", "View", "__version__"]


def __getattr__(name: str):
    # the engine loads the native library, which `lacache --help` and the policies do not need
    if name == "Engine":
        from lacache_gguf.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
