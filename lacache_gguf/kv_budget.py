"""How many bytes of KV memory a number of cells costs, and how many cells a budget buys.

What it is: pure arithmetic on a model's metadata. A cell holds the K and V rows of one token in every attention layer.
What it does not know: the library, files, devices. Metadata are strings as `llama_model_meta_val_str` gives them; that
function leaves arrays out, so pass `gguf_header.read_header(path).metadata`, which has them.
Where metadata leave a layer's kind open, the layer counts as full attention: the result is then an upper bound, never
less than what llama.cpp allocates. Not counted: the fixed state of recurrent layers and the compute buffers.

    >>> smollm2 = {"general.architecture": "llama", "llama.block_count": "30", "llama.embedding_length": "576",
    ...            "llama.attention.head_count": "9", "llama.attention.head_count_kv": "3"}
    >>> KvGeometry.from_metadata(smollm2).bytes(1024) / 2**20
    22.5
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lacache_gguf.errors import DamagedModel, UnsupportedModel, UsageError
from lacache_gguf.metadata import Metadata

_N_CELLS_DEFAULT = 1024
CELL_STEP = 256
"""Stock llama.cpp allocates KV memory in multiples of this many cells (`GGML_PAD(n_ctx, 256)`, src/llama-context.cpp);
so do window layers (src/llama-kv-cache-iswa.cpp). What our build does on this machine says `devices.cell_step`."""

KV_TYPES: dict[str, tuple[int, int]] = {
    "f32": (1, 4),
    "f16": (1, 2),
    "bf16": (1, 2),
    "q8_0": (32, 34),
    "q5_1": (32, 24),
    "q5_0": (32, 22),
    "q4_1": (32, 20),
    "q4_0": (32, 18),
    "iq4_nl": (32, 18),
}
"""KV type -> (values per block, bytes per block): ggml's type traits of what llama.cpp takes for -ctk and -ctv."""

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_BUDGET = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[kmgt]?)(?P<kind>ib|b)?", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """A KV budget as the user gave it: cells or bytes, exactly one of them set."""

    n_cells: int | None = None
    n_bytes: int | None = None


@dataclass(frozen=True)
class KvLayer:
    """One attention layer: KV heads, values per K and V head, and whether it only sees a sliding window."""

    n_head_kv: int
    n_embd_head_k: int
    n_embd_head_v: int
    is_swa: bool = False


@dataclass(frozen=True)
class KvGeometry:
    """The attention layers of a model (layers without KV memory left out), its window and its trained context."""

    layers: tuple[KvLayer, ...]
    n_layer: int  # all blocks, recurrent ones included
    n_ctx_train: int
    n_swa: int = 0
    cell_step: int = CELL_STEP  # cells are allocated in multiples of this many

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], cell_step: int = CELL_STEP) -> KvGeometry:
        """Read the geometry from GGUF metadata. `cell_step`: devices.cell_step() for memory on this machine.

        Raises DamagedModel when a key is missing or no number, UnsupportedModel when no layer has KV memory.
        """
        meta = Metadata(metadata)
        n_layer = meta.integer("block_count")
        heads = meta.per_layer("attention.head_count", n_layer, default=[0] * n_layer)
        heads_kv = meta.per_layer("attention.head_count_kv", n_layer, default=heads)
        n_swa = meta.integer("attention.sliding_window", 0)
        is_swa = meta.swa_layers(n_layer) if n_swa else [False] * n_layer
        has_kv = meta.layers_with_kv(n_layer)
        n_head = next((n for n in heads if n), 0)
        head = meta.integer("embedding_length", 0) // n_head if n_head else 0
        size_k, size_v = meta.integer("attention.key_length", head), meta.integer("attention.value_length", head)
        swa_k, swa_v = (
            meta.integer("attention.key_length_swa", size_k),
            meta.integer("attention.value_length_swa", size_v),
        )
        layers = tuple(
            KvLayer(n, swa_k if swa else size_k, swa_v if swa else size_v, swa)
            for n, swa, kv in zip(heads_kv, is_swa, has_kv, strict=True)
            if n > 0 and kv
        )
        if not layers:
            raise UnsupportedModel(f"architecture {meta.architecture!r} has no KV memory, so there is nothing to bound")
        if min(min(layer.n_embd_head_k, layer.n_embd_head_v) for layer in layers) < 1:
            raise DamagedModel("the model's metadata give no head size (embedding_length or attention.key_length)")
        return cls(layers, n_layer, meta.integer("context_length", 0), n_swa if any(is_swa) else 0, cell_step)

    def bytes_per_cell(self, type_k: str = "f16", type_v: str = "f16") -> int:
        """Bytes that one more cell costs: its K and V rows in all layers with full attention."""
        return sum(_row_bytes(layer, type_k, type_v) for layer in self.layers_planned)

    def bytes(
        self, n_ctx: int, n_ubatch: int = 512, type_k: str = "f16", type_v: str = "f16", *, swa_full: bool = False
    ) -> int:
        """Bytes allocated for `n_ctx` cells, rounded up to whole steps; window layers hold n_swa + n_ubatch cells at
        most, rounded up to 256."""
        n_cells = round_up(n_ctx, self.cell_step)
        n_window = n_cells if swa_full else round_up(min(n_cells, self.n_swa + n_ubatch), CELL_STEP)
        return sum((n_window if layer.is_swa else n_cells) * _row_bytes(layer, type_k, type_v) for layer in self.layers)

    @property
    def layers_planned(self) -> tuple[KvLayer, ...]:
        """The layers that a policy plans for: those with full attention."""
        return tuple(layer for layer in self.layers if not layer.is_swa)

    @property
    def n_head_kv(self) -> int:
        """KV heads of a layer that a policy plans for; 0 if not all have as many."""
        counts = {layer.n_head_kv for layer in self.layers_planned}
        return counts.pop() if len(counts) == 1 else 0

    def heads_can_part(self, type_k: str, type_v: str) -> bool:
        """True if every KV head may keep cells of its own: all layers have as many heads, and a head's row is a whole
        number of 4-byte words (patches/overlay/src/llama-kv-compact-reason.cpp)."""
        sizes = {row_size(layer.n_embd_head_k, type_k, layer.n_embd_head_k) for layer in self.layers_planned}
        sizes |= {row_size(layer.n_embd_head_v, type_v, layer.n_embd_head_v) for layer in self.layers_planned}
        return self.n_head_kv > 0 and all(size % 4 == 0 for size in sizes)

    def cells_for(
        self,
        budget_bytes: int,
        n_ubatch: int = 512,
        type_k: str = "f16",
        type_v: str = "f16",
        *,
        swa_full: bool = False,
    ) -> int:
        """Most cells, in whole steps, whose memory fits in the budget; never more than the trained context, since
        positions beyond it mean nothing to the model. Raises UsageError when the budget is below one step.
        """

        def cost(n_steps: int) -> int:
            return self.bytes(n_steps * self.cell_step, n_ubatch, type_k, type_v, swa_full=swa_full)

        if budget_bytes < cost(1):
            raise UsageError(
                f"a KV budget of {_mib(budget_bytes)} is too small: {self.cell_step} cells, the least there can be, "
                f"need {_mib(cost(1))} with K in {type_k} and V in {type_v}; raise --kv-budget or use a smaller KV type"
            )
        low, high = 1, max(1, (self.n_ctx_train or 1 << 24) // self.cell_step) + 1
        while high - low > 1:  # cost grows with the number of steps
            middle = (low + high) // 2
            low, high = (middle, high) if cost(middle) <= budget_bytes else (low, middle)
        return min(low * self.cell_step, self.n_ctx_train or low * self.cell_step)

    def budget_cells(
        self,
        n_ctx: int | None,
        kv_budget: str | int | None,
        n_ubatch: int = 512,
        type_k: str = "f16",
        type_v: str = "f16",
    ) -> int:
        """Cells of a budget given as cells (`n_ctx`) or as memory (`kv_budget`); 1,024 or what the model was trained on
        if neither is given. Raises UsageError for both, or for more than the trained context.
        """
        if n_ctx is not None and kv_budget is not None:
            raise UsageError(f"n_ctx {n_ctx} and kv_budget {kv_budget} both set the budget; give one of them")
        n_train = self.n_ctx_train or 1 << 24
        if n_ctx is None and kv_budget is None:
            return min(_N_CELLS_DEFAULT, n_train)
        budget = parse_budget(n_ctx if kv_budget is None else kv_budget)
        if budget.n_bytes is not None:
            return self.cells_for(budget.n_bytes, n_ubatch, type_k, type_v)
        if budget.n_cells > n_train:
            raise UsageError(
                f"a budget of {budget.n_cells} cells exceeds the {n_train} positions this model was trained on; "
                f"lower --ctx-size/--kv-budget to {n_train} or less (the text itself may be of any length)"
            )
        return budget.n_cells


def parse_budget(value: str | int) -> Budget:
    """ "256MiB", "1GiB", "1.5G" are bytes (MB and GB are decimal); 4096 or "4096" are cells. Raises UsageError."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise UsageError(f"KV budget {value!r}: give cells (4096) or memory ('256MiB', '1GiB')")
    match = _BUDGET.fullmatch(str(value).strip())
    if match is None:
        raise UsageError(f"KV budget {value!r} is not understood: give cells (4096) or memory (256MiB, 1.5GiB)")
    unit, kind = match["unit"].lower(), (match["kind"] or "").lower()
    if not unit and not kind:
        n_cells = float(match["number"])
        if n_cells < 1 or n_cells != int(n_cells):
            raise UsageError(f"KV budget {value!r}: cells must be a whole number, at least 1 (or give memory: 256MiB)")
        return Budget(n_cells=int(n_cells))
    scale = 1000 ** "kmgt".index(unit) * 1000 if unit and kind == "b" else _UNITS[unit]
    n_bytes = int(float(match["number"]) * scale)
    if n_bytes < 1:
        raise UsageError(f"KV budget {value!r} is no memory at all; give, say, 256MiB")
    return Budget(n_bytes=n_bytes)


def row_size(n_values: int, kv_type: str, n_embd_head: int) -> int:
    """Bytes of a row of `n_values` in a KV type.

    Raises UsageError for an unknown type and for one whose blocks do not fit the head.
    """
    if kv_type not in KV_TYPES:
        raise UsageError(f"KV cache type {kv_type!r} is unknown; choose one of {', '.join(KV_TYPES)}")
    n_block, n_bytes = KV_TYPES[kv_type]
    if n_embd_head % n_block:
        raise UsageError(
            f"KV cache type {kv_type} stores blocks of {n_block} values, but this model's heads have {n_embd_head}; "
            "use f16"
        )
    return n_values // n_block * n_bytes


def round_up(n_cells: int, step: int) -> int:
    """`n_cells` in whole steps."""
    return -(-n_cells // step) * step


def _row_bytes(layer: KvLayer, type_k: str, type_v: str) -> int:
    return row_size(layer.n_head_kv * layer.n_embd_head_k, type_k, layer.n_embd_head_k) + row_size(
        layer.n_head_kv * layer.n_embd_head_v, type_v, layer.n_embd_head_v
    )


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.2f} MiB"
