"""Metadata (headers) on calls: for every call of a client, and for one call more."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import grpc
import grpc.aio

from tradeserve_client.errors import TradeserveError

Metadata: TypeAlias = Mapping[str, str]
"""Header names, in lower case, and their values. Example: {"authorization": "Bearer …"}."""
MetadataSource: TypeAlias = "Metadata | Callable[[], Metadata]"
"""Headers of every call, or what gives them anew for each call (a token that expires)."""

Headers: TypeAlias = tuple[tuple[str, str], ...]
"""Metadata as the transports take them, checked."""

_NAME = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[ -~]*")


class MetadataChannel:
    """A channel whose calls carry metadata, for stubs that know nothing of them.

    Attributes:
        channel: The channel behind it.
    """

    __slots__ = ("_source", "channel")

    def __init__(self, channel: grpc.aio.Channel, source: MetadataSource) -> None:
        self.channel = channel
        self._source = source
        if not callable(source):
            _checked(source)

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
            pairs = headers_for(self._source)
            return method(*args, metadata=pairs, **kwargs) if pairs else method(*args, **kwargs)

        return start


def headers_for(source: MetadataSource, metadata: Metadata | None = None) -> Headers:
    """Return what goes with one call: what the source gives now, or its own of the same name.

    Raises:
        TradeserveError: The source failed, or a name or value is none that HTTP/2 carries.
    """
    if not source and not metadata:
        return ()
    try:
        given = source() if callable(source) else source
    except Exception as error:
        raise TradeserveError(f"metadata: what gives them failed: {error!r}") from error
    return _checked({**given, **metadata} if metadata else given)


def _checked(metadata: Metadata) -> Headers:
    for name, value in metadata.items():
        if not _NAME.fullmatch(name) or name.startswith("grpc-") or name.endswith("-bin"):
            raise TradeserveError(
                f"metadata {name!r}: a name has lower-case letters, digits, _ . or -, "
                'neither starts with "grpc-" nor ends in "-bin"'
            )
        if not _VALUE.fullmatch(value):
            raise TradeserveError(f"metadata {name!r}: the value has characters that are not printable ASCII")
    return tuple(metadata.items())
