"""A client that sends whatever bytes a test wants, and shows the frames that come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import hpack

from grpc_wire import frames
from grpc_wire.frames import Frame, FrameReader

HELLO = frames.PREFACE + frames.settings({})
_TIMEOUT_S = 10.0

Fields = Sequence[tuple[str, str]]


def request_fields(path: str, *more: tuple[str, str], **changes: str) -> Fields:
    fields = {
        ":method": "POST", ":scheme": "http", ":path": path, ":authority": "x",
        "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    fields.update({f":{name}": value for name, value in changes.items()})
    return [*((name, value) for name, value in fields.items() if value), *more]


def block(fields: Fields) -> bytes:
    """Return fields as literals that touch no table."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields]))


def headers(stream_id: int, fields: Fields, *, last: bool = False) -> bytes:
    flags = frames.END_HEADERS | (frames.END_STREAM if last else 0)
    return frames.frame(frames.HEADERS, flags, stream_id, block(fields))


def data(stream_id: int, body: bytes, *, last: bool = False) -> bytes:
    content = b"\0" + len(body).to_bytes(4, "big") + body
    return frames.frame(frames.DATA, frames.END_STREAM if last else 0, stream_id, content)


class RawHttp2:
    """One connection; `seen` are all frames that came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen: list[Frame] = []
        self.closed = False
        self._reader, self._writer = reader, writer
        self._frames = FrameReader(frames.MAX_MAX_FRAME)
        self._decoder = hpack.Decoder()

    def send(self, *parts: bytes) -> None:
        self._writer.write(b"".join(parts))

    async def until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """Return the first frame of that kind that comes, or came and was not looked at."""
        async with asyncio.timeout(_TIMEOUT_S):
            while True:
                for number, frame in enumerate(self.seen):
                    if wanted(frame):
                        del self.seen[: number + 1]
                        return frame
                await self._more()

    async def end(self) -> None:
        """Read until the server closes the connection."""
        async with asyncio.timeout(_TIMEOUT_S):
            while not self.closed:
                await self._more()

    async def goaway(self) -> tuple[int, int, str]:
        frame = await self.until(lambda frame: frame[0] == frames.GOAWAY)
        return frames.read_goaway(frame[3])

    async def reset(self, stream_id: int) -> int:
        frame = await self.until(lambda frame: frame[0] == frames.RST_STREAM and frame[2] == stream_id)
        return frames.read_word(frame[3], "RST_STREAM")

    async def fields(self, stream_id: int) -> dict[str, str]:
        """Return the next header block of a stream."""
        _, flags, _, payload = await self.until(lambda f: f[0] == frames.HEADERS and f[2] == stream_id)
        while not flags & frames.END_HEADERS:
            _, flags, _, more = await self.until(lambda f: f[0] == frames.CONTINUATION and f[2] == stream_id)
            payload += more
        return {str(name): str(value) for name, value in self._decoder.decode(payload)}

    async def body(self, stream_id: int, size: int) -> bytes:
        """Return so many bytes of a stream's DATA, prefix included."""
        found = b""
        while len(found) < size:
            found += (await self.until(lambda f: f[0] == frames.DATA and f[2] == stream_id))[3]
        return found

    async def answer(self, stream_id: int) -> tuple[bytes, dict[str, str]]:
        """Return the only message of an answer and its trailers."""
        await self.fields(stream_id)
        prefix = await self.body(stream_id, 5)
        size = 5 + int.from_bytes(prefix[1:5], "big")
        found = prefix + (await self.body(stream_id, size - len(prefix)) if size > len(prefix) else b"")
        return found[5:], await self.fields(stream_id)

    async def _more(self) -> None:
        try:
            received = await self._reader.read(1 << 16)
        except ConnectionError:
            received = b""
        if not received:
            if self.closed:
                raise AssertionError(f"the server closed the connection; unread: {self.seen}")
            self.closed = True
        self.seen += self._frames.feed(received)


@asynccontextmanager
async def raw_http2(address: str, hello: bytes = HELLO) -> AsyncIterator[RawHttp2]:
    """Connect to a server."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    client = RawHttp2(reader, writer)
    client.send(hello)
    try:
        yield client
    finally:
        writer.transport.abort()
