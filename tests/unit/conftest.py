"""What the unit tests share: they know nothing of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from loopback_hub import gguf_bytes
from unit.gate import WAIT_S, Gate

from lacache_gguf import native
from lacache_gguf.kv_budget import CELL_STEP

SMOLLM2 = {
    "llama.block_count": 30,
    "llama.context_length": 8192,
    "llama.embedding_length": 576,
    "llama.attention.head_count": 9,
    "llama.attention.head_count_kv": 3,
}


@pytest.fixture(autouse=True)
def _stock_cells(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells come in the steps of stock llama.cpp: what these tests expect must not depend on whether there is a GPU, or
    a library at all. Tests marked `native` see what this machine does."""
    if request.node.get_closest_marker("native") is None:
        monkeypatch.setattr(native, "cell_step", lambda: CELL_STEP)


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    """A GGUF file with SmolLM2's geometry, given by LLAMA_ARG_MODEL so that commands find it without the real one."""
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(metadata=SMOLLM2))
    monkeypatch.setenv("LLAMA_ARG_MODEL", str(path))
    return path


@pytest.fixture
def page(tmp_path) -> str:
    """A text file."""
    path = tmp_path / "page.txt"
    path.write_text("A page of text. " * 100, encoding="utf-8")
    return str(path)


@pytest.fixture
def store_path(tmp_path) -> Path:
    """Where `store` keeps its conversations: in a folder that is not there yet."""
    return tmp_path / "data" / "chats.sqlite3"


@pytest.fixture
def store(store_path):
    """A store without conversations."""
    from lacache_app.store import Store

    store = Store(store_path)
    yield store
    store.close()


@pytest.fixture
def host(fake_engine):
    """A host of stand-in engines with 4096 cells that has loaded none yet."""
    from lacache_app.host import EngineHost, EngineSettings

    host = EngineHost(EngineSettings(n_ctx=4096, n_ubatch=64))
    yield host
    Gate.end_all()
    assert host.shutdown(WAIT_S)
    assert all(engine.is_closed for engine in fake_engine.opened)


@pytest.fixture
def lacache(capsys):
    """lacache(*args) -> (exit code, stdout, stderr)."""
    from lacache_app import cli

    def run(*args: object) -> tuple[int, str, str]:
        code = cli.main([str(arg) for arg in args])
        return (code, *capsys.readouterr())

    return run
