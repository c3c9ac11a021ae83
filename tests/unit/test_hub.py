"""hub: names, the choice of a file, and downloads from a small hub on loopback through the real huggingface_hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub, gguf_bytes

from lacache_gguf import hub
from lacache_gguf.catalog import resolve
from lacache_gguf.errors import DamagedModel, DownloadError, ModelNotFound
from lacache_gguf.hub_names import HubRef, choose, is_safe_name, parse_ref, variants

REPO = "user/repo-GGUF"
SHARDS = [f"big-Q8_0-{i:05d}-of-00003.gguf" for i in (1, 2, 3)]
FILES = {
    "README.md": b"# a model",
    "model.Q4_K_M.gguf": gguf_bytes(pad=3_000_000),
    "model-BF16.gguf": gguf_bytes(pad=5000),
    "mmproj-model-f16.gguf": gguf_bytes(),
    **{name: gguf_bytes(pad=100 + i) for i, name in enumerate(SHARDS)},
}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub on loopback that huggingface_hub talks to, and an empty cache."""
    from huggingface_hub import constants

    with LoopbackHub({REPO: FILES, "user/empty": {"README.md": b"nothing"}}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        yield server


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("user/repo", HubRef("user/repo")),
        ("user/repo:Q4_K_M", HubRef("user/repo", "Q4_K_M")),
        ("hf.co/user/repo:q8_0", HubRef("user/repo", "q8_0")),
        ("huggingface.co/user/My.Repo-1_2", HubRef("user/My.Repo-1_2")),
        ("https://huggingface.co/user/repo", HubRef("user/repo")),
        ("https://huggingface.co/user/repo/", HubRef("user/repo")),
        ("https://huggingface.co/user/repo/resolve/main/sub/m.gguf?download=true", HubRef("user/repo", "sub/m.gguf")),
        ("https://huggingface.co/user/repo/blob/main/m.Q4_0.gguf", HubRef("user/repo", "m.Q4_0.gguf")),
        ("user/repo:sub/m.gguf", HubRef("user/repo", "sub/m.gguf")),
        ("repo", None),
        ("a/b/c", None),
        ("../repo", None),
        ("/user/repo", None),
        ("dir/model.gguf", None),
        ("https://example.org/user/repo", None),
        ("user/repo:", None),
        ("", None),
    ],
)
def test_parse_ref(text, expected):
    assert parse_ref(text) == expected


@pytest.mark.parametrize(
    "name",
    [
        "../x.gguf",
        "a/../../x.gguf",
        "/etc/x.gguf",
        "C:\\x.gguf",
        "a\\..\\x.gguf",
        "x.gguf\n",
        "x.bin",
        "x.gguf.exe",
        "",
    ],
)
def test_unsafe_names_are_never_offered(name):
    assert not is_safe_name(name)
    assert variants([name]) == []


def test_choice_of_a_variant():
    names = list(FILES)
    assert [v.quant for v in variants(names)] == ["BF16", "Q4_K_M", "Q8_0"]
    assert choose(HubRef(REPO), names, "r").files == ("model.Q4_K_M.gguf",), "the usual choice"
    assert choose(HubRef(REPO, "q4_k_m"), names, "r").files == ("model.Q4_K_M.gguf",), "any case"
    assert choose(HubRef(REPO, "Q8_0"), names, "r").files == tuple(SHARDS)
    assert choose(HubRef(REPO, SHARDS[2]), names, "r").files == tuple(SHARDS), "one shard names all"
    assert choose(HubRef(REPO, "model-bf16.gguf"), names, "r").quant == "BF16"
    assert choose(HubRef(REPO), ["a-IQ1_S.gguf", "a-Q8_0.gguf"], "r").quant == "Q8_0", "second choice"
    assert choose(HubRef(REPO), ["b-Q3_K_L.gguf", "a-Q3_K_S.gguf"], "r").quant == "Q3_K_S", "else the first"
    assert choose(HubRef(REPO, "UD-Q4_K_XL"), ["m-UD-Q4_K_XL.gguf", "m-Q4_K_M.gguf"], "r").quant == "UD-Q4_K_XL"
    assert choose(HubRef(REPO, "Q4_0"), ["Q4_0/m-Q4_0.gguf", "m-Q4_0.gguf"], "r").files == ("m-Q4_0.gguf",)


