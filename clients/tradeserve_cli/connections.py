"""From a parsed command line to the SDK's clients."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from tradeserve_cli.arguments import UsageError
from tradeserve_cli.servers import SERVERS, Place, how_to_name, places
from tradeserve_client.channel import TlsFiles
from tradeserve_client.similarity import SimilarityClient
from tradeserve_client.strategy_service import StrategyClient
from tradeserve_client.triton import TritonClient


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


@asynccontextmanager
async def triton(arguments: argparse.Namespace) -> AsyncIterator[TritonClient]:
    """Give a client of Triton.

    Raises:
        UsageError: Nobody says where it is.
    """
    client = TritonClient(place(arguments, "triton").target, tls=tls(arguments))
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def similarity(arguments: argparse.Namespace) -> AsyncIterator[SimilarityClient]:
    """Give a client of the similarity server.

    Raises:
        UsageError: Nobody says where it is.
    """
    client = SimilarityClient(place(arguments, "similarity").target, tls=tls(arguments))
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def strategy(arguments: argparse.Namespace) -> AsyncIterator[StrategyClient]:
    """Give a client of a running strategy.

    Raises:
        UsageError: Nobody says where it is.
    """
    client = StrategyClient(place(arguments, "strategy").target, tls=tls(arguments))
    try:
        yield client
    finally:
        await client.close()
