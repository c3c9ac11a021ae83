"""A small model hub on 127.0.0.1: as much of the Hugging Face protocol as listing and downloading files needs.

    with LoopbackHub({"user/repo": {"model.Q4_K_M.gguf": b"..."}}) as hub:
        os.environ["HF_ENDPOINT"] = hub.url

`hub.requests` lists ("GET", path, token), `hub.starts` (file, first byte asked for) of every download; `hub.gated` maps
a repository to the token that opens it. What can go wrong, by file name:

    cut_once          its first download breaks off in the middle
    wrong_hash        the list of files has another SHA-256 for it
    wrong_content     the bytes that are sent are not the file's (until the name is taken out of the set)
    hold_at           {name: n}: after n bytes of the file nothing more comes until `hub.release()`

`hub.ignores_ranges` makes it answer every Range request with the whole file; `hub.is_down` with 503.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def gguf_bytes(pad: int = 64, version: int = 3, metadata: dict[str, str | int | list[int]] | None = None) -> bytes:
    """A well-formed GGUF file with metadata, one I8 tensor of `pad` bytes, and no model in it."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def value(item: str | int | list[int]) -> bytes:
        if isinstance(item, str):
            return struct.pack("<I", 8) + text(item)
        if isinstance(item, int):
            return struct.pack("<II", 4, item)
        return struct.pack(f"<IIQ{len(item)}i", 9, 5, len(item), *item)

    metadata = {"general.architecture": "llama", **(metadata or {})}
    head = b"GGUF" + struct.pack("<IQQ", version, 1, len(metadata))
    head += b"".join(text(key) + value(item) for key, item in metadata.items())
    head += text("weight") + struct.pack("<IQIQ", 1, pad, 24, 0)
    return head + bytes(-len(head) % 32) + bytes(pad)


class LoopbackHub:
    """Serves repositories of {file name: bytes} from memory while the `with` block lasts."""

    def __init__(self, repos: dict[str, dict[str, bytes]], licence: str = "apache-2.0") -> None:
        self.repos, self.licence = repos, licence
        self.gated: dict[str, str] = {}
        self.valid_tokens: set[str] = set()
        self.wrong_hash: set[str] = set()
        self.cut_once: set[str] = set()
        self.wrong_content: set[str] = set()
        self.hold_at: dict[str, int] = {}
        self.ignores_ranges = self.is_down = False
        self.starts: list[tuple[str, int]] = []
        self._released = threading.Event()
        self.requests: list[tuple[str, str, str | None]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def release(self) -> None:
        """Let held downloads go on, and hold none from now on."""
        self.hold_at.clear()
        self._released.set()

    def __exit__(self, *_exc: object) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()

    def n_downloads(self, name: str) -> int:
        """How often the bytes of a file were asked for."""
        return sum(method == "GET" and path.endswith("/" + name) for method, path, _ in self.requests)

    def info(self, repo: str) -> dict[str, object]:
        """The answer of /api/models/{repo}?blobs=true."""
        siblings = []
        for name, data in self.repos[repo].items():
            digest = hashlib.sha256(b"other" if name in self.wrong_hash else data).hexdigest()
            lfs = {"size": len(data), "sha256": digest, "pointerSize": 134}
            siblings.append({"rfilename": name, "size": len(data), "blobId": digest[:40], "lfs": lfs})
        return {
            "id": repo,
            "sha": COMMIT,
            "siblings": siblings,
            "tags": ["gguf", f"license:{self.licence}"],
            "private": False,
        }


def _handler(hub: LoopbackHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def log_message(self, *_args: object) -> None:
            pass

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            hub.requests.append((self.command, path, token))
            parts = path.strip("/").split("/")
            if hub.is_down:
                return self.refuse(503, "")
            if token is not None and token not in hub.valid_tokens:
                return self.refuse(401, "", "Invalid credentials in Authorization header")
            if parts[:2] == ["api", "models"] and len(parts) >= 4:
                repo = "/".join(parts[2:4])
                return self.send_info(repo) if repo in hub.repos else self.refuse(401, "RepoNotFound")
            if len(parts) >= 5 and parts[2] == "resolve":
                return self.send_file("/".join(parts[:2]), "/".join(parts[4:]), token)
            return self.refuse(404, "")

        def send_info(self, repo: str) -> None:
            body = json.dumps(hub.info(repo)).encode()
            self.reply(200, body, {"Content-Type": "application/json"})

        def send_file(self, repo: str, name: str, token: str | None) -> None:
            if repo not in hub.repos:
                return self.refuse(404, "RepoNotFound")
            if repo in hub.gated and token != hub.gated[repo]:
                return self.refuse(403, "GatedRepo")
            if name not in hub.repos[repo]:
                return self.refuse(404, "EntryNotFound")
            data = hub.repos[repo][name]
            headers = {
                "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Repo-Commit": COMMIT,
                "Accept-Ranges": "bytes",
            }
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
            if self.command == "GET":
                hub.starts.append((name, start))
            if hub.ignores_ranges:
                start = 0
            if start >= len(data) > 0:
                return self.refuse(416, "")
            if name in hub.wrong_content:
                data = bytes(byte ^ 1 for byte in data)
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            if self.command == "GET" and name in hub.cut_once:
                hub.cut_once.discard(name)
                self.reply(200, data, headers, n_sent=len(data) // 2)
                self.close_connection = True
                return None
            n_sent = max(0, hub.hold_at[name] - start) if name in hub.hold_at else None
            self.reply(206 if start else 200, data[start:], headers, n_sent)
            if n_sent is not None and self.command == "GET":
                hub._released.wait(120)
                with contextlib.suppress(OSError):  # who asked may have gone
                    self.wfile.write(data[start + n_sent :])
            return None

        def refuse(self, status: int, code: str, message: str = "") -> None:
            headers = {"X-Error-Code": code} if code else {}
            self.reply(status, b"{}", headers | ({"X-Error-Message": message} if message else {}))

        def reply(self, status: int, body: bytes, headers: Mapping[str, str], n_sent: int | None = None) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:n_sent])

    return Handler
