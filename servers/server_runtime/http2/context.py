"""What a handler may ask of its call, and say of its end: the methods of grpc.aio.ServicerContext."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import grpc
import grpc.aio

from grpc_wire.fields import Metadata, metadata_fields
from server_runtime.http2 import responses
from server_runtime.http2.requests import Metadatum
from server_runtime.http2.stream import Stream


class Context(grpc.aio.ServicerContext):  # type: ignore[misc]
    """The context of one call."""

    def __init__(
        self,
        stream: Stream,
        deserialize: Callable[[bytes], Any] | None,
        serialize: Callable[[Any], bytes] | None,
    ) -> None:
        self._stream = stream
        self._deserialize = deserialize
        self._serialize = serialize
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: tuple[tuple[str, str | bytes], ...] = ()
        self._trailing_fields = b""
        self.aborted = False

    # --- messages ---------------------------------------------------------------------------------

    async def read(self) -> Any:
        """Return the next request; EOF behind the last."""
        if self._stream.one_request:
            raise grpc.aio.UsageError("the method takes one request, which it was given")
        body = await self._stream.read()
        if body is None:
            return grpc.aio.EOF
        return body if self._deserialize is None else self._deserialize(body)

    async def write(self, message: Any) -> None:
        """Send a response."""
        await self._stream.write(self.serialized(message))

    async def send_initial_metadata(self, initial_metadata: Metadata) -> None:
        """Send the headers, with metadata."""
        if self._stream.headers_sent:
            raise grpc.aio.UsageError("the headers were sent before")
        self._stream.open(metadata_fields(initial_metadata))

    def serialized(self, message: Any) -> bytes:
        """Return the bytes of a response."""
        body: bytes = message if self._serialize is None else self._serialize(message)
        return body

    # --- the end ----------------------------------------------------------------------------------

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        """End the call with a status.

        Raises:
            grpc.aio.AbortError: Always.
        """
        if self.aborted:
            raise grpc.aio.UsageError("the call was aborted before")
        if code is grpc.StatusCode.OK:
            code, details = grpc.StatusCode.UNKNOWN, "abort() was called with OK"
        self.aborted = True
        self._code, self._details = code, details
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        self._stream.finish(self.ending())
        raise grpc.aio.AbortError("the call was aborted")

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with a status.

        Raises:
            grpc.aio.AbortError: Always.
        """
        await self.abort(status.code, status.details, status.trailing_metadata)

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        """Send metadata with the end.

        Raises:
            MetadataError: They can't be sent.
        """
        self._trailing = tuple((key, value) for key, value in trailing_metadata)
        self._trailing_fields = responses.trailing_fields(self._trailing)

    def trailing_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """Return the metadata that go with the end."""
        return self._trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        """End the call with this code."""
        self._code = code

    def code(self) -> grpc.StatusCode | None:
        """Return the code that was set."""
        return self._code

    def set_details(self, details: str) -> None:
        """End the call with these words."""
        self._details = details

    def details(self) -> str:
        """Return the words that were set."""
        return self._details

    def ending(self) -> bytes:
        """Return the trailers' block."""
        code = self._code or grpc.StatusCode.OK
        if code is grpc.StatusCode.OK and not self._details and not self._trailing_fields:
            return responses.ENDING_OK
        return responses.ending_block(code, self._details, self._trailing_fields)

    # --- the call ---------------------------------------------------------------------------------

    def invocation_metadata(self) -> tuple[Metadatum, ...]:
        """Return the caller's metadata."""
        return self._stream.head.metadata

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline; None without one."""
        deadline_s = self._stream.deadline_s
        if deadline_s is None:
            return None
        return max(0.0, deadline_s - asyncio.get_running_loop().time())

    def peer(self) -> str:
        """Return who calls."""
        return self._stream.peer

    def peer_identities(self) -> Iterable[bytes] | None:
        """Return the names in the caller's certificate."""
        key = self.peer_identity_key()
        return self._stream.identity[key] if key else None

    def peer_identity_key(self) -> str | None:
        """Return which of the certificate's names identify the caller."""
        names = ("x509_subject_alternative_name", "x509_common_name")
        return next((name for name in names if name in self._stream.identity), None)

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return what TLS says about the caller."""
        return self._stream.identity

    def cancelled(self) -> bool:
        """Return whether the caller gave up."""
        return self._stream.closed and not self._stream.end_sent

    def done(self) -> bool:
        """Return whether the call has ended."""
        return self._stream.half_closed

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call back once the call has ended and its handler too."""
        self._stream.on_end.append(lambda: callback(self))

    def set_compression(self, compression: grpc.Compression) -> None:
        """Do nothing: messages are not compressed."""

    def disable_next_message_compression(self) -> None:
        """Do nothing: messages are not compressed."""
