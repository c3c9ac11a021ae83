"""Before a model is loaded: how much memory it will need, and whether that fits.

What it is: arithmetic on the header of a GGUF file. `estimate` puts weights, KV memory and work buffers on the devices
they will lie on and compares with what is free there (`free_memory`).
What it does not know: gradio, where a model comes from, how one is loaded, what a policy keeps (reach.py).

    shape = ModelShape.from_file(Path("model.gguf"))
    found = estimate(shape, Load(n_cells=1024), free_memory())
    print(found.text)                     # needs 230 MiB of RAM (...), 9.8 GiB are free: fits
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lacache_gguf.devices import cell_step
from lacache_gguf.gguf_header import GgufHeader, read_header, shard_paths
from lacache_gguf.kv_budget import KvGeometry, round_up
from lacache_gguf.policies import is_per_head, needs_of
from lacache_gguf.surprise import n_frequent

if TYPE_CHECKING:
    from lacache_gguf.policies import Policy

_COMPACT_BLOCK_BYTES, _N_COMPACT_BLOCKS = 8 << 20, 3  # most that a compaction allocates, see docs/how-it-works.md
_TIGHT = 0.9  # above this share of what is free it fits, but the computer may become slow
_F32 = 4


@dataclass(frozen=True)
class ModelShape:
    """What the arithmetic needs from a model: its KV geometry, a few widths, and the bytes of its files."""

    geometry: KvGeometry
    weights_bytes: int
    n_vocab: int
    n_embd: int
    n_ff: int  # widest feed-forward layer, all experts that a token uses together
    n_head: int
    n_inner: int = 0  # width of a recurrent layer

    @classmethod
    def from_header(cls, header: GgufHeader, weights_bytes: int) -> ModelShape:
        """Raises DamagedModel or UnsupportedModel as `KvGeometry.from_metadata` does."""

        def widest(key: str) -> int:
            text = header.metadata.get(f"{header.architecture}.{key}", "0")
            numbers = [item.strip() for item in text.strip("[]").split(",")]
            return max((int(n) for n in numbers if n.isdigit()), default=0)

        n_expert = widest("expert_used_count")
        n_ff = max(widest("feed_forward_length"), n_expert * widest("expert_feed_forward_length"))
        n_vocab = header.n_vocab or widest("vocab_size")
        return cls(
            KvGeometry.from_metadata(header.metadata, cell_step()),
            weights_bytes,
            n_vocab,
            widest("embedding_length"),
            n_ff,
            widest("attention.head_count"),
            widest("ssm.inner_size"),
        )

    @classmethod
    def from_file(cls, path: Path) -> ModelShape:
        """Shape of a model on this machine, all its shards counted."""
        return cls.from_header(read_header(path), sum(part.stat().st_size for part in shard_paths(path)))


@dataclass(frozen=True)
class Load:
    """How a model is to be loaded: the settings that cost memory. `n_gpu_layers` negative = all.

    n_query      newest queries that are recorded for the policy, 0 = none; `is_per_head`: KV heads keep cells of their
                 own; `has_surprise`: the policy wants every token's loss. `load_for` fills them in
    """

    n_cells: int
    n_ubatch: int = 512
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: bool | None = None
    n_gpu_layers: int = -1
    n_query: int = 0
    is_per_head: bool = False
    has_surprise: bool = False


def load_for(policy: Policy, load: Load) -> Load:
    """`load` with what this policy needs beside the cells."""
    needs = needs_of(policy)
    return replace(
        load,
        n_query=sum(need.n_query for need in needs),
        is_per_head=is_per_head(policy),
        has_surprise=any(need.kind == "surprise" for need in needs),
    )


@dataclass(frozen=True)
class FreeMemory:
    """Memory of one device, in bytes; free 0 = unknown. `name` "RAM" is the main memory."""

    name: str
    free_bytes: int
    total_bytes: int = 0


@dataclass(frozen=True)
class Share:
    """What one device has to hold, in bytes, and what is free there."""

    device: FreeMemory
    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    query_bytes: int = 0

    @property
    def need_bytes(self) -> int:
        """All of them together."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes + self.query_bytes

    @property
    def fits(self) -> bool:
        """Whether it fits; what is unknown counts as enough."""
        return not self.device.free_bytes or self.need_bytes <= self.device.free_bytes

    @property
    def is_tight(self) -> bool:
        """Whether it takes nearly all that is free."""
        return self.fits and bool(self.device.free_bytes) and self.need_bytes > _TIGHT * self.device.free_bytes


