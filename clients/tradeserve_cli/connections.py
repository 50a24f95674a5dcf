"""From a parsed command line to the SDK's clients."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from tradeserve_cli.arguments import UsageError
from tradeserve_cli.servers import SERVERS, Place, how_to_name, places
from tradeserve_client.channel import TlsFiles


def all_places(arguments: argparse.Namespace) -> Mapping[str, Place]:
    """Return where each server is, as far as somebody says."""
    options = {server: str(getattr(arguments, server, "") or "") for server in SERVERS}
    return places(options, configured={})


def place(arguments: argparse.Namespace, server: str) -> Place:
    """Return where a server is.

    Raises:
        UsageError: Nobody says.
    """
    found = all_places(arguments)[server]
    if not found.target:
        raise UsageError(f"where is {SERVERS[server]}? {how_to_name(server)}")
    return found


def tls(arguments: argparse.Namespace) -> TlsFiles | None:
    """Return the TLS files of the command line; None for plain text."""
    files = TlsFiles(arguments.tls_ca, arguments.tls_certificate, arguments.tls_key)
    return files if files != TlsFiles() else None


def timeout_s(arguments: argparse.Namespace) -> float:
    """Return the limit of one call in seconds."""
    return float(arguments.timeout_ms) / 1e3