def test_a_tag_is_never_matched_by_a_part_of_a_name():
    with pytest.raises(ModelNotFound, match="Q4_K_M"):
        choose(HubRef(REPO, "Q4_K"), ["m-Q4_K_M.gguf"], "r")


def test_incomplete_shards_are_no_model():
    assert variants(SHARDS[:2]) == []
    assert variants(SHARDS[1:]) == []


def test_names_of_variants_lead_back_to_them():
    names = [*FILES, "plain.gguf", "Q2_K/other-Q2_K.gguf", "Q2_K/another-Q2_K.gguf", "BF16/model-BF16.gguf"]
    assert len(variants(names)) == 7
    for variant in variants(names):
        assert choose(HubRef(REPO, variant.tag), names, "r") == variant


# ---- downloads -------------------------------------------------------------------------------------------------------


def test_nothing_is_downloaded_unless_asked(server):
    with pytest.raises(DownloadError, match=r"not on this machine.*lacache models pull user/repo-GGUF:Q4_K_M"):
        resolve(f"{REPO}:Q4_K_M")
    assert server.requests == []


def test_download_then_found_in_the_cache(server, tmp_path):
    calls = []
    model = resolve(REPO, allow_download=True, on_progress=lambda *call: calls.append(call))
    assert model.path.read_bytes() == FILES["model.Q4_K_M.gguf"]
    assert (model.name, model.source, model.licence) == (f"{REPO}:Q4_K_M", "hub", "apache-2.0")
    assert model.path.is_relative_to(tmp_path / "hub" / "models--user--repo-GGUF" / "snapshots"), "the standard cache"
    size = len(FILES["model.Q4_K_M.gguf"])
    assert calls[-1] == ("model.Q4_K_M.gguf", size, size)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert server.n_downloads("model-BF16.gguf") == 0

    n_requests = len(server.requests)
    assert resolve(model.name).path == model.path
    assert resolve(REPO, allow_download=True).path == model.path
    assert len(server.requests) == n_requests, "a cached model needs no network"
    assert hub.list_cached() == [(HubRef(REPO, "Q4_K_M"), model.path)]


def test_all_shards_are_fetched(server):
    model = resolve(f"hf.co/{REPO}:q8_0", allow_download=True)
    assert model.path.name == SHARDS[0]
    assert [path.name for path in sorted(model.path.parent.iterdir())] == SHARDS


def test_a_lost_shard_is_fetched_again_and_nothing_else(server):
    model = resolve(f"{REPO}:Q8_0", allow_download=True)
    lost = model.path.with_name(SHARDS[1])
    lost.resolve().unlink()
    lost.unlink()
    assert resolve(f"{REPO}:Q8_0", allow_download=True).path == model.path
    assert lost.read_bytes() == FILES[SHARDS[1]]
    assert [server.n_downloads(name) for name in SHARDS] == [1, 2, 1]


def test_a_broken_connection_is_resumed(server):
    server.cut_once = {"model.Q4_K_M.gguf"}
    model = resolve(REPO, allow_download=True)
    assert model.path.read_bytes() == FILES["model.Q4_K_M.gguf"]
    assert server.n_downloads("model.Q4_K_M.gguf") == 2


def test_an_interrupted_download_goes_on_next_time(server):
    def interrupt(_name: str, n_done: int, _n_total: int) -> None:
        if n_done > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resolve(REPO, allow_download=True, on_progress=interrupt)
    calls = []
    model = resolve(REPO, allow_download=True, on_progress=lambda *call: calls.append(call))
    assert model.path.read_bytes() == FILES["model.Q4_K_M.gguf"]
    [(_, first), (_, second)] = server.starts
    assert (first, calls[0][1]) == (0, second)
    assert second > 1_000_000, "what was there was not asked for again"


def test_damaged_on_the_way(server):
    server.wrong_hash = {"model.Q4_K_M.gguf"}
    with pytest.raises(DamagedModel, match="SHA-256"):
        resolve(REPO, allow_download=True)


