"""What was chosen in the app and must outlive it: one small JSON file, written whole or not at all.

What it is: `load_settings` and `save_settings` for the engine's settings, `load_value` and `save_value` for anything
else that is JSON (a folder of models, whether the welcome was seen).
What it does not know: who chose, and what flags say today; a flag wins over what is stored here.

    save_settings(folder, EngineSettings(kv_budget="64MiB"))
    load_settings(folder).kv_budget    # "64MiB"
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacache_app.host import EngineSettings
from lacache_app.paths import move_aside

from lacache_gguf.errors import LacacheError

if TYPE_CHECKING:
    from lacache_gguf.policies import Policy

_log = logging.getLogger(__name__)
_FILE = "settings.json"
_lock = threading.Lock()  # one process writes; its threads take turns


def load_settings(folder: Path) -> EngineSettings | None:
    """The stored engine settings, or None if there are none or they make no sense (which is logged)."""
    stored = load_value(folder, "engine")
    if stored is None:
        return None
    try:
        return from_dict(stored)
    except (TypeError, ValueError, KeyError, AttributeError, LacacheError) as error:
        _log.warning("the stored settings in %s are not used: %s", folder / _FILE, error)
        return None


def save_settings(folder: Path, settings: EngineSettings) -> None:
    """Store the engine settings for the next start."""
    save_value(folder, "engine", as_dict(settings))


def load_value(folder: Path, name: str, default: Any = None) -> Any:
    """A stored value, or the default, also if the file cannot be read (which is logged)."""
    try:
        return _read(folder / _FILE).get(name, default)
    except (OSError, ValueError) as error:
        _log.warning("%s is not used: %s", folder / _FILE, error)
        return default


def save_value(folder: Path, name: str, value: Any) -> None:
    """Store a value that JSON can hold; the file is replaced at once, mode 0600.

    A file that is damaged is kept under another name. Raises OSError, also if what is stored cannot be read: to write
    would lose it.
    """
    with _lock:
        path = folder / _FILE
        try:
            stored = _read(path)
        except ValueError as error:
            _log.warning("%s is damaged; it is kept as %s, and a new one begins: %s", path, move_aside(path), error)
            stored = {}
        text = json.dumps({**stored, name: value}, indent=1, sort_keys=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".settings-")  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def as_dict(settings: EngineSettings) -> dict[str, Any]:
    """Settings as plain values; a policy as its name and fields."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    policy = values.pop("policy")
    return {**values, "policy": policy and policy_dict(policy)}


def from_dict(values: dict[str, Any]) -> EngineSettings:
    """The inverse of `as_dict`; fields it does not know are left out. Raises what nonsense raises."""
    known = {field.name: field for field in dataclasses.fields(EngineSettings)}
    chosen = {name: value for name, value in values.items() if name in known}
    if policy := chosen.get("policy"):
        chosen["policy"] = policy_from_dict(policy)
    for name in ("model", "type_k", "type_v"):
        if not isinstance(chosen.get(name, ""), str):
            raise ValueError(f"{name} is {chosen[name]!r}, not a text")
    for name in ("n_ctx", "n_ubatch", "n_gpu_layers", "n_threads", "n_threads_batch"):
        value = chosen.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(f"{name} is {value!r}, not a whole number")
    return EngineSettings(**chosen)


def policy_dict(policy: Policy) -> dict[str, Any]:
    """A policy's name and fields as plain values for JSON."""
    return {"name": policy.name, **dataclasses.asdict(policy)}  # type: ignore[call-overload]


def policy_from_dict(values: dict[str, Any]) -> Policy:
    """The inverse of `policy_dict`. Raises what nonsense raises."""
    from lacache_gguf.policies import POLICIES

    return POLICIES[values["name"]](**{name: value for name, value in values.items() if name != "name"})


def _read(path: Path) -> dict[str, Any]:
    """What is stored, nothing if there is no file. Raises OSError, and ValueError for what this module never wrote."""
    try:
        stored = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    if not isinstance(stored, dict):
        raise ValueError(f"a {type(stored).__name__}, not an object")
    return stored
