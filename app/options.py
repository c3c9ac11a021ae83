"""Flags that several commands share, named as in llama.cpp, and what they mean for `Engine`.

What it is: a table of options (flag, environment twin, default), `engine_settings` and `sampling_settings` that turn
parsed arguments into keyword arguments, and `open_engine`, which finds the model, downloading it if need be, and loads
it. A flag wins over its environment variable, which wins over the default.
What it does not know: what a command does with the engine. Importing this loads neither numpy nor the library.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lacache_app.memory_flags import N_CTX_DEFAULT, n_ctx_of, policy_of, with_calibration

if TYPE_CHECKING:
    from lacache_app.terminal import Terminal

    from lacache_gguf.engine import Engine

_KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


def whole(minimum: int, unit: str) -> Callable[[str], int]:
    """Parser of a whole number >= minimum; `unit` names it in the error."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no number of {unit}; give a whole number, at least {minimum}"
            )
        return number

    return parse


def real(minimum: float, maximum: float) -> Callable[[str], float]:
    """Parser of a number in [minimum, maximum]."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = minimum - 1
        if not minimum <= number <= maximum:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {minimum:g} to {maximum:g}")
        return number

    return parse


def one_of(*words: str) -> Callable[[str], str]:
    """Parser of one of the words, any case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(words)}")
        return text.lower()

    return parse


def _gpu_layers(text: str) -> int:
    return -1 if text.lower() in ("auto", "all") else whole(-1, "layers (or auto, all)")(text)