@dataclass(frozen=True)
class Estimate:
    """What loading needs, device by device, and the largest KV budget that fits (0: not even the smallest does)."""

    shares: tuple[Share, ...]
    largest_kv_bytes: int = field(default=0)

    @property
    def fits(self) -> bool:
        """Whether it fits on every device."""
        return all(share.fits for share in self.shares)

    @property
    def need_bytes(self) -> int:
        """On all devices together."""
        return sum(share.need_bytes for share in self.shares)

    @property
    def text(self) -> str:
        """One sentence for every device, the last one with what to do if it does not fit."""
        lines = [_sentence(share) for share in self.shares]
        if not self.fits:
            smaller = "choose a smaller quantization"
            n_mib = self.largest_kv_bytes // 2**20
            lines[-1] += f": lower the budget to {n_mib:,} MiB or {smaller}" if n_mib else f": {smaller}"
            if len(self.shares) > 1:
                lines[-1] += ", or put fewer layers on the GPU"
        return ". ".join(lines) + "."


def size_text(n_bytes: float) -> str:
    """ "22.5 KiB", "230 MiB", "9.8 GiB": three digits."""
    unit = "KiB" if n_bytes < 2**20 else "MiB" if n_bytes < 2**30 else "GiB"
    number = n_bytes / {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit]
    return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.1f}".removesuffix(".0") + f" {unit}"


def _sentence(share: Share) -> str:
    parts = (
        ("weights", share.weights_bytes),
        ("KV memory", share.kv_bytes),
        ("records of attention", share.query_bytes),
        ("work buffers", share.compute_bytes),
    )
    what = ", ".join(f"{name} {size_text(n)}" for name, n in parts if n)
    text = f"needs {size_text(share.need_bytes)} of {share.device.name} ({what})"
    if not share.device.free_bytes:
        return f"{text}; how much is free there is unknown"
    verdict = "does not fit" if not share.fits else "fits, but only just" if share.is_tight else "fits"
    return f"{text}, {size_text(share.device.free_bytes)} are free: {verdict}"


# ---- what is free ----------------------------------------------------------------------------------------------------


def free_memory() -> list[FreeMemory]:
    """RAM first, then the GPUs of the library's backends (integrated ones where there are no others)."""
    from lacache_gguf import devices, native

    found = [ram()]
    if native.load_error() is None:
        all_devices = devices.devices()
        gpus = [d for d in all_devices if d.type == "gpu"] or [d for d in all_devices if d.type == "igpu"]
        found += [
            FreeMemory(f"{d.name} ({' '.join(d.description.split())})", d.free_bytes, d.total_bytes) for d in gpus
        ]
    return found


def ram(cgroup: Path = Path("/sys/fs/cgroup")) -> FreeMemory:
    """Main memory that a program can still get; inside a container with a limit, no more than the limit leaves."""
    import psutil

    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    try:
        limit, used = (int((cgroup / name).read_text()) for name in ("memory.max", "memory.current"))
        details = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        used -= int(details.get("inactive_file", 0))  # cached files give way
    except (OSError, ValueError):  # no such files, or the limit is "max"
        return FreeMemory("RAM", free, total)
    return FreeMemory("RAM", max(1, min(free, limit - used)), min(total, limit))


# ---- bytes -----------------------------------------------------------------------------------------------------------


def kv_bytes(shape: ModelShape, load: Load) -> int:
    """Bytes of the KV memory, exactly what llama.cpp allocates."""
    n_ubatch = min(load.n_ubatch, load.n_cells)
    return shape.geometry.bytes(load.n_cells, n_ubatch, load.type_k, load.type_v)


def query_bytes(shape: ModelShape, load: Load) -> int:
    """Bytes of the queries that are recorded for policies that go by attention, in f32, beside the KV memory."""
    widths = (shape.n_head * layer.n_embd_head_k for layer in shape.geometry.layers if not layer.is_swa)
    return _F32 * load.n_query * sum(widths)


