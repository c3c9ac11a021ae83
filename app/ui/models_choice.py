"""What the fields of the models tab say, as a Choice, and back; and errors in the page's words.

What it is: `choice_from` (values of the page -> Choice), `filled` (Choice -> new values, each policy with its own
fields), `page_words`.
What it does not know: files, engines, events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr
from lacache_app.load_choice import FLASH, Choice
from lacache_app.memory_flags import POLICY_FIELDS
from lacache_app.memory_spec import fields_of, parse_memory
from lacache_app.policy_words import policy_choices

from lacache_gguf.errors import LacacheError, UsageError

if TYPE_CHECKING:
    from lacache_app.ui.models_tab import Advanced

_WORDS = (
    ("--ctx-size/--kv-budget", "the memory budget"),
    ("--kv-budget or --ctx-size", "the memory budget"),
    ("--kv-budget", "the memory budget"),
    ('use heads="layer" (--heads layer)', "let all heads keep the same"),
    ("--policy full", "the policy full"),
    ("--policy ladder", "the policy ladder"),
    ("(--offline or HF_HUB_OFFLINE)", "(HF_HUB_OFFLINE)"),
    ("Use -ctk q8_0 -ctv q4_0", "Store K as q8_0 and V as q4_0"),
    ("--recent", "recent"),
    ("n_recent", "recent"),
    ("n_sink", "sinks"),
    ("-ngl", "the layers on the GPU"),
)


def choice_from(model: str, budget_mib: float, advanced: tuple[Any, ...]) -> Choice:
    """The values of `Advanced.inputs` and what stands above them. Raises UsageError."""
    policy, span, overlap, sink, recent, score, heads, type_k, type_v, flash, n_gpu_layers, n_threads = advanced
    if not isinstance(budget_mib, int | float) or flash not in FLASH:
        raise UsageError(f"{budget_mib!r} MiB is no memory budget; move the slider")
    n_gpu_layers = -1 if n_gpu_layers is None else int(n_gpu_layers)
    whole = (None if value is None else int(value) for value in (span, overlap, sink, recent))
    span, overlap, sink, recent = whole
    return Choice(
        model=model,
        budget_mib=float(budget_mib),
        policy=str(policy),
        span=span,
        overlap=overlap,
        sink=sink,
        recent=recent,
        score=score or None,
        heads=heads or None,
        type_k=type_k,
        type_v=type_v,
        flash_attn=flash,
        n_gpu_layers=n_gpu_layers,
        n_threads=None if not n_threads else int(n_threads),
    )


def filled(advanced: Advanced, choice: Choice, kv_types: list[str]) -> dict[Any, Any]:
    """{component: new value} that show a choice."""
    shown = shown_fields(advanced, choice.policy)
    of_policy = {
        box: {**shown[box], "value": _value(box, getattr(choice, name))} for name, box in advanced.of_policy().items()
    }
    return {
        advanced.policy: gr.Dropdown(choices=_policies(choice.policy), value=choice.policy),
        **of_policy,
        advanced.type_k: gr.Dropdown(choices=kv_types, value=choice.type_k),
        advanced.type_v: gr.Dropdown(choices=kv_types, value=choice.type_v),
        advanced.flash_attn: choice.flash_attn,
        advanced.n_gpu_layers: choice.n_gpu_layers,
        advanced.n_threads: choice.n_threads,
    }


def shown_fields(advanced: Advanced, policy: str | None) -> dict[Any, Any]:
    """{component: update}: of the fields that only some policies have, this one's are shown."""
    known = fields_of((policy or "").partition(":")[0])
    return {box: gr.update(visible=POLICY_FIELDS[name] in known) for name, box in advanced.of_policy().items()}


def _policies(policy: str) -> list[tuple[str, str]]:
    """The choices, and before them what is set now if it has settings that the page has no fields for."""
    choices = policy_choices()
    if any(policy == name for _words, name in choices):
        return choices
    return [(f"As it is: {parse_memory(policy).label}", policy), *choices]


def _value(box: Any, value: Any) -> Any:
    return "" if value is None and isinstance(box, gr.Dropdown) else value


def page_words(error: LacacheError) -> str:
    """The library's sentence with the command line's names of settings replaced by those of the page."""
    text = str(error)
    for flag, word in _WORDS:
        text = text.replace(flag, word)
    return text
