"""model_library: what is listed, what is not and why, without loading anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lacache_app import model_library
from lacache_app.model_library import entry_for, folder_path, library, refusal, scan
from loopback_hub import gguf_bytes
from tiny_models import NAMES, cached

from lacache_gguf.errors import UsageError
from lacache_gguf.gguf_header import GgufHeader, read_header

SMALL = {
    "llama.block_count": 2,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.context_length": 512,
}


def model_file(path: Path, pad: int = 64, **metadata) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gguf_bytes(pad=pad, metadata={**SMALL, **metadata}))
    return path


def test_the_model_that_comes_along_is_first():
    first = library()[0]
    assert (first.id, first.source, first.licence) == ("smollm2-135m", "built in", "Apache-2.0")
    assert first.size_bytes > 90 * 2**20


def test_a_folder(tmp_path):
    model_file(tmp_path / "b.gguf", **{"general.license": "mit", "general.size_label": "1B"})
    model_file(tmp_path / "deep" / "er" / "a.Q8_0.gguf")
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "README.gguf.md").write_text("no model either")
    found = {entry.name: entry for entry in scan(tmp_path)}
    assert sorted(found) == ["b.gguf", "deep/er/a.Q8_0.gguf"]
    entry = found["b.gguf"]
    assert (entry.id, entry.state, entry.licence) == (str(tmp_path / "b.gguf"), "ready", "mit")
    assert entry.can_load
    assert dict(entry.facts) == {"Architecture": "llama", "Size": "1B", "Layers": "2", "Trained context": "512 tokens"}
    assert found["deep/er/a.Q8_0.gguf"].licence is None, "not stated is not made up"


def test_sidecars_and_hidden_files_are_left_out(tmp_path):
    for name in ("mmproj-model-f16.gguf", "mtp-model.gguf", "model.imatrix.gguf", ".hidden.gguf", ".cache/x.gguf"):
        model_file(tmp_path / name)
    assert scan(tmp_path) == []


def test_shards_are_one_model(tmp_path):
    for i in (1, 2, 3):
        model_file(tmp_path / f"big-{i:05d}-of-00003.gguf", pad=100 * i)
    [entry] = scan(tmp_path)
    assert (entry.name, entry.state) == ("big-00001-of-00003.gguf", "ready")
    assert entry.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_lost_shards_are_named(tmp_path):
    model_file(tmp_path / "big-00001-of-00003.gguf")
    model_file(tmp_path / "other-00002-of-00002.gguf")
    first, second = scan(tmp_path)
    assert (first.state, second.state) == ("damaged", "damaged")
    assert "missing" in first.reason
    assert "big-00002-of-00003.gguf, big-00003-of-00003.gguf" in first.reason
    assert "other-00001-of-00002.gguf" in second.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"<html>404</html>", "an HTML or XML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a git-lfs pointer"),
        (b"GGUF\x03\x00\x00\x00", "damaged"),
        (gguf_bytes(pad=5000, metadata=SMALL)[:-5000], "incomplete"),
        (gguf_bytes(version=99), "GGUF version 99"),
    ],
)
def test_damaged_files_are_listed_with_the_reason(tmp_path, content, reason):
    (tmp_path / "x.gguf").write_bytes(content)
    [entry] = scan(tmp_path)
    assert (entry.state, entry.can_load) == ("damaged", False)
    assert reason in entry.reason
    assert str(tmp_path) not in entry.reason, "the name stands beside it already"


@pytest.mark.parametrize(
    ("metadata", "state", "reason"),
    [
        ({"general.type": "adapter"}, "unsupported", "a LoRA adapter"),
        ({"general.architecture": "clip"}, "unsupported", "a vision projector"),
        ({"general.architecture": "bert"}, "unsupported", "no KV cache"),
        ({"general.architecture": "mamba"}, "unsupported", "purely recurrent"),
        ({"general.architecture": ""}, "unsupported", "which architecture"),
        ({"general.architecture": "phi3"}, "damaged", "lack phi3.block_count"),
    ],
)
def test_what_cannot_be_loaded(tmp_path, metadata, state, reason):
    model_file(tmp_path / "x.gguf", **metadata)
    [entry] = scan(tmp_path)
    assert (entry.state, entry.can_load) == (state, False)
    assert reason in entry.reason


@pytest.mark.parametrize("arch", ["deepseek2", "qwen2vl", "hunyuan-dense"])
def test_what_cannot_forget_loads_with_the_policy_full(tmp_path, arch):
    cached(tmp_path, arch)
    [entry] = scan(tmp_path)
    assert (entry.state, entry.can_load) == ("full only", True)
    assert entry.reason == refusal(read_header(entry.path))


@pytest.mark.native
@pytest.mark.parametrize("name", NAMES)
def test_refusals_are_those_of_the_native_code(tmp_path, name):
    """What the header tells is what the library says when it has loaded the model."""
    from lacache_gguf import native
    from lacache_gguf.context import Context
    from lacache_gguf.model import Model

    path = cached(tmp_path, name)
    with Model(path, n_gpu_layers=0) as model:
        context = Context(model, 256, n_ubatch=32, n_threads=1)
        reason = native.compact_reason(context.ptr)
        context.close()
    assert refusal(read_header(path)) == reason


@pytest.mark.parametrize(
    ("arch", "metadata", "reason"),
    [
        ("gemma4", {}, "plain rotation"),
        ("glm4", {"glm4.rope.dimension_sections": "[8, 12, 12, 0]"}, "M-RoPE"),
        ("glm4", {"glm4.rope.dimension_sections": "[0, 0, 0, 0]"}, None),
        ("glm4", {}, None),
        ("gpt2", {}, "learned embeddings"),
        ("deepseek32", {}, "sparse attention"),
        ("llama", {}, None),
    ],
)
def test_refusals_by_header(arch, metadata, reason):
    found = refusal(GgufHeader({"general.architecture": arch, **metadata}, 1))
    assert found is None if reason is None else reason in found


def test_a_file_is_listed_once(tmp_path):
    path = model_file(tmp_path / "one" / "m.gguf")
    (tmp_path / "two").mkdir()
    os.link(path, tmp_path / "two" / "copy.gguf")
    (tmp_path / "two" / "link.gguf").symlink_to(path)
    names = [e.name for e in library([str(tmp_path / "one"), str(tmp_path / "one"), str(tmp_path / "two"), "/nowhere"])]
    assert names.count("m.gguf") == 1
    assert "link.gguf" not in names


def test_links_to_folders_are_not_followed(tmp_path):
    model_file(tmp_path / "a" / "m.gguf")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a", target_is_directory=True)
    assert [entry.name for entry in scan(tmp_path)] == ["a/m.gguf"]


def test_a_scan_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(model_library, "N_FILES_MAX", 3)
    for i in range(5):
        model_file(tmp_path / f"{i}.gguf")
    model_file(tmp_path / "1/2/3/4/5/deep.gguf")
    assert len(scan(tmp_path)) == 3
    monkeypatch.setattr(model_library, "N_FILES_MAX", 100)
    assert len(scan(tmp_path)) == 5


def test_a_changed_file_is_read_again(tmp_path):
    path = model_file(tmp_path / "m.gguf")
    assert scan(tmp_path)[0].state == "ready"
    path.write_bytes(b"something else")
    assert scan(tmp_path)[0].state == "damaged"


@pytest.mark.parametrize("text", ["", "  ", "models", "./models", "/no/such/folder"])
def test_folders_that_are_none(text):
    with pytest.raises(UsageError):
        folder_path(text)


def test_a_file_is_no_folder(tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        scan(model_file(tmp_path / "m.gguf"))


def test_the_entry_of_a_name(tmp_path):
    path = model_file(tmp_path / "m.gguf")
    assert entry_for(str(path)).state == "ready"
    assert entry_for("SmolLM2-135M").id == "smollm2-135m"
    missing = entry_for("user/nothing:Q4_0")
    assert (missing.state, missing.can_load) == ("not here", False)
    assert "lacache models pull" in missing.reason
