"""What the flags about the memory mean for a model: how many cells, which policy, and what was calibrated for it.

What it is: `n_ctx_of`, `policy_of` and `with_calibration` over parsed arguments (options.py has the flags themselves)
and the resolved model.
What it does not know: engines. Importing this loads neither numpy nor the library.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lacache_app.terminal import Terminal

    from lacache_gguf.kv_budget import KvGeometry
    from lacache_gguf.policies import Policy

N_CTX_DEFAULT = 1024
POLICY_FIELDS = {
    "span": "span",
    "overlap": "overlap",
    "sink": "n_sink",
    "recent": "n_recent",
    "score": "score",
    "heads": "heads",
}
"""Flag, or field on a page -> setting of a policy."""


def is_policy_given(args: argparse.Namespace) -> bool:
    """Whether a flag says something about the policy."""
    return any(getattr(args, dest) is not None for dest in ("policy", *POLICY_FIELDS))


def n_ctx_of(args: argparse.Namespace, model: Any) -> int | None:
    """Cells that -c asks for, 0 being what the model was trained on; None if it does not. Raises UsageError."""
    if args.ctx_size != 0:
        return args.ctx_size
    from lacache_gguf.errors import UsageError
    from lacache_gguf.gguf_header import read_header

    n_ctx_train = read_header(model.path).arch_int("context_length")
    if n_ctx_train < 1:
        raise UsageError(f"-c 0: {model.path} does not say which context it was trained with; give a number of cells")
    return n_ctx_train


def policy_of(args: argparse.Namespace, model: Any) -> Policy | None:
    """The policy the flags describe; None (the engine's default) when none of them was given. `args.stored_policy`, the
    name and all settings of one that was used before, wins over both. Raises UsageError."""
    if stored := getattr(args, "stored_policy", None):
        from lacache_app.settings import policy_from_dict

        return policy_from_dict(stored)
    given = {flag: value for flag in POLICY_FIELDS if (value := getattr(args, flag)) is not None}
    if args.policy is None and not given:
        return None
    from lacache_app.memory_spec import DEFAULT, fields_of, make_policy

    from lacache_gguf.errors import UsageError
    from lacache_gguf.model_memory import default_for
    from lacache_gguf.policies import POLICIES

    settings = {POLICY_FIELDS[flag]: value for flag, value in given.items()}
    name = (args.policy or _owner(given)).lower().replace("-", "_")
    if name == DEFAULT and not given:
        return None
    if name not in (DEFAULT, *POLICIES):
        raise UsageError(f"--policy {args.policy!r} is unknown; choose one of {', '.join((DEFAULT, *POLICIES))}")
    usual, n_layer, n_ctx = None, 0, 0  # only the default and the ladder depend on the model
    if name in (DEFAULT, "ladder"):
        geometry, n_ctx = _geometry_and_cells(args, model)
        n_layer = len(geometry.layers_planned)
        usual = default_for(geometry, n_ctx, args.cache_type_k, args.cache_type_v) if name == DEFAULT else None
    name = usual.name if usual else name
    for flag, value in given.items():
        if POLICY_FIELDS[flag] not in fields_of(name):
            raise UsageError(f"--{flag} {value} does nothing for --policy {name}; leave it out")
    if usual:
        return dataclasses.replace(usual, **settings)  # type: ignore[type-var]
    return make_policy(name, settings, n_layer, n_ctx)


def _owner(given: Collection[str]) -> str:
    """The policy that flags mean which name none."""
    is_ladder = "span" in given or "overlap" in given
    return "ladder" if is_ladder else "scored_ladder" if "score" in given else "default"


def with_calibration(
    settings: dict[str, Any], args: argparse.Namespace, model: Any, terminal: Terminal
) -> dict[str, Any]:
    """The settings, with the policy that `lacache calibrate` found where no flag chose one; says so in a line."""
    from lacache_app.calibrated import calibrated_policy

    if settings["policy"] is not None:
        return settings
    types = args.cache_type_k, args.cache_type_v
    found = calibrated_policy(model.path, lambda: _geometry_and_cells(args, model), *types)
    if found is None:
        return settings
    terminal.note(f"{found[1]}; --policy chooses another")
    return {**settings, "policy": found[0]}


def _geometry_and_cells(args: argparse.Namespace, model: Any) -> tuple[KvGeometry, int]:
    """The model's attention layers and the cells that the flags ask for."""
    from lacache_app.memory_spec import Size, geometry_and_cells, parse_size

    given = args.kv_budget or n_ctx_of(args, model)
    size = parse_size(str(given)) if given else Size()
    return geometry_and_cells(model.path, size, args.ubatch_size, args.cache_type_k, args.cache_type_v)
