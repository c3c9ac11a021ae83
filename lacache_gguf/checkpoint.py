"""A saved memory as one file: written whole or not at all, and verified before anything trusts it.

Knows bytes, not engines. llama.cpp may end the process over an altered KV state, so the SHA-256 at the end of the file
is checked before an array is handed to anybody. The header is JSON and arrays are raw numbers: loading runs no code.

    "LACACHE" 0x01 | length of the header, u64 | header | arrays in the header's order | SHA-256 of all before

    write(path, {"note": {}}, {"seen": np.arange(3, dtype=np.int32)})
    content, arrays = read(path)
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lacache_gguf.errors import CheckpointMismatch, DamagedCheckpoint, OutOfMemory, StorageError
from lacache_gguf.gguf_header import shard_paths

_MAGIC = b"LACACHE\x01"
_FORMAT = 1  # of the content; another one is refused
_HEAD = struct.Struct("<8sQ")
_N_DIGEST = 32
_N_HEADER_MAX = 64 << 20
_TYPES = {name: np.dtype(f"<{name}") for name in ("i4", "i8", "f2", "f4", "u1")}
_N_CHUNK = 1 << 20
_N_BLOCKS = 64  # of a model that its fingerprint looks at


# ---- writing -------------------------------------------------------------------------------------------------------


def write(path: Path, content: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write `content` (JSON) and `arrays` to a new file beside `path`, then put it in its place; readable by its owner
    only. Raises StorageError, leaving what was there, if the disk is full or the folder cannot be written."""
    listing = [{"name": name, "type": _type(a.dtype), "shape": a.shape} for name, a in arrays.items()]
    header = json.dumps({"format": _FORMAT, "content": content, "arrays": listing}).encode()
    pieces = [_HEAD.pack(_MAGIC, len(header)), header, *map(_raw, arrays.values())]
    n_bytes = sum(map(len, pieces)) + _N_DIGEST
    with _replacing(path, n_bytes) as file:
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        file.write(digest.digest())


@contextmanager
def _replacing(path: Path, n_bytes: int) -> Iterator[BinaryIO]:
    """A temporary file, mode 0600, that takes the place of `path` when the block ends well."""
    temporary = None
    try:
        if (n_free := shutil.disk_usage(path.parent).free) < n_bytes:
            raise StorageError(f"cannot write {path}: it takes {_mib(n_bytes)} and {_mib(n_free)} are free")
        number, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"cannot write {path} ({_mib(n_bytes)}): {reason}; what was there is kept") from error
    finally:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where a system lets a folder be opened."""
    if hasattr(os, "O_DIRECTORY"):
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def _raw(array: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(array, dtype=_TYPES[_type(array.dtype)]).reshape(-1).view(np.uint8))


def _type(dtype: np.dtype) -> str:
    return f"{dtype.kind}{dtype.itemsize}"


# ---- reading -------------------------------------------------------------------------------------------------------


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(content, arrays) that `write` got. Raises DamagedCheckpoint unless every byte is as it was written,
    CheckpointMismatch for another format, OutOfMemory if it does not fit."""
    try:
        with path.open("rb") as file:
            n_bytes = os.fstat(file.fileno()).st_size
            _verify(file, n_bytes, path)
            return _parse(file, n_bytes, path)
    except OSError as error:
        raise DamagedCheckpoint(f"cannot read {path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise OutOfMemory(f"the memory saved in {path} ({_mib(n_bytes)}) does not fit; close other programs") from error


def _verify(file: BinaryIO, n_bytes: int, path: Path) -> None:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise DamagedCheckpoint(f"{path} is no saved memory, or its beginning is damaged; delete it")
    digest, left = hashlib.sha256(_MAGIC), n_bytes - len(_MAGIC) - _N_DIGEST
    while left > 0:
        chunk = file.read(min(left, _N_CHUNK))
        if not chunk:
            break
        digest.update(chunk)
        left -= len(chunk)
    if left or file.read() != digest.digest():
        raise DamagedCheckpoint(f"{path} ({n_bytes:,} bytes) is damaged or incomplete; delete it and start again")
    file.seek(0)


def _parse(file: BinaryIO, n_bytes: int, path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Every number is checked, although the digest was right: another program may have written it."""
    try:
        _, n_header = _HEAD.unpack(file.read(_HEAD.size))
        if n_header > min(_N_HEADER_MAX, n_bytes):
            raise ValueError(f"a header of {n_header} bytes")
        header = json.loads(file.read(n_header))
        if header["format"] != _FORMAT:
            raise CheckpointMismatch(f"{path} has format {header['format']}, this program knows {_FORMAT}; start again")
        shapes = {entry["name"]: (_TYPES[entry["type"]], tuple(entry["shape"])) for entry in header["arrays"]}
        left = n_bytes - _HEAD.size - n_header - _N_DIGEST
        arrays = {}
        for name, (dtype, shape) in shapes.items():
            n = dtype.itemsize
            for size in shape:
                if not isinstance(size, int) or size < 0:
                    raise ValueError(f"shape {shape} of {name}")
                n *= size
            if n > left:
                raise ValueError(f"{name} of {n} bytes, {left} are left")
            array = np.empty(n, dtype=np.uint8)
            if file.readinto(array) != n:  # type: ignore[attr-defined]
                raise ValueError(f"{name} is cut short")
            arrays[name] = array.view(dtype).astype(dtype.newbyteorder("="), copy=False).reshape(shape)
            left -= n
        if left or not isinstance(header["content"], dict):
            raise ValueError(f"{left} bytes belong to nothing")
        return header["content"], arrays
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        raise DamagedCheckpoint(f"{path} is damaged: {error}; delete it and start again") from error


# ---- of what -------------------------------------------------------------------------------------------------------


def fingerprint(model: Path) -> str:
    """Hex SHA-256 over sizes and evenly spaced blocks of a model's file or shards: its identity in milliseconds."""
    digest = hashlib.sha256()
    for shard in shard_paths(model):
        with shard.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(struct.pack("<Q", size))
            for i in range(_N_BLOCKS):
                file.seek(i * max(0, size - _N_CHUNK // 16) // (_N_BLOCKS - 1))
                digest.update(file.read(_N_CHUNK // 16))
    return digest.hexdigest()


def compare(path: Path, saved: Any, ours: dict[str, Any]) -> None:
    """Raise CheckpointMismatch, naming every difference, unless a file's `saved` identity is `ours`.

    The model's name is only said: the same file may have several.
    """
    saved = saved if isinstance(saved, dict) else {}
    different = [name for name, value in ours.items() if saved.get(name) != value]
    if set(different) - {"model"}:
        found = ", ".join(f"{name} {saved.get(name)!s:.200}" for name in different)
        wanted = ", ".join(f"{name} {ours[name]!s:.200}" for name in different)
        raise CheckpointMismatch(f"{path} was saved with {found}; here it is {wanted}: use the same settings")


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:,.1f} MiB"
