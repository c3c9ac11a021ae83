"""What outlives the app: the data folder, the settings file, flags that win over it."""

from __future__ import annotations

import json
import os
import stat
import threading

import pytest
from lacache_app.host import EngineSettings
from lacache_app.paths import data_dir
from lacache_app.settings import load_settings, load_value, save_settings, save_value

from lacache_gguf.errors import UsageError
from lacache_gguf.policies import Full, Ladder, SinkWindow


@pytest.mark.parametrize("policy", [None, Ladder(span=15, n_recent=128), SinkWindow(n_sink=8), Full()])
def test_settings_come_back_as_they_were(tmp_path, policy):
    settings = EngineSettings("user/repo:Q4_K_M", None, "64MiB", policy, 256, "q8_0", "q4_0", True, 12, 4)
    save_settings(tmp_path, settings)
    assert load_settings(tmp_path) == settings


def test_nothing_stored(tmp_path):
    assert load_settings(tmp_path) is None
    assert load_value(tmp_path, "folder", "default") == "default"


def test_values_lie_side_by_side(tmp_path):
    save_value(tmp_path, "welcome_seen", True)
    save_settings(tmp_path, EngineSettings(n_ctx=512))
    save_value(tmp_path, "folder", "/models")
    assert load_value(tmp_path, "welcome_seen") is True
    assert load_settings(tmp_path) == EngineSettings(n_ctx=512)


def test_the_file_is_private_and_nothing_else_is_left(tmp_path):
    save_value(tmp_path, "a", 1)
    save_value(tmp_path, "a", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
    if os.name == "posix":
        assert stat.S_IMODE((tmp_path / "settings.json").stat().st_mode) == 0o600


def test_a_value_that_cannot_be_written_leaves_the_file_whole(tmp_path):
    save_value(tmp_path, "a", 1)
    with pytest.raises(TypeError):
        save_value(tmp_path, "b", object())
    assert json.loads((tmp_path / "settings.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '{"engine": 3}', '{"engine": {"model": 7}}', '{"engine": {"n_ctx": "many"}}',
        '{"engine": {"policy": {"name": "unheard"}}}', '{"engine": {"policy": {"name": "ladder", "no": 1}}}',
        '{"engine": {"policy": {"name": "ladder", "span": 0}}}',
        '{"engine": {"n_ctx": true}}', "\x00\xff",
    ],
)  # fmt: skip
def test_a_damaged_file_is_as_good_as_none(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    assert load_settings(tmp_path) is None
    save_settings(tmp_path, EngineSettings())
    assert load_settings(tmp_path) == EngineSettings()


def test_a_damaged_file_is_kept_under_another_name(tmp_path):
    """A comma too many by hand must not cost what `lacache calibrate` took an hour to find."""
    (tmp_path / "settings.json").write_text('{"calibrated": {"m": [1]},}')
    save_value(tmp_path, "welcome_seen", True)
    assert load_value(tmp_path, "welcome_seen") is True
    (kept,) = tmp_path.glob("settings.damaged-*.json")
    assert kept.read_text() == '{"calibrated": {"m": [1]},}'


def test_what_cannot_be_read_is_not_written_over(tmp_path, monkeypatch):
    save_value(tmp_path, "a", 1)
    monkeypatch.setattr("pathlib.Path.read_text", _no_permission)
    with pytest.raises(PermissionError):
        save_value(tmp_path, "b", 2)
    monkeypatch.undo()
    assert json.loads((tmp_path / "settings.json").read_text()) == {"a": 1}


def _no_permission(*_args, **_settings):
    raise PermissionError(13, "Permission denied")


def test_settings_of_a_later_version_are_read_as_far_as_known(tmp_path):
    save_value(tmp_path, "engine", {"model": "m", "n_ctx": 64, "something_new": 1})
    assert load_settings(tmp_path) == EngineSettings(model="m", n_ctx=64)


def test_many_threads_lose_nothing(tmp_path):
    threads = [threading.Thread(target=save_value, args=(tmp_path, f"v{i}", i)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [load_value(tmp_path, f"v{i}") for i in range(8)] == list(range(8))


def test_data_dir(tmp_path, monkeypatch):
    chosen = data_dir(tmp_path / "a" / "b")
    assert chosen.is_dir()
    if os.name == "posix":
        assert stat.S_IMODE(chosen.stat().st_mode) == 0o700
    monkeypatch.setenv("LACACHE_DATA_DIR", str(tmp_path / "env"))
    assert data_dir() == tmp_path / "env"
    assert data_dir(tmp_path / "flag") == tmp_path / "flag"
    monkeypatch.delenv("LACACHE_DATA_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    assert data_dir().name == "lacache"


def test_data_dir_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--data-dir"):
        data_dir(tmp_path / "file" / "below")