def plain_text(text: str) -> str:
    """Text of an argument whose bytes were not UTF-8: what cannot be read becomes U+FFFD."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _switch(text: str) -> bool:
    return one_of("1", "0", "true", "false", "on", "off", "yes", "no")(text) in ("1", "true", "on", "yes")


@dataclasses.dataclass(frozen=True)
class Option:
    """One flag with a value: its spellings, environment twin, parser and default."""

    flags: tuple[str, ...]
    dest: str
    env: str
    parse: Callable[[str], Any]
    metavar: str
    help: str
    default: Any = None


# fmt: off
MODEL = (
    Option(("-m", "--model", "-hf", "--hf-repo"), "model", "LLAMA_ARG_MODEL", str, "NAME",
           "catalog name, path of a .gguf file, or user/repo:QUANT (downloaded if needed)", "smollm2-135m"),
    Option(("-ngl", "--gpu-layers", "--n-gpu-layers"), "gpu_layers", "LLAMA_ARG_N_GPU_LAYERS", _gpu_layers, "N",
           "layers to put on the GPU: auto, all or a number", -1),
    Option(("-t", "--threads"), "threads", "LLAMA_ARG_THREADS", whole(-1, "threads"), "N",
           "CPU threads (default: one for each core)", -1),
    Option(("-tb", "--threads-batch"), "threads_batch", "LLAMA_ARG_THREADS_BATCH", whole(-1, "threads"), "N",
           "CPU threads that read (default: as many as -t)", -1),
)
MEMORY = (
    Option(("-c", "--ctx-size"), "ctx_size", "LLAMA_ARG_CTX_SIZE", whole(0, "cells"), "N",
           f"cells of KV memory, 0 = the model's trained context (default: {N_CTX_DEFAULT:,})"),
    Option(("--kv-budget",), "kv_budget", "LACACHE_KV_BUDGET", str, "SIZE",
           "KV memory instead of -c: 256MiB, 1GiB, or cells"),
    Option(("-ctk", "--cache-type-k"), "cache_type_k", "LLAMA_ARG_CACHE_TYPE_K", one_of(*_KV_TYPES), "TYPE",
           f"type of K: {', '.join(_KV_TYPES)} (default: f16)", "f16"),
    Option(("-ctv", "--cache-type-v"), "cache_type_v", "LLAMA_ARG_CACHE_TYPE_V", one_of(*_KV_TYPES), "TYPE",
           "type of V (default: f16)", "f16"),
    Option(("-fa", "--flash-attn"), "flash_attn", "LLAMA_ARG_FLASH_ATTN", one_of("on", "off", "auto"), "on|off|auto",
           "flash attention (default: auto)", "auto"),
    Option(("-ub", "--ubatch-size"), "ubatch_size", "LLAMA_ARG_UBATCH", whole(1, "tokens"), "N",
           "most tokens to read at once (default: 512)", 512),
    Option(("--policy",), "policy", "LACACHE_POLICY", str, "NAME",
           "what a full memory keeps: default (the best for this model: salience, unless calibrated), ladder, "
           "sink_window, full (refuses), scored_ladder, keydiff, tova, h2o, snapkv, cascade, random"),
    Option(("--span",), "span", "LACACHE_SPAN", whole(1, "layers"), "N",
           "ladder: span S (default: half of the layers)"),
    Option(("--overlap",), "overlap", "LACACHE_OVERLAP", whole(0, "layers"), "N", "ladder: overlap O (default: 0)"),
    Option(("--sink",), "sink", "LACACHE_SINK", whole(0, "cells"), "N",
           "first cells that are never thinned (default: the policy's, mostly 4)"),
    Option(("--recent",), "recent", "LACACHE_RECENT", whole(0, "cells"), "N",
           "newest cells that are never thinned (default: the policy's; salience a quarter, ladder half of all)"),
    Option(("--score",), "score", "LACACHE_SCORE", one_of("keydiff", "attention"), "KIND",
           "scored_ladder: what decides, keydiff (default) or attention"),
    Option(("--heads",), "heads", "LACACHE_HEADS", one_of("layer", "each"), "layer|each",
           "policies with a score: the heads of a layer keep the same cells, or each its own"),
)
SAMPLING = (
    Option(("-n", "--predict", "--n-predict", "--max-tokens"), "predict", "LLAMA_ARG_N_PREDICT", whole(-1, "tokens"),
           "N", "most tokens to write, -1 = until the model stops", -1),
    Option(("--temp", "--temperature"), "temperature", "LLAMA_ARG_TEMPERATURE", real(0, 100), "T",
           "0 = always the likeliest token"),
    Option(("--top-k",), "top_k", "LLAMA_ARG_TOP_K", whole(0, "tokens"), "N",
           "sample among the N likeliest tokens, 0 = all"),
    Option(("--top-p",), "top_p", "LLAMA_ARG_TOP_P", real(0, 1), "P", "... that together have probability P"),
    Option(("--min-p",), "min_p", "LLAMA_ARG_MIN_P", real(0, 1), "P", "... that have P times the likeliest one's"),
    Option(("--repeat-penalty",), "repeat_penalty", "LLAMA_ARG_REPEAT_PENALTY", real(0.01, 100), "R", "1 = off"),
    Option(("-s", "--seed"), "seed", "LLAMA_ARG_SEED", whole(-1, "(a seed)"), "N",
           "seed of the sampler, -1 = random"),
)
# fmt: on
_COMPUTING = ("gpu_layers", "threads", "threads_batch")  # of MODEL, what says how to compute and not what
_GROUPS = {"model": MODEL, "memory": MEMORY, "sampling": SAMPLING}


def add_engine_options(parser: argparse.ArgumentParser, sampling: bool = True) -> None:
    """Add all groups to a command's parser. Values stay None until `fill_defaults`, to tell a flag from a default.

    Without `sampling` those flags are left out: a command that lets its user choose them elsewhere.
    """
    for title, options in _GROUPS.items():
        if title == "sampling" and not sampling:
            parser.set_defaults(**{option.dest: None for option in options})
            continue
        group = parser.add_argument_group(title)
        for option in options:
            group.add_argument(
                *option.flags, dest=option.dest, type=option.parse, metavar=option.metavar, help=option.help
            )
        if title == "model":
            group.add_argument("--offline", action="store_true", default=None, help="never use the network")


def fill_defaults(args: argparse.Namespace, **defaults: Any) -> None:
    """Give every option that no flag set its environment variable's value, else `defaults[dest]`, else the table's.

    Raises UsageError naming the variable when its value is not understood, and when two settings contradict each other.
    """
    from lacache_gguf.errors import UsageError

    if args.ctx_size is not None and args.kv_budget is not None:
        raise UsageError(
            f"-c {args.ctx_size} and --kv-budget {args.kv_budget} both set the KV memory; give one of them"
        )
    has_memory_flag = args.ctx_size is not None or args.kv_budget is not None
    for option in (*MODEL, *MEMORY, *SAMPLING):
        if getattr(args, option.dest) is not None:
            continue
        value = None if has_memory_flag and option.dest in ("ctx_size", "kv_budget") else os.environ.get(option.env)
        filled = _from_environment(option.env, option.parse, value) if value else None
        setattr(args, option.dest, defaults.get(option.dest, option.default) if filled is None else filled)
    args.offline = is_offline(args)
    if args.ctx_size is not None and args.kv_budget is not None:
        raise UsageError(
            f"environment variables LLAMA_ARG_CTX_SIZE={args.ctx_size} and LACACHE_KV_BUDGET={args.kv_budget} both set "
            "the KV memory; unset one, or give -c or --kv-budget"
        )


def is_any_given(args: argparse.Namespace) -> bool:
    """Whether a flag or an environment variable says which model or which memory, not only how to compute."""
    return any(_is_given(args, option) for option in (*MODEL, *MEMORY) if option.dest not in _COMPUTING)


def computing_given(args: argparse.Namespace) -> dict[str, Any]:
    """What a flag or an environment variable says about how to compute, as keyword arguments of Engine."""
    given = {f"n_{option.dest}" for option in MODEL if option.dest in _COMPUTING and _is_given(args, option)}
    fill_defaults(args)
    return {name: value for name, value in computing(args).items() if name in given}


def computing(args: argparse.Namespace) -> dict[str, Any]:
    """How to compute, as keyword arguments of Engine, once defaults are filled in."""
    return {
        "n_gpu_layers": args.gpu_layers,
        "n_threads": args.threads if args.threads > 0 else None,
        "n_threads_batch": args.threads_batch if args.threads_batch > 0 else None,
    }


def _is_given(args: argparse.Namespace, option: Option) -> bool:
    return getattr(args, option.dest) is not None or bool(os.environ.get(option.env))


def is_offline(args: argparse.Namespace) -> bool:
    """Whether --offline or LLAMA_ARG_OFFLINE was given."""
    return args.offline or _from_environment("LLAMA_ARG_OFFLINE", _switch, os.environ.get("LLAMA_ARG_OFFLINE") or "0")


def _from_environment(name: str, parse: Callable[[str], Any], value: str) -> Any:
    from lacache_gguf.errors import UsageError

    try:
        return parse(value)
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"environment variable {name}: {error}") from None


def sampling_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of Engine.generate and Engine.chat; what was not set is left to the engine."""
    names = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed")
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if settings.get("seed") == -1:
        settings["seed"] = int.from_bytes(os.urandom(4), "little") >> 1
    settings["max_tokens"] = None if args.predict < 0 else args.predict
    return settings


