"""Texts of the chat page as HTML: the list of conversations, the line of news, the note about thinned text.

What it is: pure functions from values to HTML; everything that a person or a model wrote is escaped.
What it does not know: gradio, the store, engines.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from html import escape
from typing import TYPE_CHECKING

from lacache_app.terminal import duration

if TYPE_CHECKING:
    from lacache_app.chat import View
    from lacache_app.store import Conversation, Message
    from lacache_app.thinning import Part, Thinned

_N_LINES = 40  # of a note
_N_WORDS = 48  # characters of a message in a note


def conversation_list(talks: Sequence[Conversation], opened: str, search: str = "", now: float | None = None) -> str:
    """The sidebar: newest first, under Today, Yesterday ...; `data-id` on every button, `data-open` on the whole."""
    rows, heading = [], ""
    for talk in talks:
        age = _age(talk.updated, time.time() if now is None else now)
        if age != heading:
            rows.append(f'<li class="lc-age" role="presentation">{age}</li>')
            heading = age
        current = ' aria-current="true"' if talk.id == opened else ""
        title = escape(talk.title)
        rows.append(
            f'<li><button type="button" data-id="{escape(talk.id)}" title="{title}"{current}>{title}</button></li>'
        )
    empty = f"Nothing holds “{escape(search)}”." if search.strip() else "Conversations appear here and are kept."
    body = f"<ul>{''.join(rows)}</ul>" if rows else f'<p class="lc-empty">{empty}</p>'
    return f'<nav aria-label="Conversations" data-open="{escape(opened)}">{body}</nav>'


def title(text: str | None) -> str:
    """The open conversation's title; None: there is none yet, and its tools are hidden."""
    return f"<h2>{escape(text)}</h2>" if text is not None else '<h2 class="lc-new">New chat</h2>'


def news(view: View | None) -> str:
    """One line below the conversation: what is happening, or what happened last. Always of the same height.

    While it is `busy`, the page shows Stop instead of Send.
    """
    if view is None:
        return _line("")
    if view.state == "waiting":
        others = f"{view.place} {'answer comes' if view.place == 1 else 'answers come'} before yours"
        return _line(f"Waiting: {others}" if view.place else "Starting …", "busy")
    if view.state == "stopping":
        return _line("Stopping …", "busy")
    if view.state == "loading":
        return _line("Loading the model …", "busy")
    if view.state == "reading":
        return _reading(view)
    if view.state == "answering":
        return _line(f"Writing · {_written(view)}", "busy", role="timer")  # nobody wants every number read out
    if view.state == "failed":
        return _line(escape(view.error), "error", role="alert")
    if view.state == "stopped":
        return _line(f"Stopped · {_written(view)}" if view.n_tokens else "Stopped before the answer")
    cut = " · cut at the longest answer" if view.is_cut else ""
    return _line(_written(view) + _seen(view) + cut)


def notice(text: str) -> str:
    """Something the user should know, in the line of news."""
    return _line(escape(text), "error", role="alert")


def memory_note(note: Thinned | None, messages: Sequence[Message]) -> str:
    """A foldable note on what the memory has lost of this conversation; "" if nothing."""
    if note is None:
        return ""
    names = {message.id: message for message in messages}
    parts = [part for part in note.parts if part.message in names and part.share < 0.995]
    rows = "".join(_part(part, names[part.message]) for part in parts[:_N_LINES])
    more = f"<p>… and {len(parts) - _N_LINES:,} more parts.</p>" if len(parts) > _N_LINES else ""
    gone = f" {note.n_gone:,} tokens are in no layer any more." if note.n_gone else ""
    return (
        f"<details><summary>Older text is thinned: {note.n_thinned:,} of {note.n_tokens:,} tokens, "
        f"{_percent(note.share)} is left</summary>"
        f"<div><p>The memory is full, so every layer of the model keeps a different part of the older text.{gone} "
        "Your system prompt and the newest text are complete. Nothing is deleted from the conversation itself.</p>"
        f"<table><thead><tr><th>Message</th><th>Tokens</th><th>Left in memory</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{more}</div></details>"
    )


# ---- inside ----------------------------------------------------------------------------------------------------------


def _line(text: str, kind: str = "", role: str = "status") -> str:
    return f'<div class="lc-news {kind}" role="{role}">{text}</div>'


def _reading(view: View) -> str:
    progress = view.progress
    if progress is None or progress.n_done >= progress.n_total:
        return _line("Reading …", "busy")
    numbers = f"Reading {progress.n_done:,} of {progress.n_total:,} tokens · {progress.tokens_per_s:,.0f} tokens/s"
    left = f" · about {duration(progress.eta_s)} left" if progress.eta_s > 0 else ""
    bar = f'<progress max="{progress.n_total}" value="{progress.n_done}" aria-label="Reading"></progress>'
    return _line(f"{bar}<span>{numbers}{left}</span>", "busy", role="timer")


def _written(view: View) -> str:
    speed = f" · {view.tokens_per_s:,.1f} tokens/s" if view.tokens_per_s > 0 else ""
    return f"{view.n_tokens:,} {'token' if view.n_tokens == 1 else 'tokens'}{speed}"


def _seen(view: View) -> str:
    progress = view.progress
    if progress is None or progress.n_done == progress.n_before:
        return ""
    return f" · {progress.n_done - progress.n_before:,} tokens read"


def _part(part: Part, message: Message) -> str:
    who = "You" if message.role == "user" else "Answer"
    words = " ".join(message.shown[: 4 * _N_WORDS].split())
    words = words if len(words) <= _N_WORDS else words[: _N_WORDS - 1] + "…"
    which = f" <span>part {part.index + 1} of {part.n_parts}</span>" if part.n_parts > 1 else ""
    bar = f'<meter min="0" max="1" value="{part.share}" aria-hidden="true"></meter>'
    left = f"{bar} {_percent(part.share)}"
    return f"<tr><td>{who}: {escape(words)}{which}</td><td>{part.n_tokens:,}</td><td>{left}</td></tr>"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share > 0 else "0 %"


def _age(updated: float, now: float) -> str:
    today = datetime.fromtimestamp(now).date()
    day = datetime.fromtimestamp(updated).date()
    if day >= today:
        return "Today"
    if day == today - timedelta(days=1):
        return "Yesterday"
    if day > today - timedelta(days=7):
        return "This week"
    return f"{day:%B %Y}"
