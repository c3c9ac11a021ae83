"""Fixtures for everybody: `fake_engine`, a deterministic stand-in for lacache_gguf.Engine that needs nothing built, and
the rule that tests marked `native`, `model`, `browser` or `gpu` are skipped where the library, the embedded model,
Chromium or a GPU is missing.

LACACHE_REQUIRE=native,model,browser (set in CI) turns those skips into failures.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Any

import pytest
from fake_engine import FakeEngine

from lacache_gguf.catalog import DEFAULT_MODEL, resolve
from lacache_gguf.errors import LacacheError

TIERS = ("unit", "native", "model", "browser")


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> type[FakeEngine]:
    """The commands load models with FakeEngine; `fake_engine.opened` lists the engines they opened."""
    from lacache_app import options

    monkeypatch.setattr(FakeEngine, "opened", [])
    monkeypatch.setattr(options, "engine_class", lambda: FakeEngine)
    return FakeEngine


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests see neither the user's settings nor their hub cache, history or token."""
    for name in list(os.environ):
        is_ours = name.startswith("LACACHE_") and name not in ("LACACHE_LIB_DIR", "LACACHE_REQUIRE")
        if is_ours or name.startswith(("LLAMA_ARG_", "HF_", "HUGGINGFACE_")):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("LACACHE_DATA_DIR", str(home / "data"))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))


NEEDS = {
    "native": ("native",),
    "model": ("native", "model"),
    "browser": ("native", "model", "chromium"),
    "gpu": ("native", "gpu"),
}
"""Marker -> what its tests need."""
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")


def _missing() -> dict[str, str]:
    """What cannot be had here -> why."""
    from lacache_gguf import native
    from lacache_gguf.devices import devices

    missing = {}
    if error := native.load_error():
        missing["native"] = error
    elif not any(device.type == "gpu" for device in devices()):
        missing["gpu"] = "the library sees no GPU: CMAKE_ARGS=-DGGML_CUDA=on uv sync --reinstall-package lacache-gguf"
    try:
        resolve(DEFAULT_MODEL)
    except LacacheError as error:
        missing["model"] = str(error)
    if importlib.util.find_spec("playwright") is None:
        missing["chromium"] = "playwright is not installed: pip install playwright"
    elif not any(map(shutil.which, CHROMIUM)):
        missing["chromium"] = f"none of {', '.join(CHROMIUM)} is on PATH: apt-get install chromium"
    return missing


def _tier(nodeid: str) -> str:
    return next((tier for tier in TIERS if f"tests/{tier}/" in nodeid), "")


def pytest_configure(config: pytest.Config) -> None:
    """What LACACHE_REQUIRE names must be here, or nothing runs."""
    required = [name for name in os.environ.get("LACACHE_REQUIRE", "").split(",") if name]
    if not required or hasattr(config, "workerinput"):
        return
    missing = _missing()
    for need in (need for name in required for need in NEEDS.get(name, ())):
        if need in missing:
            raise pytest.UsageError(f"LACACHE_REQUIRE={','.join(required)}, but: {missing[need]}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes; none but this one for a single file, which would not be shared."""
    return 0 if len(config.args) == 1 and ".py" in config.args[0] else 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes (-n) the tests of a file stay together, and so do all that drive a browser: two apps and
    two browsers at a time are too much for two cores."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "browser" if _tier(nodeid) == "browser" else nodeid.partition("::")[0]

    return Scheduling(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Quick tests first, but in several processes the browser's, which take longest; skip what cannot run here."""
    first = "browser" if hasattr(config, "workerinput") else ""
    items.sort(key=lambda item: (_tier(item.nodeid) != first, ("", *TIERS).index(_tier(item.nodeid))))
    marked = [(item, name) for item in items for name in NEEDS if item.get_closest_marker(name)]
    if not marked:
        return
    missing = _missing()
    for item, name in marked:
        for reason in (missing[need] for need in NEEDS[name] if need in missing):
            item.add_marker(pytest.mark.skip(reason=reason))
