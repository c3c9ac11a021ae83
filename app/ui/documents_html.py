"""The HTML of the documents tab: what was recognised, how far it is, errors. Pure: values in, HTML out."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lacache_app.documents import Document
    from lacache_app.summarize.reading import View

KINDS = {
    "pdf": "PDF", "docx": "Word document", "epub": "EPUB book", "html": "web page", "markdown": "Markdown",
    "text": "plain text",
}  # fmt: skip
EMPTY = (
    '<div class="doc-empty"><p><strong>Drop in a document.</strong> A book, a report, a contract, the minutes of a '
    "meeting: PDF, Word, EPUB, web page, Markdown or text, of any length, up to 256 MiB. Several files are read as "
    "one.</p>"
    "<p>Then press <em>Start</em>. Nothing leaves this computer.</p></div>"
)
# an image, a frame or a style in a document or an answer would be fetched by the page that shows it
_FETCHES = re.compile(
    r"<(?=/?\s*(?:img|picture|source|svg|image|video|audio|track|iframe|frame|object|embed|link|style|base|meta|input"
    r"|form|script|math)\b)",
    re.IGNORECASE,
)


def safe_markdown(text: str) -> str:
    """Markdown in which nothing is loaded from elsewhere: images become links, tags that fetch become text."""
    return _FETCHES.sub("&lt;", text).replace("![", "!\\[")


def recognised(document: Document, names: list[str], errors: list[str], outlook: str) -> str:
    """What was found in the files, what could not be read, and what reading it will take."""
    rows = "".join(f'<div class="doc-file">{html.escape(name)}</div>' for name in names)
    note = "".join(f'<p class="doc-note">{html.escape(line)}</p>' for line in document.note.splitlines())
    alerts = "".join(alert(text) for text in errors)
    return f'<div class="doc-found" role="status">{rows}<p>{html.escape(outlook)}</p>{note}</div>{alerts}'


def describe(document: Document) -> str:
    """A document in one line: name, kind, parts."""
    return f"{document.name} · {KINDS.get(document.kind, document.kind)} · {_parts(document)}"


def _parts(document: Document) -> str:
    labels = [part.label for part in document.parts if part.label]
    if not labels:
        n_words = len(document.text.split())
        return f"{n_words:,} words" if n_words != 1 else "1 word"
    word = "page" if labels[0].rpartition(", ")[2].startswith("p.") else "chapter"
    return f"{len(labels):,} {word}{'s' if len(labels) != 1 else ''}"


def alert(text: str) -> str:
    """An error, in place."""
    return f'<div class="doc-alert" role="alert">{html.escape(text)}</div>'


def progress(view: View) -> str:
    """Bar and numbers of a summary under way; one sentence when it is over."""
    if view.state == "failed":
        return alert(view.error)
    note = f'<p class="doc-note">{html.escape(view.note)}</p>' if view.note else ""
    if view.is_over:
        words = "Done." if view.state == "done" else "Stopped. What was read is kept; go on with it below."
        if view.result is not None and view.result.finish_reason == "length":
            words = "Done. The summary reached its length and was cut; choose a longer one if it lacks something."
        return f'<div class="doc-progress" data-state="{view.state}" role="status">{words}</div>{note}'
    percent = round(100 * view.fraction)
    return (
        f'<div class="doc-progress" data-state="{view.state}"><div class="doc-bar" role="progressbar" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}" aria-label="How much was read">'
        f'<span style="width:{percent}%"></span></div><p>{html.escape(_words(view, percent))}</p></div>{note}'
    )


def _words(view: View, percent: int) -> str:
    if view.state == "waiting":
        return "Waiting for its turn" + (f": {view.place} before this one." if view.place else " ...")
    if view.state == "loading":
        return "Loading the model ..."
    what = "Writing" if view.state == "writing" else "Reading"
    parts = [f"{what} {view.title}".strip()]
    if view.n_stages > 1:
        parts.append(f"{view.index + 1} of {view.n_stages}")
    parts.append(f"{percent} %")
    if view.tokens_per_s:
        parts.append(f"{view.tokens_per_s:,.0f} tokens/s")
    if view.eta_s is not None and view.state != "writing":
        parts.append(f"{duration(view.eta_s)} left")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """In words: "40 seconds", "3 minutes", "2 h 5 min"."""
    if seconds < 90:
        n = max(1, round(seconds))
        return f"{n} second{'s' if n != 1 else ''}"
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
