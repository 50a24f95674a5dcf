"""Metadata (headers) on calls: for every call of a client, and for one call more.

A channel that adds it, so that whatever calls over the channel sends it too.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeAlias

import grpc
import grpc.aio

from tradeserve_client.errors import TradeserveError

Metadata: TypeAlias = Mapping[str, str]
"""Header names, in lower case, and their values. Example: {"authorization": "Bearer …"}."""
MetadataSource: TypeAlias = "Metadata | Callable[[], Metadata]"
"""Headers of every call, or what gives them anew for each call (a token that expires)."""

_Pairs: TypeAlias = tuple[tuple[str, str], ...]

_of_this_call: ContextVar[_Pairs] = ContextVar("metadata of this call", default=())


@contextlib.contextmanager
def call_metadata(metadata: Metadata) -> Iterator[None]:
    """Add headers to the calls that are started inside.

    Raises:
        TradeserveError: A name or value that HTTP/2 does not carry.
    """
    token = _of_this_call.set((*_of_this_call.get(), *_pairs(metadata)))
    try:
        yield
    finally:
        _of_this_call.reset(token)


class MetadataChannel:
    """A channel whose calls carry metadata.

    Attributes:
        channel: The channel behind it.
    """

    __slots__ = ("_source", "channel")

    def __init__(self, channel: grpc.aio.Channel, source: MetadataSource) -> None:
        self.channel = channel
        self._source = source
        if not callable(source):
            _pairs(source)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return the state of the connection."""
        return self.channel.get_state(try_to_connect)

    def unary_unary(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """Return the method of a call with one request and one answer."""
        return self._adding(self.channel.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """Return the method of a call with a stream of answers."""
        return self._adding(self.channel.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """Return the method of a call with a stream of requests."""
        return self._adding(self.channel.stream_unary(*args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """Return the method of a call with streams both ways."""
        return self._adding(self.channel.stream_stream(*args, **kwargs))

    def _adding(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def start(*args: Any, **kwargs: Any) -> Any:
            pairs = (*_pairs(headers_of(self._source)), *_of_this_call.get())
            return method(*args, metadata=pairs, **kwargs) if pairs else method(*args, **kwargs)

        return start


def headers_of(source: MetadataSource) -> Metadata:
    """Return what a source gives now.

    Raises:
        TradeserveError: It failed.
    """
    if not callable(source):
        return source
    try:
        return source()
    except Exception as error:
        raise TradeserveError(f"metadata: what gives them failed: {error!r}") from error


def _pairs(metadata: Metadata) -> _Pairs:
    for name, value in metadata.items():
        if not re.fullmatch(r"[0-9a-z_.-]+", name) or name.startswith("grpc-") or name.endswith("-bin"):
            raise TradeserveError(
                f"metadata {name!r}: a name has lower-case letters, digits, _ . or -, "
                'neither starts with "grpc-" nor ends in "-bin"'
            )
        if not re.fullmatch(r"[ -~]*", value):
            raise TradeserveError(f"metadata {name!r}: the value has characters that are not printable ASCII")
    return tuple(metadata.items())
