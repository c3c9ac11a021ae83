"""The guard in front of every route: who may talk to this server, and what its pages may load.

What it is: pure ASGI middleware. A request passes if its Host is one of ours (no DNS rebinding), if no other web page
caused it (no CSRF), and if it has the password where one was set. Answers get headers that keep a page from loading
or sending anything to anywhere else, so an image that a model wrote is never fetched. Addresses behind which Gradio
fetches, proxies or records something that this app has no use for are closed.
What it does not know: what lies behind it.

    app = Guard(app, hosts=Hosts("127.0.0.1", 7860))
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from lacache_app.addresses import Hosts

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_SAFE = ("GET", "HEAD")
_DELAY_S = 0.5  # before a wrong password is refused

_CLOSED = re.compile(
    r"/+(?:gradio_api/+)*(?:"
    r"file[=/]\s*[a-z][a-z0-9+.-]+:|"  # file=http://...: Gradio would fetch it, past the policy below
    r"proxy=|custom_component/|stream/|component_server|process_recording|deep_link|run-history|runs|vibe-|"
    r"undo-vibe-|profiling|monitoring|dev/|login|token|openapi\.json)",
    re.IGNORECASE,
)
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio's page and its js= handlers need both
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-src 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
_REMOVED = ("access-control-allow-origin", "access-control-allow-credentials", "server")


@dataclass(frozen=True)
class Refusal:
    """Why a request is refused."""

    status: int
    text: str
    headers: tuple[tuple[str, str], ...] = ()


class Guard:
    """ASGI middleware; `auth` is (user, password) or None."""

    def __init__(self, app: App, hosts: Hosts, auth: tuple[str, str] | None = None) -> None:
        self.app, self.hosts, self.auth = app, hosts, auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self.check(scope)
        if refusal is not None:
            if refusal.status == 401:
                await asyncio.sleep(_DELAY_S)
            await _refuse(scope, receive, send, refusal)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": _with_headers(message.get("headers", ()))}
            await send(message)

        await self.app(scope, receive, send_guarded)

    def check(self, scope: Scope) -> Refusal | None:
        """Why this request is refused, or None."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        if any(len(headers.get(name, [])) > 1 for name in ("host", "origin", "authorization")):
            return Refusal(400, "a header that must be there once was sent twice")
        first = {name: values[0] for name, values in headers.items()}
        host = first.get("host", "")
        if not self.hosts.allows(host):
            return Refusal(421, f"this server does not answer to the name {host!r}")
        method = "GET" if scope["type"] == "websocket" else scope["method"]
        if not _is_own_page(first, host, scope["type"] == "websocket") or not _may_come_from(first, method):
            return Refusal(403, "this request was caused by another web page")
        if self.auth is not None and not _has_password(first.get("authorization", ""), self.auth):
            return Refusal(401, "user and password, please", (("www-authenticate", 'Basic realm="lacache"'),))
        if _CLOSED.match(scope.get("path", "")):
            return Refusal(404, "there is nothing here")
        return None


def _is_own_page(headers: dict[str, str], host: str, needs_origin: bool) -> bool:
    """Browsers say with Origin which page asks; programs (gradio_client, curl) send none."""
    origin = headers.get("origin")
    if origin is None:
        return not needs_origin
    scheme, _, rest = origin.partition("://")
    return scheme in ("http", "https") and rest.lower() == host.lower()


def _may_come_from(headers: dict[str, str], method: str) -> bool:
    """Browsers say with Sec-Fetch-Site whether the page that asks is ours; only a followed link may be foreign."""
    site = headers.get("sec-fetch-site")
    if site in (None, "same-origin", "none"):
        return True
    is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return method in _SAFE and is_link


def _has_password(authorization: str, auth: tuple[str, str]) -> bool:
    scheme, _, encoded = authorization.partition(" ")
    try:
        given = base64.b64decode(encoded, validate=True) if scheme.lower() == "basic" else b""
    except (binascii.Error, ValueError):
        given = b""
    return hmac.compare_digest(given, ":".join(auth).encode())


def _with_headers(headers: Any) -> list[tuple[bytes, bytes]]:
    replaced = {name.encode() for name in (*_HEADERS, *_REMOVED)}
    kept = [(name, value) for name, value in headers if bytes(name).lower() not in replaced]
    return [*kept, *((name.encode(), value.encode()) for name, value in _HEADERS.items())]


async def _refuse(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    body = f"refused: {refusal.text}\n".encode("ascii", "replace")
    headers = [("content-type", "text/plain; charset=ascii"), ("content-length", str(len(body))), *refusal.headers]
    headers.append(("connection", "close"))  # what it still wants to send is not read
    raw = _with_headers([(name.encode(), value.encode()) for name, value in headers])
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
