"""What the comparison shows: one card per memory, its costs, its answer, and how that differs from the first one's.

What it is: `Slot` (how far a contender is), `fold` (events -> slots), `cards` (slots -> HTML), and `pictures` of what
was measured. Every text of models, files and errors is escaped; differences are <ins> and <del>, with words for those
who cannot see them.
What it does not know: gradio, engines.
"""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lacache_app.compare import Event, Outcome, Started, word_diff
from lacache_app.memory_spec import MemorySpec

from lacache_gguf.events import Progress, Step


@dataclass(frozen=True)
class Slot:
    """How far a contender is: state is waiting, loading, reading, writing, done, refused or stopped."""

    contender: MemorySpec
    state: str = "waiting"
    progress: Progress | None = None
    text: str = ""
    outcome: Outcome | None = None

    @property
    def label(self) -> str:
        """Name for people."""
        return self.outcome.label if self.outcome else self.contender.label


def fold(slots: Sequence[Slot], events: Sequence[Event]) -> list[Slot]:
    """The slots after these events."""
    slots = list(slots)
    for event in events:
        slot, what = slots[event.index], event.event
        if isinstance(what, Started):
            slot = replace(slot, state="loading")
        elif isinstance(what, Progress):
            slot = replace(slot, state="reading", progress=what)
        elif isinstance(what, Step):
            slot = replace(slot, state="writing", text=slot.text + what.text)
        elif isinstance(what, Outcome):
            slot = replace(slot, state="refused" if what.refused else "done", outcome=what, text=what.text)
        slots[event.index] = slot
    return slots


def stopped(slots: Sequence[Slot]) -> list[Slot]:
    """The slots when the comparison was stopped: what was not done will not be."""
    return [slot if slot.state in ("done", "refused") else replace(slot, state="stopped") for slot in slots]


def cards(slots: Sequence[Slot], note: str = "") -> str:
    """The cards side by side; `note` stands above them."""
    first = next((slot for slot in slots if slot.state == "done"), None)
    inner = "".join(_card(number, slot, first) for number, slot in enumerate(slots, 1))
    above = f'<p class="note" role="status">{html.escape(note)}</p>' if note else ""
    return f'{above}<div class="cmp-cards" data-n="{len(slots)}">{inner}</div>'


def empty() -> str:
    """Before the first comparison."""
    return (
        '<div class="cmp-empty"><b>The same question, different memories, equal MiB.</b><p>Choose two to four memories '
        "above and press Compare: they answer one after the other, each from an empty memory, and their answers, times "
        "and differences appear here. Your chat stays as it is.</p></div>"
    )


def pictures(images: Mapping[str, bytes]) -> str:
    """PNG images by name; they are in the page itself, so no file is left behind."""
    figures = (
        f'<figure><img alt="{html.escape(name)}" src="data:image/png;base64,{b64encode(data).decode()}"></figure>'
        for name, data in images.items()
    )
    return f'<div class="cmp-pictures">{"".join(figures)}</div>'


def _card(number: int, slot: Slot, first: Slot | None) -> str:
    text = f'<div class="cmp-text">{html.escape(slot.text)}</div>' if slot.text else ""
    if slot.state == "refused" and slot.outcome is not None:
        text = f'<p class="cmp-refused">{html.escape(_sentence(slot.outcome.refused))}</p>'
    costs = _costs(slot.outcome) if slot.outcome is not None and slot.state == "done" else ""
    diff = _diff(first, slot) if slot.state == "done" and first is not None and slot is not first else ""
    return (
        f'<article class="cmp-card" data-state="{slot.state}"><h3>{number}. {html.escape(slot.label)}</h3>'
        f'<p class="cmp-state">{html.escape(_state(slot))}</p>{_bar(slot)}{costs}{text}{diff}</article>'
    )


def _state(slot: Slot) -> str:
    progress = slot.progress
    if slot.state == "reading" and progress is not None:
        return f"reading {progress.n_done:,} of {progress.n_total:,} tokens, {progress.tokens_per_s:,.0f}/s"
    words = {
        "waiting": "waiting for its turn",
        "loading": "opening its memory",
        "writing": "writing",
        "refused": "refused",
        "stopped": "stopped",
    }
    if slot.state == "done" and slot.outcome is not None:
        reason = slot.outcome.finish_reason
        return {"length": "done, cut at the length you set", "memory full": "ended: its memory was full"}.get(
            reason or "", "done"
        )
    return words.get(slot.state, slot.state)


def _bar(slot: Slot) -> str:
    if slot.state != "reading" or slot.progress is None:
        return ""
    progress = slot.progress
    return f'<progress max="{progress.n_total}" value="{progress.n_done}" aria-label="read"></progress>'


def _costs(outcome: Outcome) -> str:
    n_read = outcome.n_seen - outcome.n_written
    rows = (
        ("memory", f"{outcome.n_ctx:,} cells, {outcome.kv_bytes / 2**20:,.1f} MiB"),
        ("read", f"{max(0, n_read):,} tokens in {outcome.seconds_read:,.1f} s"),
        ("first word after", f"{outcome.seconds_first:,.1f} s"),
        ("wrote", f"{outcome.n_written:,} tokens, {outcome.decode_tps:,.0f} per second"),
        ("thinned", f"{outcome.n_evicted:,} of {outcome.n_seen:,} tokens in {outcome.n_compactions:,} compactions"),
    )
    return '<dl class="cmp-costs">' + "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in rows) + "</dl>"


def _diff(first: Slot, slot: Slot) -> str:
    parts = word_diff(first.text, slot.text)
    n = {kind: sum(len(text.split()) for k, text in parts if k == kind) for kind in ("same", "del", "ins")}
    name = html.escape(first.label)
    if not n["del"] and not n["ins"]:
        return f'<p class="cmp-same">Word for word the answer of {name}.</p>'
    marks = {
        "same": "{}",
        "del": '<del><span class="cmp-spoken">[gone: </span>{}<span class="cmp-spoken">]</span></del>',
        "ins": '<ins><span class="cmp-spoken">[new: </span>{}<span class="cmp-spoken">]</span></ins>',
    }
    body = "".join(marks[kind].format(html.escape(text)) for kind, text in parts)
    return (
        f'<details class="cmp-diff" open><summary>Against {name}: {n["same"]:,} words the same, {n["del"]:,} gone, '
        f'{n["ins"]:,} new</summary><div class="cmp-text">{body}</div></details>'
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