def compute_bytes(shape: ModelShape, load: Load) -> int:
    """About how many bytes llama.cpp's work buffers and our plans take.

    A graph's buffer is as large as its widest moment, and memory of one moment is used again by the next. The moments
    of a ubatch of U tokens over C cells, all in f32 unless said otherwise:

        logits         U x (vocabulary + 2 rows of the model's width): reserved for every token of a ubatch; where
                       surprise is told from them, also the frequent tokens of the vocabulary and 1 row more
        attention      the mask C x U (f16 with flash attention; twice for window models) and a few rows of the width;
                       without flash attention also the scores, C x U for every head
        feed-forward   U x 3 of its width
        recurrent      U x 8 of its width, and a few rows of the model's
        compaction     3 blocks of at most 8 MiB

    Plus 8 bytes per layer and cell (and KV head, where heads keep cells of their own) for the plan and the record of
    which token lies where, and 4 per layer, KV head and cell for attention that is carried on. A model test compares
    this with what llama.cpp says that it allocated.
    """
    n_tokens, n_cells = min(load.n_ubatch, load.n_cells), round_up(load.n_cells, shape.geometry.cell_step)
    has_flash = load.flash_attn is not False
    is_mixed = len({layer.is_swa for layer in shape.geometry.layers}) > 1
    row = _F32 * n_tokens
    widest_kv = max(layer.n_head_kv * (layer.n_embd_head_k + layer.n_embd_head_v) for layer in shape.geometry.layers)
    n_q = shape.n_head * max(layer.n_embd_head_k for layer in shape.geometry.layers)
    mask = n_cells * n_tokens * (2 if has_flash else _F32) * (2 if is_mixed else 1)
    scores = 0 if has_flash else n_cells * n_tokens * _F32 * shape.n_head
    told = n_frequent(shape.n_vocab) + shape.n_embd if load.has_surprise else 0
    moments = (
        row * (shape.n_vocab + 2 * shape.n_embd + told),
        row * (4 * shape.n_embd + 2 * n_q + widest_kv) + mask + scores,
        row * (3 * shape.n_ff + 2 * shape.n_embd),
        row * (8 * shape.n_inner + 4 * shape.n_embd),
        _N_COMPACT_BLOCKS * min(_COMPACT_BLOCK_BYTES, n_cells * widest_kv * _F32),
    )
    layers = shape.geometry.layers
    n_heads = sum(layer.n_head_kv for layer in layers)
    records = 2 * _F32 * (n_heads if load.is_per_head else len(layers)) + (_F32 * n_heads if load.n_query else 0)
    return max(moments) + records * n_cells


def estimate(shape: ModelShape, load: Load, devices: Sequence[FreeMemory]) -> Estimate:
    """Who has to hold how much. `devices`: RAM first, then the GPUs that layers go to (none: everything in RAM).

    Layers go to GPUs as llama.cpp does it: the last `n_gpu_layers`, the output layer counting as one more, spread by
    the GPUs' free memory. All layers count as equally large.
    """
    step = shape.geometry.cell_step
    low, high = 0, max(1, -(-(shape.geometry.n_ctx_train or load.n_cells) // step))
    while low < high:  # most steps of cells that fit
        middle = (low + high + 1) // 2
        attempt = replace(load, n_cells=middle * step)
        low, high = (middle, high) if _all_fit(_shares(shape, attempt, devices)) else (low, middle - 1)
    largest = kv_bytes(shape, replace(load, n_cells=low * step)) if low else 0
    return Estimate(_shares(shape, load, devices), largest)


def _all_fit(shares: Sequence[Share]) -> bool:
    return all(share.fits for share in shares)


def _shares(shape: ModelShape, load: Load, devices: Sequence[FreeMemory]) -> tuple[Share, ...]:
    ram, *gpus = devices
    n_layer = shape.geometry.n_layer
    n_gpu = n_layer + 1 if load.n_gpu_layers < 0 else min(load.n_gpu_layers, n_layer + 1)
    kv, compute, query = kv_bytes(shape, load), compute_bytes(shape, load), query_bytes(shape, load)
    if not gpus or not n_gpu:
        return (Share(ram, shape.weights_bytes, kv, compute, query),)
    weights_gpu = shape.weights_bytes * n_gpu // (n_layer + 1)
    kv_gpu, query_gpu = (n_bytes * min(n_gpu, n_layer) // n_layer for n_bytes in (kv, query))
    free = [gpu.free_bytes or 1 for gpu in gpus]
    shares = [Share(ram, shape.weights_bytes - weights_gpu, kv - kv_gpu, compute // 8, query - query_gpu)]
    for gpu, weight in zip(gpus, free, strict=True):
        part = weight / sum(free)
        parts = (int(n_bytes * part) for n_bytes in (weights_gpu, kv_gpu))
        shares.append(Share(gpu, *parts, compute, int(query_gpu * part)))
    return tuple(shares)
