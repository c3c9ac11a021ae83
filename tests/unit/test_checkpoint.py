"""The file of a saved memory: what was written comes back, all else is refused, a failed write changes nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import stat
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lacache_gguf import checkpoint
from lacache_gguf.errors import CheckpointMismatch, DamagedCheckpoint, StorageError

CONTENT = {"note": {"title": "café"}, "n": 3}
ARRAYS = {
    "seen": np.arange(5, dtype=np.int32),
    "held": np.arange(6, dtype=np.int32).reshape(2, 3),
    "marks": np.asarray([[1, 2, 3]], dtype=np.int64),
    "logits": np.asarray([0.5, -1], dtype=np.float32),
    "cells": np.arange(200, dtype=np.uint8),
    "empty": np.empty(0, dtype=np.uint8),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "memory.kv"
    checkpoint.write(path, CONTENT, ARRAYS)
    return path


def test_what_was_written_comes_back(path):
    content, arrays = checkpoint.read(path)
    assert content == CONTENT
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)


def test_only_the_owner_can_read_it_and_nothing_else_is_left(path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    checkpoint.write(path, CONTENT, ARRAYS)
    assert os.listdir(path.parent) == [path.name]


def test_every_changed_byte_is_noticed(path):
    data = path.read_bytes()
    for i in range(len(data)):
        path.write_bytes(data[:i] + bytes([data[i] ^ 0x40]) + data[i + 1 :])
        with pytest.raises(DamagedCheckpoint, match=r"memory\.kv"):
            checkpoint.read(path)


def test_every_other_length_is_noticed(path):
    data = path.read_bytes()
    for n in range(len(data)):
        path.write_bytes(data[:n])
        with pytest.raises(DamagedCheckpoint, match=r"memory\.kv"):
            checkpoint.read(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(DamagedCheckpoint):
        checkpoint.read(path)


def test_a_missing_file_and_a_folder_say_so(tmp_path):
    with pytest.raises(DamagedCheckpoint, match="No such file"):
        checkpoint.read(tmp_path / "absent.kv")
    with pytest.raises(DamagedCheckpoint, match="directory"):
        checkpoint.read(tmp_path)


def forged(header: object, body: bytes = b"", n_header: int | None = None) -> bytes:
    """A file with a right digest and anything as its header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = struct.pack("<8sQ", b"LACACHE\x01", len(text) if n_header is None else n_header) + text + body
    return data + hashlib.sha256(data).digest()


def listed(**entry: object) -> dict:
    return {"format": 1, "content": {}, "arrays": [{"name": "a", "type": "u1", "shape": [4], **entry}]}


@pytest.mark.parametrize(
    "data",
    [
        forged(b"\xff{}"),
        forged(b"[" * 200_000),
        forged([]),
        forged(None),
        forged({"format": 1}),
        forged({"format": 1, "content": [], "arrays": []}),
        forged({"format": 1, "content": {}, "arrays": 7}),
        forged({"format": 1, "content": {}, "arrays": []}, n_header=2**63),
        forged({"format": 1, "content": {}, "arrays": []}, b"more"),
        forged(listed(), b"123"),
        forged(listed(), b"12345"),
        forged(listed(type="O"), b"1234"),
        forged(listed(type=["u1"]), b"1234"),
        forged(listed(shape=[-4, -1]), b"1234"),
        forged(listed(shape=[2**62, 4]), b"1234"),
        forged(listed(shape=[4.0]), b"1234"),
        forged(listed(shape=4), b"1234"),
        forged(listed(shape=[True, 4]), b"1234" * 2),
    ],
)
def test_a_header_that_lies_is_refused_even_with_a_right_digest(tmp_path, data):
    path = tmp_path / "memory.kv"
    path.write_bytes(data)
    with pytest.raises(DamagedCheckpoint):
        checkpoint.read(path)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=200))
def test_noise_with_a_right_digest_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "noise.kv"
    whole = b"LACACHE\x01" + data
    path.write_bytes(whole + hashlib.sha256(whole).digest())
    with pytest.raises(DamagedCheckpoint):
        checkpoint.read(path)


def test_another_format_is_refused_by_number(tmp_path):
    path = tmp_path / "memory.kv"
    path.write_bytes(forged({"format": 2, "content": {}, "arrays": []}))
    with pytest.raises(CheckpointMismatch, match="format 2"):
        checkpoint.read(path)


# ---- writes that fail ------------------------------------------------------------------------------------------------


def assert_untouched(path, before: bytes) -> None:
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_file_that_may_not_grow_leaves_the_old_one(path):
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"memory\.kv .*too large.*kept"):
            checkpoint.write(path, CONTENT, {"cells": np.zeros(1 << 20, dtype=np.uint8)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_untouched(path, before)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(path, monkeypatch, call):
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, call, full)
    with pytest.raises(StorageError, match="No space left on device"):
        checkpoint.write(path, CONTENT, {"cells": np.zeros(100, dtype=np.uint8)})
    assert_untouched(path, before)


def test_too_little_space_is_said_before_anything_is_written(path, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(StorageError, match=r"takes 2\.0 MiB and 1\.0 MiB are free"):
        checkpoint.write(path, CONTENT, {"cells": np.zeros(2 << 20, dtype=np.uint8)})
    assert_untouched(path, before)


def test_a_folder_that_is_not_there_says_so(tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        checkpoint.write(tmp_path / "absent" / "memory.kv", CONTENT, ARRAYS)


def test_an_interrupted_write_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(path, CONTENT, ARRAYS)
    assert_untouched(path, before)


# ---- of what ---------------------------------------------------------------------------------------------------------


def test_every_difference_is_named(tmp_path):
    ours = {"model": "a", "n_ctx": 256, "type_k": "f16"}
    checkpoint.compare(tmp_path / "memory.kv", dict(ours), ours)
    with pytest.raises(CheckpointMismatch, match=r"n_ctx 512, type_k q8_0; here it is n_ctx 256, type_k f16"):
        checkpoint.compare(tmp_path / "memory.kv", {**ours, "n_ctx": 512, "type_k": "q8_0"}, ours)
    checkpoint.compare(tmp_path / "memory.kv", {**ours, "model": "another name of the same file"}, ours)
    for nothing in (None, {}, [], "x"):
        with pytest.raises(CheckpointMismatch, match="model None"):
            checkpoint.compare(tmp_path / "memory.kv", nothing, ours)


def test_fingerprint_sees_size_beginning_middle_and_end(tmp_path):
    model = tmp_path / "model.gguf"
    data = bytearray(os.urandom(1 << 20))
    model.write_bytes(data)
    prints = {checkpoint.fingerprint(model)}
    assert checkpoint.fingerprint(model) in prints
    for at in (0, len(data) // 2, len(data) - 1):
        data[at] ^= 1
        model.write_bytes(data)
        prints.add(checkpoint.fingerprint(model))
    model.write_bytes(data + b"x")
    prints.add(checkpoint.fingerprint(model))
    assert len(prints) == 5
