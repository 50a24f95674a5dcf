"""Sockets to listen on."""

from __future__ import annotations

import socket

BACKLOG = 1024
"""Connections that the kernel holds until they are accepted."""


def bound(target: str) -> socket.socket:
    """Return a socket that is bound, and not listening yet.

    Args:
        target: "host:port", "[ipv6]:port" or "unix:/path".

    Raises:
        OSError: It can't be bound.
    """
    if target.startswith("unix:"):
        return _bound(socket.AF_UNIX, target.removeprefix("unix:"))
    host, _, port = target.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    family, _, _, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    return _bound(family, address)


def _bound(family: int, address: object) -> socket.socket:
    # asyncio sends without Nagle's delay only where the protocol is named.
    made = socket.socket(family, socket.SOCK_STREAM, 0 if family == socket.AF_UNIX else socket.IPPROTO_TCP)
    try:
        if family != socket.AF_UNIX:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)  # type: ignore[arg-type]
    except BaseException:
        made.close()
        raise
    made.setblocking(False)
    return made