def obey_offline(args: argparse.Namespace) -> bool:
    """Whether --offline or LLAMA_ARG_OFFLINE was given; then nothing of this process uses the network from now on."""
    if offline := is_offline(args):
        os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is imported, which has not happened yet
    return offline


def find_model(args: argparse.Namespace, terminal: Terminal) -> Any:
    """The ResolvedModel that -m names, fetched from the hub with a progress bar if it is not there yet."""
    offline = obey_offline(args)
    from lacache_gguf.catalog import resolve

    with terminal.downloading() as on_progress:
        return resolve(args.model, allow_download=not offline, on_progress=on_progress)


def engine_settings(args: argparse.Namespace, model: Any) -> dict[str, Any]:
    """Keyword arguments of Engine for the parsed flags and the resolved model."""
    return {
        "model": model.name if model.source == "hub" else args.model,
        "n_ctx": n_ctx_of(args, model) if args.kv_budget is None else None,
        "kv_budget": args.kv_budget,
        "policy": policy_of(args, model),
        "n_ubatch": args.ubatch_size,
        "type_k": args.cache_type_k,
        "type_v": args.cache_type_v,
        "flash_attn": {"on": True, "off": False, "auto": None}[args.flash_attn],
        **computing(args),
    }


def engine_class() -> type[Engine]:
    """The class commands load models with (tests put another one here)."""
    from lacache_gguf.engine import Engine

    return Engine


def open_engine(args: argparse.Namespace, terminal: Terminal) -> Engine:
    """Find and load the model with the memory that the flags describe; use it as a context manager."""
    if getattr(args, "verbose", False):
        from lacache_gguf import native

        native.set_verbose(True)
    model = find_model(args, terminal)
    settings = with_calibration(engine_settings(args, model), args, model, terminal)
    with terminal.waiting(f"loading {settings['model']} ..."):
        return engine_class()(**settings)
