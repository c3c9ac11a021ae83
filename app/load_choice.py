"""What a person chose in the models tab, what it means, and the engine settings it becomes.

What it is: `Choice`, plain values as the page has them; `settings_of` turns them into EngineSettings or says what
cannot work (with the policy's own words); `explain` answers a move of the budget slider: cells, pages, does it fit.
All of it is arithmetic on the model's header, so it answers at once.
What it does not know: gradio, how a model is loaded.

    choice = Choice(model="smollm2-135m", budget_mib=22.5)
    explain(choice, shape, free_memory()).lines
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from lacache_app.estimate import Estimate, FreeMemory, Load, ModelShape, estimate, load_for, size_text
from lacache_app.host import EngineSettings
from lacache_app.memory_flags import POLICY_FIELDS
from lacache_app.memory_spec import fields_of, memory_text, parse_memory, settings_given
from lacache_app.policy_words import DEFAULT, words_of
from lacache_app.reach import TOKENS_PER_WORD, WORDS_PER_PAGE, Reach, pages, reach

from lacache_gguf.errors import UsageError
from lacache_gguf.key_wear import COARSE_KEY_TYPES
from lacache_gguf.kv_budget import KV_TYPES, KvGeometry, parse_budget
from lacache_gguf.model_memory import check_policy
from lacache_gguf.policies import Full, Policy, n_pos_of

FLASH = {"auto": None, "on": True, "off": False}
_BUDGET_MAX_BYTES = 64 << 30
_N_CELLS_LEAST = 256


@dataclass(frozen=True)
class Choice:
    """Values of the models tab. None = the default of the policy or the machine; `n_gpu_layers` -1 = all.

    policy  "default": the engine's choice, or what was calibrated. A policy's name, with the settings behind it that
            the page has no field for, as `parse_memory` reads it: "scored_ladder:dst=2,src=4"
    """

    model: str
    budget_mib: float
    policy: str = DEFAULT
    span: int | None = None
    overlap: int | None = None
    sink: int | None = None
    recent: int | None = None
    score: str | None = None
    heads: str | None = None
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: str = "auto"
    n_gpu_layers: int = -1
    n_threads: int | None = None


@dataclass(frozen=True)
class SliderRange:
    """MiB: one notch of the slider is one step of cells, what is allocated at a time."""

    minimum: float
    maximum: float
    step: float
    value: float


@dataclass(frozen=True)
class Explanation:
    """What a choice means: cells, how many tokens stay sharp and faint, memory, sentences, and what to look out for."""

    n_cells: int
    n_sharp: int
    n_faint: int
    memory: Estimate
    lines: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether it fits on every device."""
        return self.memory.fits


