"""Names and addresses of a server: which are ours, which can be reached from elsewhere, and taking a port.

What it is: `Hosts` (which Host headers are ours), `is_loopback`, `bind`, `url`.
What it does not know: HTTP, gradio.

    Hosts("127.0.0.1", 7860).allows("localhost:7860")    # True
"""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Hosts:
    """The names under which this server may be addressed.

    host   what the server is bound to
    port   its port
    names  further names, for those who bound it to a network and call it by a name
    """

    host: str
    port: int
    names: tuple[str, ...] = ()

    def allows(self, host: str) -> bool:
        """Whether a Host header is one of ours: name and port."""
        name, port = split_host(host)
        if port != self.port:
            return False
        if name in _LOOPBACK or name in self.names or name == bracketed(self.host):
            return True
        return is_wildcard(self.host) and is_address(name)  # an address in figures is never a rebound name


def bind(host: str, port: int, n_tries: int = 1) -> socket.socket:
    """A listening socket on the first free port of `n_tries`; 0 = any. Raises OSError of the first if none is free."""
    first_error: OSError | None = None
    for candidate in range(port, port + n_tries):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # on Windows it would let two programs share the port
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host.strip("[]"), candidate))
            sock.listen(128)
        except OSError as error:
            sock.close()
            first_error = first_error or error
            continue
        return sock
    assert first_error is not None
    raise first_error


def url(host: str, port: int) -> str:
    """The address to open."""
    return f"http://{'127.0.0.1' if is_wildcard(host) else bracketed(host)}:{port}/"


def split_host(host: str) -> tuple[str, int]:
    """Name in lower case and port of a Host header; port 80 if none is given, -1 if it is nonsense."""
    name, colon, port = host.strip().lower().rpartition(":")
    if not colon or port.endswith("]"):  # no port: "localhost", "[::1]"
        return host.strip().lower(), 80
    return name, int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else -1


def is_address(name: str) -> bool:
    """Whether it is an IP address in figures, IPv6 in brackets."""
    try:
        ipaddress.ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    return True


def bracketed(host: str) -> str:
    """A host as it stands in an address: IPv6 in brackets, lower case."""
    return f"[{host.lower()}]" if ":" in host and not host.startswith("[") else host.lower()


def is_wildcard(host: str) -> bool:
    """Whether it means every network of this machine."""
    return host in ("0.0.0.0", "::", "[::]", "")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
