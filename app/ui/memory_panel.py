"""The memory panel beside all tabs: a picture of what every layer still holds, and the routes that feed it.

What it is: `build` puts one custom element on the page, assets/memory_map.js draws it and asks GET /lacache/memory for
news (204 when there is none) and GET /lacache/memory/text for the tokens under the cursor. Both answers come from the
latest `Snapshot`, so no request ever waits for the engine.
What it does not know: engines, tabs, how bins are counted.
"""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import dataclass
from typing import Any

import gradio as gr
from lacache_app.memory_map import N_TEXT_TOKENS, CloseUp, Snapshot
from lacache_app.memory_strips import Strip
from lacache_app.ui.context import Context
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_NUMBERS = (
    "revision", "model", "policy", "n_layer", "n_head", "n_ctx", "n_cells", "n_seen", "n_evicted", "n_compactions",
    "kv_bytes", "kv_bytes_used", "kv_bytes_full", "n_first_whole", "n_newest_whole", "n_traced",
)  # fmt: skip
_N_MAX = 2**53  # whole numbers that JavaScript can hold


@dataclass(frozen=True)
class Panel:
    """The panel's components."""

    element: gr.HTML


def build(ctx: Context) -> Panel:
    """The custom element; its height is fixed by its style sheet before the script arrives, so nothing jumps."""
    del ctx
    return Panel(
        gr.HTML(
            '<lacache-memory-map style="display:block;min-height:32rem"></lacache-memory-map>',
            elem_id="memory-panel",
            container=False,
            padding=False,
            apply_default_css=False,
            js_on_load='import("/lacache/assets/memory_map.js")',
        )
    )


def wire(ctx: Context, own: Panel, shared: Any) -> None:
    """The panel feeds itself; this adds the endpoint /memory for programs."""
    del own, shared

    def memory() -> dict[str, Any]:
        """Counters of the memory now: tokens seen, cells in use, MiB, compactions, and what is still whole."""
        return summary(ctx.memory_map.snapshot())

    gr.api(memory, api_name="memory", queue=False)


def routes(ctx: Context) -> list[Route]:
    """GET /lacache/memory?since=REVISION and GET /lacache/memory/text?first=&last= (tokens, `last` not included)."""
    cache = _Encoded()

    def memory(request: Request) -> Response:
        since = _whole(request, "since", 0)
        if isinstance(since, Response):
            return since
        snapshot = ctx.memory_map.snapshot()
        headers = {"cache-control": "no-store", "x-lacache-state": ctx.host.status().state}
        if snapshot is None or snapshot.revision == since:
            return Response(status_code=204, headers=headers)
        return Response(cache.get(snapshot), media_type="application/json", headers=headers)

    def text(request: Request) -> Response:
        first, last = _whole(request, "first"), _whole(request, "last")
        for value in (first, last):
            if isinstance(value, Response):
                return value
        if not 0 < last - first <= N_TEXT_TOKENS:
            return _refused(f"last - first is {last - first}; ask for 1 to {N_TEXT_TOKENS} tokens")
        return JSONResponse(close_up_json(ctx.memory_map.close_up(first, last)), headers={"cache-control": "no-store"})

    return [
        Route("/lacache/memory", memory, methods=["GET"]),
        Route("/lacache/memory/text", text, methods=["GET"]),
    ]


# ---- values -> JSON --------------------------------------------------------------------------------------------------


def snapshot_json(snapshot: Snapshot) -> dict[str, Any]:
    """All that the picture needs. `rows` is base64 of uint8 [n_rows, n_bins]; row_of: which one every layer has."""
    return {
        **{name: getattr(snapshot, name) for name in _NUMBERS},
        "tokens_per_s": round(snapshot.tokens_per_s, 1),
        "row_of": snapshot.row_of.tolist(),
        "overview": _strip_json(snapshot.overview),
        "recent": _strip_json(snapshot.recent),
    }


def _strip_json(strip: Strip) -> dict[str, Any]:
    return {
        "first": strip.first,
        "last": strip.last,
        "bin_size": strip.bin_size,
        "n_bins": strip.n_bins,
        "rows": base64.b64encode(strip.rows.tobytes()).decode("ascii"),
    }


def close_up_json(close_up: CloseUp | None) -> dict[str, Any]:
    """Pieces of text and, per token, in how many heads each layer holds it: `kept` is base64 of uint8 [n_layer, n]."""
    if close_up is None:
        return {"first": 0, "pieces": [], "kept": ""}
    kept = base64.b64encode(close_up.n_kept.tobytes()).decode("ascii")
    return {"first": close_up.first, "pieces": list(close_up.pieces), "kept": kept}


def summary(snapshot: Snapshot | None) -> dict[str, Any]:
    """The counters for programs; all zero before anything was loaded."""
    if snapshot is None:
        return {"model": "", "n_seen": 0, "n_cells": 0, "n_ctx": 0}
    numbers = {name: getattr(snapshot, name) for name in _NUMBERS if name != "revision"}
    return {**numbers, "tokens_per_s": round(snapshot.tokens_per_s, 1)}


class _Encoded:
    """The JSON of the latest snapshot, made once for all pages that ask for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._revision, self._body = -1, b""

    def get(self, snapshot: Snapshot) -> bytes:
        with self._lock:
            if snapshot.revision != self._revision:
                self._body = json.dumps(snapshot_json(snapshot), separators=(",", ":")).encode()
                self._revision = snapshot.revision
            return self._body


# ---- parameters ------------------------------------------------------------------------------------------------------


def _whole(request: Request, name: str, default: int | None = None) -> int | Response:
    """A query parameter that is a whole number, 0 .. 2**53; else the answer that says so."""
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 16 or int(text) > _N_MAX:
        return _refused(f"{name} is {str(text)[:40]!r}; give a whole number from 0 to {_N_MAX}")
    return int(text)


def _refused(text: str) -> Response:
    return JSONResponse({"error": text}, status_code=400, headers={"cache-control": "no-store"})
