"""Typed look-ups in a model's metadata, "{architecture}.{key}", and what llama.cpp has in code where a file is silent.

Values are strings as `gguf_header` gives them: "30", "true", "[3, 3, 0]". What is no count raises DamagedModel.

    Metadata({"general.architecture": "llama", "llama.block_count": "30"}).integer("block_count")   # 30
"""

from __future__ import annotations

from collections.abc import Mapping

from lacache_gguf.errors import DamagedModel

# Period of the sliding-window layers where llama.cpp has it in code (load_swa_pattern in src/models/*.cpp), and whether
# the dense layer comes first. Other architectures count as full attention everywhere unless the metadata have an array.
_SWA_PERIOD: dict[str, tuple[int, bool]] = {
    "gemma2": (2, False),
    "gemma3": (6, False),
    "gemma3n": (5, False),
    "cohere2": (4, False),
    "gpt-oss": (2, False),
    "olmo2": (4, False),
    "plamo3": (8, False),
    "smallthinker": (4, True),
}
_LAYERS_WITH_KV = {"gemma3n": 20}  # later layers read the cells of earlier ones (n_layer_kv_from_start in gemma3n.cpp)


class Metadata:
    """The values of one model; a key is given without its architecture."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values
        self.architecture = values.get("general.architecture", "")

    def text(self, key: str) -> str | None:
        return self.values.get(f"{self.architecture}.{key}")

    def number(self, text: str, key: str) -> int:
        words = {"true": 1, "false": 0}
        try:
            number = words[text] if text in words else int(text)
        except ValueError:
            number = -1
        if not 0 <= number < 2**32:
            raise DamagedModel(f"the model's metadata have {self.architecture}.{key} = {text[:40]!r}, not a count")
        return number

    def integer(self, key: str, default: int | None = None) -> int:
        text = self.text(key)
        if text is None and default is None:
            raise DamagedModel(f"the model's metadata lack {self.architecture}.{key}; is it a complete language model?")
        return default if text is None else self.number(text, key)  # type: ignore[return-value]

    def array(self, key: str) -> list[int] | None:
        """Values of an array such as "[3, 3, 0]"; None where the key is missing or a single number."""
        text = self.text(key)
        if text is None or not text.startswith("["):
            return None
        return [self.number(item.strip(), key) for item in text.strip("[]").split(",") if item.strip()]

    def per_layer(self, key: str, n_layer: int, default: list[int]) -> list[int]:
        array = self.array(key)
        if array is None:
            return default if self.text(key) is None else [self.integer(key)] * n_layer
        if len(array) < n_layer:
            raise DamagedModel(
                f"the model's metadata have {len(array)} values in {self.architecture}.{key}, not {n_layer}"
            )
        return array[:n_layer]

    def swa_layers(self, n_layer: int) -> list[bool]:
        """Which layers only see a window: an array in the metadata, else llama.cpp's period for the architecture."""
        array = self.array("attention.sliding_window_pattern")
        if array is not None:
            return [bool(x) for x in (array + [0] * n_layer)[:n_layer]]
        if self.architecture not in _SWA_PERIOD:
            return [False] * n_layer
        period, dense_first = _SWA_PERIOD[self.architecture]
        period = self.integer("attention.sliding_window_pattern", period)
        dense, n_trunk = 0 if dense_first else period - 1, n_layer - self.integer("nextn_predict_layers", 0)
        return [il < n_trunk and (period == 0 or il % period != dense) for il in range(n_layer)]

    def layers_with_kv(self, n_layer: int) -> list[bool]:
        """Layers that own cells: not recurrent ones, not those that share the cells of an earlier layer."""
        n_own = _LAYERS_WITH_KV.get(self.architecture, n_layer) - self.integer("attention.shared_kv_layers", 0)
        recurrent = self.per_layer("attention.recurrent_layers", n_layer, default=[0] * n_layer)
        interval = self.integer("full_attention_interval", 0)
        if interval and not any(recurrent):
            n_trunk = n_layer - self.integer("nextn_predict_layers", 0)
            recurrent = [(il + 1) % interval if il < n_trunk else 0 for il in range(n_layer)]
        return [il < n_own and not recurrent[il] for il in range(n_layer)]
