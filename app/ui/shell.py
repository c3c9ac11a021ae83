"""What stands around the tabs: header, welcome, and the routes that feed them.

What it is: `build_header` (HTML; the numbers in it come from GET /lacache/status, asked by assets/app.js), `routes`
(status, welcome, assets) and `head` (our style sheet and scripts for the page's <head>).
What it does not know: the tabs.
"""

from __future__ import annotations

import html
import mimetypes
from pathlib import Path
from typing import Any

import gradio as gr
from lacache_app.settings import load_value, save_value
from lacache_app.ui.context import Context
from lacache_app.ui.theme import css_variables
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

ASSETS = Path(__file__).parent / "assets"
"""Our style sheets and scripts: beside this file, not a copy that an editable install may have made."""
_WELCOME = (
    (
        "Talk without end",
        "A chat never reaches “context full”. When the memory is full, the oldest text is thinned, layer by layer, "
        "instead of cut off. Your system prompt is never forgotten.",
    ),
    (
        "Drop in a whole book",
        "PDF, Word, EPUB, web page or text of any length is read once, through a memory of fixed size, and summed up. "
        "You can stop and go on later.",
    ),
    (
        "See what it remembers",
        "The memory map shows which layers of the model still hold which part of what they read, while it happens.",
    ),
    (
        "It stays here",
        "Model, chats and documents are on this computer. Nothing is sent anywhere, and the app works without a "
        "network. A small model comes with it; get a better one under Models.",
    ),
)


def build_header() -> None:
    """Header and welcome."""
    gr.HTML(_header(), elem_id="lc-top", container=False, padding=False)


def _header() -> str:
    points = "".join(f"<div><dt>{html.escape(t)}</dt><dd>{html.escape(d)}</dd></div>" for t, d in _WELCOME)
    return f"""
<header id="lc-header">
  <span id="lc-name">LaCache</span>
  <span id="lc-status" role="status"><span id="lc-state" data-state="empty"></span><span id="lc-model"></span>
  <span id="lc-budget"></span></span>
  <span id="lc-buttons">
    <button type="button" id="lc-theme" title="Light or dark" aria-label="Switch between light and dark">◐</button>
    <button type="button" id="lc-help" title="What is this?" aria-label="What is this? Show the introduction">?</button>
  </span>
</header>
<dialog id="lc-welcome" aria-labelledby="lc-welcome-title">
  <form method="dialog">
    <h2 id="lc-welcome-title">A model with a memory that never fills up</h2>
    <dl>{points}</dl>
    <p class="lc-note">Small models make mistakes. Check what matters.</p>
    <button type="submit" id="lc-welcome-close" autofocus>Start</button>
  </form>
</dialog>
"""


def head() -> str:
    """For the page's <head>: our style sheet and scripts, from our own origin."""
    return (
        '<link rel="stylesheet" href="/lacache/assets/app.css">\n'
        '<script src="/lacache/assets/stream.js"></script>\n'  # before Gradio's, which is deferred
        '<script src="/lacache/assets/app.js" defer></script>\n'
        '<script src="/lacache/assets/drop.js" defer></script>\n'
        '<link rel="icon" href="/lacache/assets/icon.svg" type="image/svg+xml">\n'
    )


def routes(ctx: Context) -> list[Route]:
    """Our own addresses beside Gradio's, all below /lacache/."""

    def status(_request: Request) -> JSONResponse:
        now = ctx.host.status()
        return _fresh(
            {
                "state": now.state,
                "model": now.model or now.settings.model,
                "n_ctx": now.n_ctx,
                "kv_bytes": now.kv_bytes,
                "policy": now.policy,
                "n_waiting": now.n_waiting,
                "welcome": not load_value(ctx.data_dir, "welcome_seen", False),
            }
        )

    def welcome(_request: Request) -> JSONResponse:
        save_value(ctx.data_dir, "welcome_seen", True)
        return _fresh({"welcome": False})

    return [
        Route("/lacache/status", status, methods=["GET"]),
        Route("/lacache/welcome", welcome, methods=["POST"]),
        Route("/lacache/assets/{name}", _asset, methods=["GET"]),
    ]


def _fresh(value: dict[str, Any]) -> JSONResponse:
    return JSONResponse(value, headers={"cache-control": "no-store"})


def _asset(request: Request) -> Response:
    """A file of app/ui/assets, by its plain name."""
    name = request.path_params["name"]
    if name not in {item.name for item in ASSETS.iterdir() if item.is_file()}:
        return Response("no such file\n", 404, media_type="text/plain")
    text = (ASSETS / name).read_bytes()
    if name == "app.css":
        text = css_variables().encode() + text
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(text, media_type=kind, headers={"cache-control": "no-cache"})
