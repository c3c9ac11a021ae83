"""Texts of the models tab as HTML: details of a model, what a choice means, what is loaded, how downloads get on.

What it is: pure functions from values to HTML; names and errors come from files and hubs, so everything is escaped.
What it does not know: gradio, how anything is loaded or downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

from lacache_app.download_status import Status
from lacache_app.estimate import size_text
from lacache_app.host import HostStatus
from lacache_app.load_choice import Explanation, assumption
from lacache_app.model_library import Entry

from lacache_gguf.hub import Offer

_WHERE = {"built in": "comes with the app", "catalog": "catalog", "hub": "hub cache", "folder": "your folder"}


def label(entry: Entry) -> str:
    """One line of the list, plain text."""
    parts = [entry.name, size_text(entry.size_bytes), entry.licence or "licence unknown", _WHERE[entry.source]]
    return " · ".join([*parts, *(["cannot forget"] if entry.state == "full only" else [])])


def details(entry: Entry | None) -> str:
    """What is known of the chosen model."""
    if entry is None:
        return '<p class="lc-empty">Choose a model on the left to see what it is and what it needs.</p>'
    rows = [("File", size_text(entry.size_bytes)), ("Licence", entry.licence or "not stated in the file"), *entry.facts]
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in rows)
    note = ""
    if entry.state == "full only":
        note = _note("warn", f"This model cannot forget: {entry.reason}. It loads with the policy full only.")
    place = f'<p class="lc-path">{escape(str(entry.path))}</p>' if entry.path else ""
    return f"<h3>{escape(entry.name)}</h3><dl>{items}</dl>{place}{note}"


def unusable(entries: Sequence[Entry]) -> str:
    """What was found and cannot be loaded, with the reason; "" if there is nothing."""
    rows = [
        f"<li><b>{escape(entry.name)}</b> <span>{escape(entry.state)}: {escape(entry.reason)}</span></li>"
        for entry in entries
        if not entry.can_load
    ]
    return f"<h4>Found, but cannot be used</h4><ul>{''.join(rows)}</ul>" if rows else ""


def explanation(found: Explanation) -> str:
    """The answer to the slider."""
    kind = "bad" if not found.fits else "warn" if any(s.is_tight for s in found.memory.shares) else "good"
    lines = "".join(f"<li>{escape(line)}</li>" for line in found.lines)
    warnings = "".join(_note("warn", text) for text in found.warnings)
    memory = re.sub(r": (fits|does not fit)", r": <b>\1</b>", escape(found.memory.text))
    return (
        f'<div class="lc-verdict" data-kind="{kind}">{memory[0].upper()}{memory[1:]}</div>'
        f'<ul class="lc-means">{lines}</ul>{warnings}<p class="lc-small">{escape(assumption())}</p>'
    )


def error(text: str) -> str:
    """Something that cannot work, where it was chosen."""
    return _note("bad", text, role="alert")


def news(text: str, kind: str = "") -> str:
    """One line of what is happening. kind: "", "busy", "good", "bad"."""
    return f'<p class="lc-said" data-kind="{kind}" role="status">{escape(text)}</p>'


def present(now: HostStatus) -> str:
    """What is loaded."""
    if now.model:
        memory = f"{size_text(now.kv_bytes)} KV memory, {now.n_ctx:,} cells, policy {now.policy}"
        return f'<p><span class="lc-dot on"></span>Loaded: <b>{escape(now.model)}</b>, {escape(memory)}.</p>'
    if now.state == "loading":
        return f'<p><span class="lc-dot on"></span>Loading <b>{escape(now.settings.model)}</b> …</p>'
    return (
        f'<p><span class="lc-dot"></span>Nothing is loaded. <b>{escape(now.settings.model)}</b> is loaded by the next '
        "question, or with the button below.</p>"
    )


def offer(found: Offer, free_bytes: int) -> str:
    """What the hub has under a name, before it is downloaded."""
    left = found.size_bytes - found.n_here()
    room = f"{size_text(free_bytes)} are free on the disk"
    room += "." if left <= free_bytes else f": {size_text(left - free_bytes)} too few."
    licence = found.licence or "not stated"
    state = "It is here already." if left == 0 else f"{size_text(left)} to download, {room}"
    return (
        f'<p class="lc-offer"><b>{escape(found.name)}</b> · {size_text(found.size_bytes)} · licence {escape(licence)}'
        f"<br>{escape(state)}</p>"
    )


def progress(statuses: Sequence[Status]) -> str:
    """All downloads, with bars."""
    if not statuses:
        return '<p class="lc-empty">Nothing is being downloaded.</p>'
    return "".join(_bar(status) for status in statuses)


def _bar(status: Status) -> str:
    value = f' value="{status.share:.4f}"' if status.n_total else ""
    kind = {"failed": "bad", "done": "good"}.get(status.state, "")
    bar = f'<progress max="1"{value} aria-label="{escape(status.name)}"></progress>' if status.state != "failed" else ""
    return (
        f'<div class="lc-download" data-state="{status.state}" data-kind="{kind}"><b>{escape(status.name)}</b>{bar}'
        f"<span>{escape(status.text)}</span></div>"
    )


def _note(kind: str, text: str, role: str = "note") -> str:
    return f'<p class="lc-callout" data-kind="{kind}" role="{role}">{escape(text)}</p>'
