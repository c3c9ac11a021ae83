"""What `lacache calibrate` found for a model, and which policy follows from it for a budget.

What it is: `save_calibration`, `find_calibration`, `calibrated_policy` and `calibrated_for` over the app's settings
file and, where the user has found nothing, the model catalog. A finding holds for its model (told by the file's
fingerprint) and for budgets of half to twice the cells it was found with.
What it does not know: how it was found, flags, engines.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lacache_app.host import EngineSettings

    from lacache_gguf.kv_budget import KvGeometry
    from lacache_gguf.policies import Policy

_log = logging.getLogger(__name__)
_NAME = "calibrated"
_TIMES = 2.0  # a finding is used for budgets of so many times its cells at most, and so many parts at least


@dataclass(frozen=True)
class Calibration:
    """A memory as `lacache eval` writes it ("scored_ladder:recent=25%"), and the evidence for it.

    gain, gain_low, gain_high: by how much the loss per token is lower than the default's on text that took no part in
    the search, in nats, with the 95 % interval
    """

    memory: str
    n_ctx: int
    gain: float
    gain_low: float
    gain_high: float
    text: str
    n_tokens: int
    date: str
    version: str

    @property
    def sentence(self) -> str:
        """One line for people."""
        return (
            f"memory {self.memory}, as calibrated on {self.date} (loss {self.gain:.3f} lower than the default's, 95 % "
            f"[{self.gain_low:.3f}, {self.gain_high:.3f}])"
        )


def save_calibration(folder: Path, fingerprint: str, found: Calibration) -> None:
    """Store a finding; an older one for the same model and cells is replaced."""
    from lacache_app.settings import load_value, save_value

    stored = load_value(folder, _NAME, {})
    stored = stored if isinstance(stored, dict) else {}
    others = [entry for entry in _entries(stored, fingerprint) if entry.n_ctx != found.n_ctx]
    entries = sorted([*others, found], key=lambda entry: entry.n_ctx)
    save_value(folder, _NAME, {**stored, fingerprint: [dataclasses.asdict(entry) for entry in entries]})


def forget_calibrations(folder: Path, fingerprint: str) -> int:
    """Drop all findings for a model; how many there were."""
    from lacache_app.settings import load_value, save_value

    stored = load_value(folder, _NAME, {})
    if not isinstance(stored, dict) or fingerprint not in stored:
        return 0
    n = len(_entries(stored, fingerprint))
    save_value(folder, _NAME, {name: value for name, value in stored.items() if name != fingerprint})
    return n


def find_calibration(folder: Path, fingerprint: str, n_ctx: int) -> Calibration | None:
    """The finding for this model whose cells are nearest to the budget's, or None if none is near; the user's own
    before those of the catalog."""
    own, shipped = (_entries(known, fingerprint) for known in _known(folder))
    return _nearest(own, n_ctx) or _nearest(shipped, n_ctx)


def _nearest(entries: list[Calibration], n_ctx: int) -> Calibration | None:
    near = [(max(entry.n_ctx / n_ctx, n_ctx / entry.n_ctx), entry) for entry in entries]
    near = [pair for pair in near if pair[0] <= _TIMES]
    return min(near, key=lambda pair: pair[0])[1] if near else None


def _known(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the user found, and what the catalog knows: entries by fingerprint."""
    from lacache_app.settings import load_value

    from lacache_gguf.catalog import catalog

    stored = load_value(folder, _NAME, {})
    shipped = {card.fingerprint: [*card.calibrated] for card in catalog().values() if card.calibrated}
    return stored if isinstance(stored, dict) else {}, shipped


def calibrated_policy(
    model: Path, geometry_and_cells: Callable[[], tuple[KvGeometry, int]], type_k: str = "f16", type_v: str = "f16"
) -> tuple[Policy, str] | None:
    """The policy that was found for a model file and a budget, and a line that says so; None without a finding.

    geometry_and_cells  asked for only if something was found for this model; it may raise

    What is stored and cannot be used (found by another version, or not with these KV types) is logged and left out: it
    must not stop anybody.
    """
    from lacache_app.paths import data_dir

    from lacache_gguf.errors import LacacheError

    try:
        stored, shipped = _known(folder := data_dir())
        if not (stored or shipped):
            return None
        from lacache_gguf.checkpoint import fingerprint

        name = fingerprint(model)
        if name not in stored and name not in shipped:
            return None
        geometry, n_ctx = geometry_and_cells()
        if (found := find_calibration(folder, name, n_ctx)) is None:
            return None
        return _checked(found, geometry, n_ctx, type_k, type_v), found.sentence
    except (LacacheError, OSError) as error:
        _log.warning("the stored calibration of %s is not used: %s", model.name, error)
        return None


def calibrated_for(settings: EngineSettings) -> Policy | None:
    """The policy that was found for the model and the memory of engine settings; None if the engine is to choose."""
    from lacache_app.memory_spec import Size, geometry_and_cells, parse_size

    from lacache_gguf.catalog import resolve
    from lacache_gguf.errors import LacacheError

    try:
        path = resolve(settings.model, allow_download=False).path
    except LacacheError:
        return None  # the engine says why

    def size() -> tuple[KvGeometry, int]:
        given = settings.kv_budget or settings.n_ctx
        bought = parse_size(str(given)) if given else Size()
        return geometry_and_cells(path, bought, settings.n_ubatch, settings.type_k, settings.type_v)

    found = calibrated_policy(path, size, settings.type_k, settings.type_v)
    return found[0] if found else None


def _checked(found: Calibration, geometry: KvGeometry, n_ctx: int, type_k: str, type_v: str) -> Policy:
    """The policy of a finding, checked as the engine does. Raises LacacheError."""
    from lacache_app.memory_spec import parse_memory

    from lacache_gguf.model_memory import check_policy

    policy = parse_memory(found.memory, type_k, type_v).make_policy(geometry, n_ctx)
    check_policy(policy, geometry, n_ctx, type_k, type_v)
    return policy


def _entries(stored: dict[str, Any], fingerprint: str) -> list[Calibration]:
    """The findings for a model; what makes no sense is left out."""
    names = {field.name: field.type for field in dataclasses.fields(Calibration)}
    found = []
    entries = stored.get(fingerprint)
    for values in entries if isinstance(entries, list) else ():
        try:
            entry = Calibration(**{name: values[name] for name in names})
            is_sound = isinstance(entry.memory, str) and isinstance(entry.n_ctx, int) and entry.n_ctx > 0
            numbers = (entry.gain, entry.gain_low, entry.gain_high)
            is_sound = is_sound and all(isinstance(number, float | int) for number in numbers)
        except (TypeError, KeyError):
            is_sound = False
        if is_sound:
            found.append(entry)
        else:
            _log.warning("a stored calibration makes no sense and is left out: %.200r", values)
    return found
