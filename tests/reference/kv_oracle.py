"""Slow twin of the native compaction, in numpy, from the model file and the bytes of the cache alone.

What a compaction must do to one layer: cell i of the result is cell keep[i] of the source. V is moved, byte for byte.
K is moved byte for byte where its position stays; where it moves, the stored row is taken back to numbers, rotated by
new minus old position, and stored again. A quantized K lives in a Hadamard-rotated basis when the head size is a
multiple of 64 (llama_kv_cache::build_input_k_rot), so the rotation has to leave that basis and return to it.

RoPE follows ggml_rope (rope_yarn in ggml/src/ggml-cpu/ops.cpp) and the YaRN paper (arXiv 2309.00071, section 3.2), in
float64. YaRN's factor on the magnitude belongs to the first rotation only: turning a key again must not scale it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

# pairs of neighbours, or of elements half the rotated width apart (llama_model_rope_type in src/llama-model.cpp)
ROPE_KIND = {
    "llama": "norm",
    "smollm3": "norm",
    "chatglm": "norm",
    "cohere2": "norm",
    "deci": "norm",
    "qwen2": "neox",
    "qwen3": "neox",
    "phi2": "neox",
    "phi3": "neox",
    "gemma2": "neox",
    "gemma3": "neox",
    "openelm": "neox",
    "lfm2": "neox",
    "falcon-h1": "neox",
    "hunyuan-dense": "neox",
    "jamba": "none",
}


@dataclass(frozen=True)
class Rope:
    """The rotation one layer applies to its keys."""

    kind: str  # norm, neox, none
    n_rot: int
    freq_base: float
    freq_scale: float = 1.0
    factors: np.ndarray | None = None  # [n_rot/2], divide the frequency of a pair
    yarn_n_ctx_orig: int | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    def frequencies(self) -> np.ndarray:
        """Radians per position of each pair, float64 [n_rot/2]."""
        n_pair = self.n_rot // 2
        freq = self.freq_base ** (-np.arange(n_pair) / n_pair)
        if self.factors is not None:
            freq = freq / self.factors
        if self.yarn_n_ctx_orig is None:
            return freq * self.freq_scale

        def pair_with(n_turns: float) -> float:  # the (real-valued) pair that turns so often in the original context
            return n_pair * np.log(self.yarn_n_ctx_orig / (n_turns * 2 * np.pi)) / np.log(self.freq_base)

        low = max(0.0, np.floor(pair_with(self.beta_fast)))
        high = min(self.n_rot - 1.0, np.ceil(pair_with(self.beta_slow)))
        keep = 1.0 - np.clip((np.arange(n_pair) - low) / max(0.001, high - low), 0.0, 1.0)
        return freq * (self.freq_scale * (1.0 - keep) + keep)

    @property
    def magnitude(self) -> float:
        """What YaRN multiplies a key by when it is first rotated."""
        return 1.0 if self.yarn_n_ctx_orig is None else 1.0 + 0.1 * np.log(1.0 / self.freq_scale)

    def rotate(self, rows: np.ndarray, delta: np.ndarray) -> np.ndarray:
        """Rotate float64 rows [n, n_head, head_dim] by `delta` [n] or [n, n_head] positions; magnitudes stay."""
        if self.kind == "none":
            return rows
        angle = np.asarray(delta, np.float64).reshape(len(rows), -1, 1) * self.frequencies()
        cos, sin = np.cos(angle), np.sin(angle)
        half = self.n_rot // 2
        first, second = (
            (slice(0, self.n_rot, 2), slice(1, self.n_rot, 2))
            if self.kind == "norm"
            else (slice(0, half), slice(half, self.n_rot))
        )
        out = rows.copy()
        out[..., first] = rows[..., first] * cos - rows[..., second] * sin
        out[..., second] = rows[..., first] * sin + rows[..., second] * cos
        return out


@dataclass(frozen=True)
class Layer:
    """One layer that has keys and values."""

    il: int
    n_head_kv: int
    head_dim: int
    rope: Rope
    is_swa: bool


def attention_layers(path: Path, n_ctx: int) -> list[Layer]:
    """The attention layers of a GGUF model as a context of `n_ctx` cells per sequence sees them."""
    reader = gguf.GGUFReader(path)
    meta = {field.name: field.contents() for field in reader.fields.values()}
    tensors = {tensor.name: np.asarray(tensor.data, np.float64) for tensor in reader.tensors if "rope_f" in tensor.name}
    arch = meta["general.architecture"]

    def get(key: str, default: object = None) -> object:
        return meta.get(f"{arch}.{key}", default)

    n_layer, head_dim = get("block_count"), get("attention.key_length")
    n_ctx_orig = get("rope.scaling.original_context_length", get("context_length"))
    scaling = get("rope.scaling.type", "linear")
    factors = tensors.get("rope_freqs.weight")
    if scaling == "longrope":
        factors = tensors["rope_factors_long.weight" if n_ctx > n_ctx_orig else "rope_factors_short.weight"]
    period = {"gemma2": 2}.get(arch, get("attention.sliding_window_pattern", 0))
    window = get("attention.sliding_window", 0)
    layers = []
    for il in range(n_layer):
        n_head_kv = get("attention.head_count_kv")
        n_head_kv = n_head_kv[il] if isinstance(n_head_kv, list) else n_head_kv
        is_swa = bool(window and period and il % period < period - 1)
        has_rope = {"smollm3": (il + 1) % 4 != 0, "cohere2": is_swa}.get(arch, True)
        rope = Rope(
            kind=ROPE_KIND[arch] if has_rope else "none",
            n_rot=get("rope.dimension_count", head_dim),
            freq_base=get("rope.freq_base_swa", get("rope.freq_base")) if is_swa else get("rope.freq_base"),
            freq_scale=1.0 if is_swa else 1.0 / get("rope.scaling.factor", 1.0),
            factors=factors,
            yarn_n_ctx_orig=n_ctx_orig if scaling == "yarn" else None,
        )
        is_recurrent = n_head_kv == 0 and arch in ("lfm2", "jamba")
        if not is_recurrent:
            layers.append(Layer(il, n_head_kv, head_dim, rope, is_swa))
    return layers


def hadamard(n: int) -> np.ndarray:
    """The normalized Walsh-Hadamard matrix [n, n]; symmetric and its own inverse."""
    if n == 1:
        return np.ones((1, 1))
    half = hadamard(n // 2)
    return np.block([[half, half], [half, -half]]) / np.sqrt(2.0)


def hadamard_size(kind: gguf.GGMLQuantizationType, head_dim: int) -> int:
    """Side of the matrix llama.cpp applies to blocks of a stored key head; 1 = none."""
    plain = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16, gguf.GGMLQuantizationType.BF16)
    if kind in plain or head_dim % 64 != 0:
        return 1
    return head_dim & -head_dim  # the largest power of two that divides it


def change_basis(rows: np.ndarray, n: int) -> np.ndarray:
    """Apply the Hadamard matrix of side `n` to every block of the last axis (there and back are the same)."""
    return rows if n == 1 else (rows.reshape(*rows.shape[:-1], -1, n) @ hadamard(n)).reshape(rows.shape)


def moved_keys(values: np.ndarray, kind: gguf.GGMLQuantizationType, layer: Layer, delta: np.ndarray) -> np.ndarray:
    """Exact result of moving stored key rows [n, n_embd] by `delta` [n] positions, still in the stored basis."""
    if values.shape[1] == 0:
        return values.astype(np.float64)
    n = hadamard_size(kind, layer.head_dim)
    rows = values.astype(np.float64).reshape(len(values), layer.n_head_kv, layer.head_dim)
    turned = change_basis(layer.rope.rotate(change_basis(rows, n), delta), n)
    return turned.reshape(values.shape)


def key_bound(raw: np.ndarray, kind: gguf.GGMLQuantizationType, exact: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """Largest honest difference between a stored key element and its exact value, [n, n_embd].

    Two parts. Arithmetic in f32: ggml multiplies angles up step by step, which costs about 4e-7 of the angle
    (at most |delta| radians), and sums up to 256 products of a Hadamard row. Storage: half a step of the format,
    a whole step for q4_0 and q5_0, whose range ends one step short on one side, and for iq4_nl, whose scale is fitted,
    the overhang of 14 units on its short side plus a fifth for the fit; and what f16 does to scale and offset.
    """
    types = gguf.GGMLQuantizationType
    size = np.abs(exact).max(axis=1, keepdims=True) if exact.size else np.zeros((len(exact), 1))
    arithmetic = size * (4e-7 * np.abs(np.asarray(delta))[:, None] + 3e-6)
    if kind == types.F32:
        return np.broadcast_to(arithmetic, exact.shape)
    if kind == types.F16:
        return arithmetic + np.spacing(np.abs(exact).astype(np.float16)).astype(np.float64)
    if kind == types.BF16:
        return arithmetic + np.abs(exact) * 2.0**-8 + 1e-30
    n_values, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = raw.reshape(len(raw), -1, n_bytes)
    step = np.abs(blocks[..., :2].copy().view(np.float16).astype(np.float64))[..., 0]
    steps = {types.Q8_0: 0.5, types.Q4_1: 0.5, types.Q5_1: 0.5, types.Q4_0: 1.0, types.Q5_0: 1.0, types.IQ4_NL: 17.0}
    storage = np.repeat(step * steps[kind], n_values, axis=1) + 2.0**-10 * size
    return arithmetic + storage


def worst(stored: np.ndarray, exact: np.ndarray, bound: np.ndarray) -> float:
    """Largest difference as a multiple of its bound; at most 1 if all is well, 0 for no elements."""
    if stored.size == 0:
        return 0.0
    return float((np.abs(stored - exact) / bound).max())


def largest(difference: np.ndarray) -> float:
    return float(np.abs(difference).max(initial=0.0))
