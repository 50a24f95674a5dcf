"""A small HTTP/1.1 client on asyncio for one server: bounded, and closed connections cancel what they asked for.

Only what a JSON API needs: no redirects, no cookies, no compression. Source: RFC 9112.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

_MOST_IDLE = 64
_MOST_HEAD_BYTES = 64 * 1024
_MOST_BODY_BYTES = 4 * 1024 * 1024


class HttpError(OSError):
    """There is no whole answer."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer: status and body."""

    status: int
    body: bytes


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def close(self) -> None:
        # Not gracefully: a server whose connection is reset stops computing at once.
        self.writer.transport.abort()


class HttpClient:
    """Connections to one server, kept for the next request."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None) -> None:
        """Prepare; nothing is connected yet.

        Args:
            url: http://host:port or https://host:port, with a path that goes before all others.
            headers: Of every request.

        Raises:
            ValueError: The URL is none of these.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ValueError(f"{url!r} is not http://host:port or https://host:port")
        self._host, self._path = parts.hostname, parts.path.rstrip("/")
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        lines = {"Host": parts.netloc, "Accept": "application/json", **(headers or {})}
        if any(not value.isprintable() for value in lines.values()):
            raise ValueError("a header has characters that are not printable")
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._idle: list[_Connection] = []

    async def request(self, method: str, path: str, body: bytes = b"", *, request_id: str = "") -> HttpAnswer:
        """Send one request and read its answer; cancelled, its connection is reset.

        Raises:
            OSError: No connection, or no whole answer.
        """
        head = f"{method} {self._path}{path} HTTP/1.1\r\n{self._headers}Content-Length: {len(body)}\r\n"
        if body:
            head += "Content-Type: application/json\r\n"
        if request_id.isascii() and request_id.isprintable() and request_id:
            head += f"X-Request-Id: {request_id}\r\n"
        content = f"{head}\r\n".encode() + body
        while self._idle:
            connection = self._idle.pop()
            if connection.reader.at_eof() or connection.writer.is_closing():
                connection.close()
                continue
            try:
                return await self._exchange(connection, content)
            except _UnusedError:
                continue  # the server closed it while it was idle: nothing of the request was done
        try:
            return await self._exchange(await self._connect(), content)
        except _UnusedError as e:
            raise HttpError("the server closed the connection without an answer") from e

    def close(self) -> None:
        """Close every idle connection."""
        while self._idle:
            self._idle.pop().close()

    async def _connect(self) -> _Connection:
        reader, writer = await asyncio.open_connection(
            self._host, self._port, ssl=self._tls, limit=_MOST_HEAD_BYTES
        )
        return _Connection(reader, writer)

    async def _exchange(self, connection: _Connection, content: bytes) -> HttpAnswer:
        keep = False
        try:
            connection.writer.write(content)
            with contextlib.suppress(ConnectionError):  # it may have answered already
                await connection.writer.drain()
            try:
                head = await connection.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as e:
                if not e.partial:
                    raise _UnusedError from e
                raise HttpError("the answer broke off") from e
            except ConnectionResetError as e:
                raise _UnusedError from e
            status, fields = _parse_head(head)
            body = await _read_body(connection.reader, fields)
            keep = fields.get("connection", "").lower() != "close" and len(self._idle) < _MOST_IDLE
            return HttpAnswer(status, body)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as e:
            raise HttpError(f"the answer is malformed or broke off: {e}") from e
        finally:
            if keep:
                self._idle.append(connection)
            else:
                connection.close()


class _UnusedError(HttpError):
    """The connection ended before the first byte of an answer."""


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if not version.startswith("HTTP/1.") or not status.isdecimal():
        raise ValueError(f"{first[:40]!r} begins no HTTP answer")
    pairs = (line.partition(":") for line in lines if line)
    return int(status), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _read_body(reader: asyncio.StreamReader, fields: Mapping[str, str]) -> bytes:
    if fields.get("transfer-encoding", "").lower() == "chunked":
        return await _read_chunks(reader)
    length = fields.get("content-length", "")
    if not length.isdecimal() or int(length) > _MOST_BODY_BYTES:
        raise ValueError(f"a body of {length[:20] or 'unknown'} bytes")
    return await reader.readexactly(int(length))


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if size < 0 or len(body) + size > _MOST_BODY_BYTES:
            raise ValueError(f"a body of more than {_MOST_BODY_BYTES} bytes")
        part = await reader.readexactly(size + 2)
        if not size:
            return bytes(body)
        body += part[:-2]