def test_unknown_repository(server):
    with pytest.raises(ModelNotFound, match=r"no model repository 'user/nothing'.*spelling"):
        resolve("user/nothing:Q4_0", allow_download=True)


def test_unknown_quant_lists_what_is_there(server):
    with pytest.raises(ModelNotFound, match=r"no 'Q5_1'; it has: BF16, Q4_K_M, Q8_0"):
        resolve(f"{REPO}:Q5_1", allow_download=True)


def test_repository_without_gguf(server):
    with pytest.raises(ModelNotFound, match="no GGUF model"):
        resolve("user/empty", allow_download=True)


def test_gated_repository_needs_the_right_token(server, monkeypatch):
    server.gated[REPO] = "hf_right"
    server.valid_tokens = {"hf_right", "hf_other"}
    with pytest.raises(DownloadError, match=r"gated.*HF_TOKEN"):
        resolve(REPO, allow_download=True)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(DownloadError, match="gated"):
        resolve(REPO, allow_download=True)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert resolve(REPO, allow_download=True).path.exists()


def test_wrong_token(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(DownloadError, match="refused the token in HF_TOKEN"):
        resolve(REPO, allow_download=True)


def test_offline_and_not_cached(server, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match=r"not in the cache.*network is switched off.*lacache models pull"):
        resolve(REPO, allow_download=True)
    assert server.requests == []


def test_hub_that_is_not_there(server, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"could not download user/repo-GGUF from http://127.0.0.1:9"):
        resolve(REPO, allow_download=True)


def test_no_disk_space_is_seen_before_the_download(server, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**7, 10**7 - 1000, 1000))
    with pytest.raises(DownloadError, match=r"needs 3 MiB, but only 0 MiB are free.*HF_HOME"):
        resolve(REPO, allow_download=True)
    assert server.n_downloads("model.Q4_K_M.gguf") == 0


def test_a_hub_that_offers_an_unsafe_name_gets_nothing_written(server, tmp_path):
    server.repos["user/evil"] = {"../../evil.Q4_K_M.gguf": gguf_bytes()}
    with pytest.raises(ModelNotFound, match="no GGUF model"):
        resolve("user/evil", allow_download=True)
    assert list(tmp_path.rglob("*evil*.gguf")) == []


def test_environment_variables_are_obeyed_by_the_command_line(tmp_path):
    """In a process of its own, since huggingface_hub reads HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE when imported."""
    with LoopbackHub({REPO: FILES}) as server:
        server.gated[REPO], server.valid_tokens = "hf_right", {"hf_right"}
        env = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_right"}

        def lacache(*args: str, **more: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "lacache_app.cli", *args]
            return subprocess.run(command, env={**env, **more}, capture_output=True, text=True, timeout=60)

        refused = lacache("models", "pull", REPO, HF_HUB_OFFLINE="1")
        assert (refused.returncode, refused.stdout) == (8, "")
        assert refused.stderr.startswith("error: user/repo-GGUF is not in the cache")
        assert lacache("models", "pull", REPO, "--offline").returncode == 8
        assert lacache("models", "pull", REPO, LLAMA_ARG_OFFLINE="1").returncode == 8
        assert lacache("models", "path", REPO).returncode == 8
        assert server.requests == []

        pulled = lacache("models", "pull", f"{REPO}:q4_k_m")
        assert pulled.returncode == 0, pulled.stderr
        path = Path(pulled.stdout.strip())
        assert path.read_bytes() == FILES["model.Q4_K_M.gguf"]
        assert path.is_relative_to(tmp_path / "home" / "hub")
        assert "downloading model.Q4_K_M.gguf: 2.9 MiB of 2.9 MiB (100 %)" in pulled.stderr
        assert {token for _, path, token in server.requests if REPO in path} == {"hf_right"}

        assert lacache("models", "path", REPO, HF_HUB_OFFLINE="1").stdout == pulled.stdout
        assert f"{REPO}:Q4_K_M" in lacache("models", "list").stdout
        assert json.dumps(server.requests).count("BF16") == 0
