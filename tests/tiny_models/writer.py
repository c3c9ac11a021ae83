"""Collect the metadata and the tensors of one random model, then write them as a GGUF file."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import gguf
import numpy as np

Value = bool | int | float | str | list


class Net:
    """A model under construction.

    Every tensor has its own random stream, keyed by (seed, tensor name): two architectures that share a tensor name
    and shape share its values, and adding a tensor changes no other.
    """

    def __init__(self, arch: str, seed: int) -> None:
        self.arch = arch
        self.seed = seed
        self.metadata: dict[str, Value] = {}
        self.tensors: dict[str, np.ndarray] = {}

    def set(self, key: str, value: Value) -> None:
        """Set a metadata value; a key that starts with a dot is below the architecture (".block_count")."""
        self.metadata[self.arch + key if key.startswith(".") else key] = value

    def matrix(self, name: str, n_in: int, n_out: int, gain: float = 1.0) -> None:
        """A linear map [n_out, n_in]; an input of unit variance gives an output of variance gain**2."""
        self._add(name, self._rng(name).standard_normal((n_out, n_in)) * (gain / np.sqrt(n_in)))

    def tensor(self, name: str, shape: tuple[int, ...], scale: float = 1.0, mean: float = 0.0) -> None:
        """A tensor of normal values; `shape` is numpy's, so its last entry is ggml's ne[0]."""
        self._add(name, mean + scale * self._rng(name).standard_normal(shape))

    def norm(self, name: str, n: int) -> None:
        """Weights of a norm: around 1 and different per element, so that a swap of elements shows."""
        self.tensor(name, (n,), scale=0.2, mean=1.0)

    def exact(self, name: str, values: np.ndarray) -> None:
        self._add(name, values)

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def _add(self, name: str, values: np.ndarray) -> None:
        if name in self.tensors:
            raise ValueError(f"tensor {name} exists already in this {self.arch} model")
        self.tensors[name] = np.ascontiguousarray(values, dtype=np.float32)

    def save(self, path: Path, dtype: str = "f32") -> Path:
        """Write the file; `dtype` "f16" stores the matrices (never the norms and biases) in half precision.

        The file appears under its name only when it is complete, so parallel tests may share a folder.
        """
        if dtype not in ("f32", "f16"):
            raise ValueError(f"dtype must be f32 or f16, not {dtype!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        writer = gguf.GGUFWriter(part, self.arch)
        writer.add_name(f"tiny random {self.arch}, seed {self.seed}")
        for key, value in self.metadata.items():
            _add_value(writer, key, value)
        for name, values in self.tensors.items():
            is_matrix = values.ndim >= 2 and "ssm_" not in name and "conv" not in name
            writer.add_tensor(name, values.astype(np.float16) if dtype == "f16" and is_matrix else values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(part, path)
        return path


def _add_value(writer: gguf.GGUFWriter, key: str, value: Value) -> None:
    if isinstance(value, bool):  # before int: True is an int
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)
