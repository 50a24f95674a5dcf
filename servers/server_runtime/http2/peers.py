"""Who is at the other end of a connection, in gRPC's words."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any


def peer_of(transport: asyncio.BaseTransport | None) -> str:
    """Return "ipv4:host:port", "ipv6:[host]:port" or "unix:"."""
    address = transport.get_extra_info("peername") if transport is not None else None
    if not isinstance(address, tuple):
        return "unix:"
    host, port = address[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def identity_of(transport: asyncio.BaseTransport | None) -> dict[str, list[bytes]]:
    """Return what the peer's certificate says, as grpc's auth_context does; nothing without TLS."""
    found: ssl.SSLObject | None = transport.get_extra_info("ssl_object") if transport is not None else None
    if found is None:
        return {}
    certificate: dict[str, Any] = found.getpeercert() or {}
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    named = {
        "transport_security_type": [b"ssl"],
        "x509_common_name": [value.encode() for key, value in subject if key == "commonName"],
        "x509_subject_alternative_name": [
            value.encode() for _, value in certificate.get("subjectAltName", ())
        ],
    }
    return {key: values for key, values in named.items() if values}
