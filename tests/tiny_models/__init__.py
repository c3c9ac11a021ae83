"""Tiny random GGUF models, made on the spot and reproducible by seed.

    make("qwen3", tmp_path / "qwen3.gguf")                     # an architecture of llama.cpp
    make("llama-yarn", tmp_path / "yarn.gguf", n_layer=6)      # or one of the variants below
    make("llama", tmp_path / "chat.gguf", vocab="bpe")         # with a tokenizer and a chat template

The weights are noise, but noise with care: logits spread over about +-3, attention is sharp enough that one wrong
key row shows, and no two heads, pairs or layers are alike. Most heads have 64 elements because only then does llama.cpp
rotate a quantized cache by a Hadamard matrix; "llama-hd32" is the quantized cache that it leaves unrotated.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from . import decoders, mixed
from .decoders import MHA
from .parts import Sizes
from .writer import Net

BUILDERS: dict[str, Callable[..., None]] = {
    "llama": decoders.llama,
    "baichuan": decoders.baichuan,
    "smollm3": decoders.smollm3,
    "qwen2": decoders.qwen2,
    "qwen2vl": decoders.qwen2vl,
    "qwen3": decoders.qwen3,
    "hunyuan-dense": decoders.hunyuan_dense,
    "chatglm": decoders.chatglm,
    "phi2": decoders.phi2,
    "phi3": decoders.phi3,
    "gemma2": decoders.gemma2,
    "gemma3": decoders.gemma3,
    "cohere2": decoders.cohere2,
    "openelm": decoders.openelm,
    "deci": decoders.deci,
    "lfm2": mixed.lfm2,
    "jamba": mixed.jamba,
    "falcon-h1": mixed.falcon_h1,
    "mamba": mixed.mamba,
    "deepseek2": mixed.deepseek2,
}

SLIM = {**MHA, "n_embd": 64, "head_dim": 32, "n_ff": 32}  # for those that must have many layers

# what an architecture needs or is chosen to show; anything may be overridden in make()
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "llama-hd32": ("llama", {"head_dim": 32}),
    "llama-hd96": ("llama", {"head_dim": 96, "n_head": 2, "n_head_kv": 2}),
    "llama-hd128": ("llama", {"head_dim": 128, "n_head": 2, "n_head_kv": 2}),
    "llama-hd192": ("llama", {"head_dim": 192, "n_head": 2, "n_head_kv": 1}),
    "llama-freqs": ("llama", {"freq_factors": True}),
    "llama-yarn": ("llama", {"yarn_factor": 4.0, "n_ctx_train": 8192}),
    "qwen2": ("qwen2", {**MHA}),
    "qwen2-yarn": ("qwen2", {**MHA, "yarn_factor": 4.0, "n_ctx_train": 8192}),
    "qwen2vl": ("qwen2vl", {**MHA}),
    "qwen3": ("qwen3", {"freq_base": 1e6}),
    "chatglm": ("chatglm", {**MHA, "n_rot": 32}),
    "phi2": ("phi2", {**MHA, "n_rot": 32}),
    "phi3": ("phi3", {**MHA}),
    "gemma3": ("gemma3", {"n_layer": 6, "freq_base": 1e6}),
    "cohere2": ("cohere2", {**MHA}),
    "openelm": ("openelm", {"n_head": (2, 4, 4, 6), "n_head_kv": (1, 2, 4, 3)}),
    "deci": ("deci", {"n_head": (4, 4, 2, 4), "n_head_kv": (2, 4, 2, 1)}),
    "deci-empty": ("deci", {"n_head": (4, 0, 2, 4), "n_head_kv": (2, 0, 2, 1)}),
    "baichuan": ("baichuan", {**SLIM, "n_layer": 32}),
    "baichuan-13b": ("baichuan", {**SLIM, "n_layer": 40}),
    "falcon-h1-freqs": ("falcon-h1", {"freq_factors": True}),
    "lfm2": ("lfm2", {"n_head": 2, "n_head_kv": (2, 0, 2, 0)}),
    "lfm2-swa": ("lfm2", {"n_head": 2, "n_head_kv": (2, 0, 2, 0), "n_swa": 24}),
    "jamba": ("jamba", {"n_head": 2, "n_head_kv": (2, 0, 2, 0)}),
    "deepseek2": ("deepseek2", {"n_head_kv": 4}),
}

NAMES = sorted({*BUILDERS, *VARIANTS})
_SIZES = set(Sizes.__dataclass_fields__)


def make(arch: str, path: Path, *, n_layer: int | None = None, seed: int = 0, dtype: str = "f32", **kw: object) -> Path:
    """Write a tiny model to `path` and return it.

    `arch`: one of NAMES. `dtype`: of the matrices, f32 or f16. `kw`: a field of `parts.Sizes` (n_head_kv=1,
    vocab="bpe", ...) or an option of the architecture's builder (n_swa=16, ...). Raises ValueError for an unknown
    name, TypeError for an unknown option. An architecture with one value per layer needs all of them anew when
    `n_layer` changes.
    """
    if arch not in NAMES:
        raise ValueError(f"no tiny model called {arch!r}; there are {', '.join(NAMES)}")
    gguf_arch, defaults = VARIANTS.get(arch, (arch, {}))
    options = {**defaults, **kw}
    sizes = {key: options.pop(key) for key in list(options) if key in _SIZES}
    if n_layer is not None:
        sizes["n_layer"] = n_layer
    net = Net(gguf_arch, seed)
    BUILDERS[gguf_arch](net, Sizes(**sizes), **options)
    return net.save(Path(path), dtype)


def cached(folder: Path, arch: str, **kw: object) -> Path:
    """The model of `make(arch, ..., **kw)` inside `folder`, made only once."""
    tags = [f"{key}={value}" for key, value in sorted(kw.items())]
    path = Path(folder) / ("_".join([arch, *tags]).replace(" ", "") + ".gguf")
    return path if path.exists() else make(arch, path, **kw)