def budget_range(shape: ModelShape, choice: Choice, free_bytes: int = 0) -> SliderRange:
    """What the slider may be set to for this model: 256 cells up to the trained context, or to what is free (if known)
    where that is less. The choice's budget is moved into it. Raises UsageError for KV types the model cannot use.
    """
    geometry, types = shape.geometry, (choice.type_k, choice.type_v)
    n_least = max(1, _N_CELLS_LEAST // geometry.cell_step)
    n_steps = max(n_least, (geometry.n_ctx_train or 1 << 17) // geometry.cell_step)
    ceiling = min(_BUDGET_MAX_BYTES, max(free_bytes, geometry.bytes(1024, 512, *types)) if free_bytes else 1 << 62)
    while n_steps > n_least and geometry.bytes(n_steps * geometry.cell_step, 512, *types) > ceiling:
        n_steps -= max(1, n_steps // 16)
    step = geometry.bytes_per_cell(*types) * geometry.cell_step / 2**20
    low, high = (geometry.bytes(n * geometry.cell_step, 512, *types) / 2**20 for n in (n_least, n_steps))
    low, high = (float(f"{x:.6f}") for x in (low, high))
    return SliderRange(low, high, step, min(max(choice.budget_mib, low), high))


def cells_of(shape: ModelShape, choice: Choice) -> int:
    """Cells that the budget buys. Raises UsageError if it is below one step of cells."""
    n_bytes = round(choice.budget_mib * 2**20) + 512  # the page rounds MiB; a cell is never as small as that
    return shape.geometry.cells_for(n_bytes, 512, choice.type_k, choice.type_v)


def budget_of(geometry: KvGeometry, settings: EngineSettings) -> float:
    """The KV memory of engine settings for this model, in MiB."""
    budget = parse_budget(settings.kv_budget or settings.n_ctx or 1024)
    if budget.n_bytes is not None:
        return budget.n_bytes / 2**20
    n_cells = min(budget.n_cells or 1024, geometry.n_ctx_train or 1 << 30)
    return geometry.bytes(n_cells, settings.n_ubatch, settings.type_k, settings.type_v) / 2**20


def policy_of(shape: ModelShape, choice: Choice, n_cells: int) -> Policy:
    """The policy that was chosen, checked. Raises PolicyError with the policy's own reason, UsageError for the rest."""
    spec, known = parse_memory(choice.policy), fields_of(policy_name(choice))
    given = {name: getattr(choice, field) for field, name in POLICY_FIELDS.items() if name in known}
    settings = {**dict(spec.settings), **{name: value for name, value in given.items() if value is not None}}
    types = {"type_k": choice.type_k, "type_v": choice.type_v}
    policy = dataclasses.replace(spec, settings=tuple(settings.items()), **types).make_policy(shape.geometry, n_cells)
    check_policy(policy, shape.geometry, n_cells, **types)
    return policy


def policy_name(choice: Choice) -> str:
    """The policy's name without settings."""
    return choice.policy.partition(":")[0]


def settings_of(shape: ModelShape, choice: Choice, present: EngineSettings | None = None) -> EngineSettings:
    """Engine settings; what the page has no field for stays as in `present`. Raises UsageError or PolicyError for what
    cannot work together."""
    n_cells = cells_of(shape, choice)
    policy = policy_of(shape, choice, n_cells)
    if choice.n_threads is not None and choice.n_threads < 1:
        raise UsageError(f"{choice.n_threads} threads cannot work; give 1 or more, or leave it empty")
    if choice.type_v not in ("f32", "f16", "bf16") and choice.flash_attn == "off":
        raise UsageError(f"V in {choice.type_v} needs flash attention; switch it on or store V in f16")
    return dataclasses.replace(
        present or EngineSettings(),
        model=choice.model,
        n_ctx=n_cells,
        kv_budget=None,
        policy=None if choice.policy == DEFAULT else policy,
        type_k=choice.type_k,
        type_v=choice.type_v,
        flash_attn=FLASH[choice.flash_attn],
        n_gpu_layers=choice.n_gpu_layers,
        n_threads=choice.n_threads,
    )


def choice_of(shape: ModelShape, settings: EngineSettings) -> Choice:
    """The inverse of `settings_of`, to show on the page what is set now. A field whose value is the policy's default
    stays empty, and what has no field stands behind the policy's name, so that nothing is lost by loading it again."""
    flash = next(word for word, value in FLASH.items() if value is settings.flash_attn)
    choice = Choice(
        model=settings.model,
        budget_mib=budget_of(shape.geometry, settings),
        type_k=settings.type_k,
        type_v=settings.type_v,
        flash_attn=flash,
        n_gpu_layers=settings.n_gpu_layers,
        n_threads=settings.n_threads,
    )
    if settings.policy is None:
        return choice
    given = settings_given(settings.policy, len(shape.geometry.layers_planned), cells_of(shape, choice))
    shown = {field: given.pop(name) for field, name in POLICY_FIELDS.items() if given.get(name) is not None}
    return dataclasses.replace(choice, policy=memory_text(settings.policy.name, given), **shown)


def explain(
    choice: Choice, shape: ModelShape, devices: Sequence[FreeMemory], calibrated: tuple[Policy, str] | None = None
) -> Explanation:
    """What a choice means. `calibrated`: what was found for the default, with a sentence about it.

    Raises UsageError or PolicyError for what cannot work.
    """
    settings = settings_of(shape, choice)
    n_cells = settings.n_ctx or 0
    policy = settings.policy or (calibrated[0] if calibrated else policy_of(shape, choice, n_cells))
    load = Load(n_cells, settings.n_ubatch, choice.type_k, choice.type_v, FLASH[choice.flash_attn], choice.n_gpu_layers)
    memory = estimate(shape, load_for(policy, load), devices)
    held = reach(policy, len(shape.geometry.layers_planned), n_cells, settings.n_ubatch)
    per_cell = shape.geometry.bytes_per_cell(choice.type_k, choice.type_v)
    lines = [f"{n_cells:,} cells of {size_text(per_cell)}: room for as many tokens at a time."]
    if calibrated and settings.policy is None:
        lines.append(f"Best choice for this model: {calibrated[1]}.")
    lines.append(_what_is_held(policy, held))
    n_train = shape.geometry.n_ctx_train
    if n_train:
        share = n_cells / n_train
        lines.append(
            f"The model was trained on {n_train:,} tokens at a time, {pages(n_train)}; "
            + ("the budget uses all of it." if share >= 1 else f"the budget uses {share:.0%} of it.")
        )
    keeps_pos = n_pos_of(policy, n_cells, n_train) > 0
    return Explanation(n_cells, held.n_sharp, held.n_faint, memory, tuple(lines), tuple(_warnings(choice, keeps_pos)))


def assumption() -> str:
    """What a page is taken to be, in one sentence."""
    n_tokens = round(WORDS_PER_PAGE * TOKENS_PER_WORD / 10) * 10
    return (
        f"A page is about {WORDS_PER_PAGE} words of English, {n_tokens} tokens; other languages and program text take "
        "more. Sharp: every layer of the model still has it. Faint: only some layers have it."
    )


def _what_is_held(policy: Policy, held: Reach) -> str:
    """How much stays sharp, how much faint, and which."""
    sharp, faint = pages(held.n_sharp), pages(held.n_faint)
    if isinstance(policy, Full):
        return f"{sharp} sharp, none faint: nothing is forgotten, and it stops when the memory is full."
    if not held.is_least:
        return f"{sharp} sharp, {faint} faint, of a text of any length."
    older = words_of(policy.name).older or "the words that the policy rates highest"
    return f"{sharp} or more sharp, the newest text; {faint} or more faint: of older text of any length, {older}."


def _warnings(choice: Choice, keeps_pos: bool) -> list[str]:
    """`keeps_pos`: thinning only copies keys, and they are turned so rarely that any type bears it."""
    found = []
    wears = choice.type_k not in ("f32", "f16", "bf16") and not keeps_pos
    if wears and choice.type_k in COARSE_KEY_TYPES:
        found.append(
            f"K in {choice.type_k} is rounded anew whenever old text is thinned, and 4 bits leave little room for "
            "that: answers get worse. Try K in q8_0 and V in q4_0 instead."
        )
    elif wears:
        found.append(f"K in {choice.type_k} is rounded anew whenever old text is thinned; f16 is the safe choice.")
    if policy_name(choice) == "full":
        found.append("With the policy full nothing is forgotten: a text longer than the memory is refused.")
    return found


def kv_types_for(shape: ModelShape) -> list[str]:
    """KV types that this model's heads allow."""
    heads = {n for layer in shape.geometry.layers for n in (layer.n_embd_head_k, layer.n_embd_head_v)}
    return [name for name, (n_block, _n_bytes) in KV_TYPES.items() if all(n % n_block == 0 for n in heads)]
