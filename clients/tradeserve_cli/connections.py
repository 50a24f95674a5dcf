"""From a parsed command line to the SDK's clients."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tradeserve_cli.arguments import UsageError
from tradeserve_cli.servers import SERVERS, Place, how_to_name, places
from tradeserve_client.client_set import Clients
from tradeserve_client.config import ClientConfig, TlsSection, load_config

CONFIG_VARIABLE = "TRADESERVE_CONFIG"


def all_places(arguments: argparse.Namespace) -> Mapping[str, Place]:
    """Return where each server is, as far as somebody says.

    Raises:
        ConfigError: The configuration can't be used.
    """
    return _configured(arguments)[1]


def clients(arguments: argparse.Namespace, *needed: str) -> Clients:
    """Return the clients of a command line; use them as an async context manager.

    Args:
        arguments: What `add_command` parses.
        needed: Servers that the command can't do without.

    Raises:
        UsageError: Nobody says where one of them is.
        ConfigError: The configuration can't be used.
    """
    config, found = _configured(arguments)
    for server in needed:
        if not found[server].target:
            raise UsageError(f"where is {SERVERS[server]}? {how_to_name(server)}")
    return Clients(config)


def clients_of(arguments: argparse.Namespace, place: Place) -> Clients:
    """Return the clients of a command line with one server at this place.

    Raises:
        ConfigError: The configuration can't be used.
    """
    config, _ = _configured(arguments)
    section = replace(getattr(config, place.server), target=place.target)
    return Clients(replace(config, **{place.server: section}))


def timeout_s(arguments: argparse.Namespace) -> float:
    """Return the limit of one call in seconds."""
    return float(arguments.timeout_ms) / 1e3


def _configured(arguments: argparse.Namespace) -> tuple[ClientConfig, Mapping[str, Place]]:
    file = arguments.config or os.environ.get(CONFIG_VARIABLE) or None
    config = load_config(file, environment=os.environ)
    found = places(
        {server: str(getattr(arguments, server, "") or "") for server in SERVERS},
        configured={server: str(getattr(config, server).target) for server in SERVERS},
        environment=os.environ,
    )
    tls = _tls(arguments)
    for place in found.values():
        config = _with(config, place, tls)
    return config, found


def _with(config: ClientConfig, place: Place, tls: TlsSection | None) -> ClientConfig:
    section = replace(getattr(config, place.server), target=place.target)
    if tls is not None:
        section = replace(section, tls=tls)
    elif place.from_stack:  # which speaks plain text, whatever is configured for other servers
        section = replace(section, tls=TlsSection())
    return replace(config, **{place.server: section})


def _tls(arguments: argparse.Namespace) -> TlsSection | None:
    files: tuple[Path | None, ...] = (arguments.tls_ca, arguments.tls_certificate, arguments.tls_key)
    if not arguments.tls and not any(files):
        return None
    return TlsSection(True, *(str(file) if file else "" for file in files))
