"""The settings of an answer: from the page to the store, from the store to the engine and back to the page.

What it is: pure functions on the values of `Sampling.inputs()` (chat_tab.py), in its order.
What it does not know: gradio, the store, engines.
"""

from __future__ import annotations

import os
from typing import Any

from lacache_app.chat import PRESETS


def chosen(choice: tuple) -> tuple[str, dict[str, Any]]:
    """(system prompt, the rest by name) of Sampling.inputs()."""
    system, preset, *rest = choice
    names = (*next(iter(PRESETS.values())), "max_tokens", "seed")
    return system or "", {"preset": preset, **dict(zip(names, rest, strict=True))}


def sampling(settings: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of Engine.answer."""
    values = {name: value for name, value in settings.items() if name != "preset" and value is not None}
    values["max_tokens"] = int(values.get("max_tokens") or 0) or None
    values["top_k"] = int(values.get("top_k", 0))
    values["seed"] = int(values.get("seed", -1))
    if values["seed"] < 0:
        values["seed"] = int.from_bytes(os.urandom(4), "little") >> 1
    return values


def known(settings: Any) -> list[Any]:
    """Stored settings in the order of Sampling.inputs()[1:]; [] if they are not complete."""
    names = ("preset", *next(iter(PRESETS.values())), "max_tokens", "seed")
    return [settings[name] for name in names] if isinstance(settings, dict) and set(names) <= settings.keys() else []
