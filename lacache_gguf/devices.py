"""What ggml can compute on: the CPU and the GPUs that the library was built for, with their free memory now.

The list is ggml's own; a device that needs a library of its own (CUDA, Vulkan) is there if our build has it.

    free = {device.name: device.free_bytes for device in devices()}
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from lacache_gguf import native
from lacache_gguf.kv_budget import CELL_STEP


@dataclass(frozen=True)
class Device:
    """A compute device as ggml sees it; memory in bytes (0 = unknown)."""

    name: str
    description: str
    type: str  # "cpu" | "gpu" | "igpu" | "accel" | "meta"
    free_bytes: int
    total_bytes: int


def cell_step() -> int:
    """KV memory is allocated in steps of this many cells: 32 where only CPUs compute, 256 where there is a GPU, or no
    library that could allocate any."""
    return CELL_STEP if native.load_error() else native.cell_step()


def devices() -> list[Device]:
    """All devices of the library's backends, with their free memory now."""
    native.load()
    ggml = ctypes.CDLL(str(native.library(native.lib_dir(), "ggml")))
    base = ctypes.CDLL(str(native.library(native.lib_dir(), "ggml-base")))
    size_t, ptr, text = ctypes.c_size_t, ctypes.c_void_p, ctypes.c_char_p
    # size_t ggml_backend_dev_count(void);  ggml_backend_dev_t ggml_backend_dev_get(size_t index);
    native.declare(ggml, "ggml_backend_dev_count", size_t)
    native.declare(ggml, "ggml_backend_dev_get", ptr, size_t)
    # const char * ggml_backend_dev_name(dev);  ..._description(dev);  enum ggml_backend_dev_type ..._type(dev);
    native.declare(base, "ggml_backend_dev_name", text, ptr)
    native.declare(base, "ggml_backend_dev_description", text, ptr)
    native.declare(base, "ggml_backend_dev_type", ctypes.c_int, ptr)
    # void ggml_backend_dev_memory(ggml_backend_dev_t device, size_t * free, size_t * total);
    native.declare(base, "ggml_backend_dev_memory", None, ptr, ctypes.POINTER(size_t), ctypes.POINTER(size_t))
    kinds = ("cpu", "gpu", "igpu", "accel", "meta")
    found = []
    for index in range(ggml.ggml_backend_dev_count()):
        dev = ggml.ggml_backend_dev_get(index)
        free, total = size_t(0), size_t(0)
        base.ggml_backend_dev_memory(dev, ctypes.byref(free), ctypes.byref(total))
        kind = base.ggml_backend_dev_type(dev)
        found.append(
            Device(
                base.ggml_backend_dev_name(dev).decode(),
                base.ggml_backend_dev_description(dev).decode(),
                kinds[kind] if kind < len(kinds) else "other",
                free.value,
                total.value,
            )
        )
    return found
