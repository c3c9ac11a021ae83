"""How often keys may be rounded anew before a coarse KV type costs too much.

A key carries its position as a rotation, so whenever cells are thinned, the keys behind them are turned and rounded to
their type again. What counts is how often that happens while a token moves through the memory: budget / cells freed at
a time. Values are only copied, so their type does not matter here. Measured by benchmarks/drift.py: at 8 times, 4-bit
keys cost less than 3 % perplexity beyond their own error without thinning; at 16 times they cost more; token by token
they are destroyed.

    >>> check_key_wear("q4_0", n_ctx=1024, n_freed=128)
    >>> check_key_wear("q4_0", n_ctx=1024, n_freed=64)
    Traceback (most recent call last):
    lacache_gguf.errors.PolicyError: K in q4_0 would be rounded anew 16 times ...
"""

from __future__ import annotations

from lacache_gguf.errors import PolicyError

COARSE_KEY_TYPES = ("q4_0", "q4_1", "iq4_nl")
"""KV types whose keys wear out."""
N_ROUNDINGS_MAX = 8


def check_key_wear(type_k: str, n_ctx: int, n_freed: int) -> None:
    """Raises PolicyError if keys of `type_k` would wear out in `n_ctx` cells of which `n_freed` are freed at a time."""
    n_roundings = n_ctx // n_freed
    if type_k in COARSE_KEY_TYPES and n_roundings > N_ROUNDINGS_MAX:
        raise PolicyError(
            f"K in {type_k} would be rounded anew {n_roundings} times while a token moves through {n_ctx} cells, for "
            f"only {n_freed} can be freed at a time; 4 bits bear {N_ROUNDINGS_MAX} times, and at 16 they cost more "
            "than 3 % perplexity. Use -ctk q8_0 -ctv q4_0, or leave the policy more cells to thin: lower --recent, "
            "shorten the system prompt"
        )
