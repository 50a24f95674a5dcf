"""A server that sends whatever bytes a test wants: what no library for servers would let it send."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

import hpack

from grpc_wire import frames
from grpc_wire.frames import FrameReader, ProtocolError

Script = Callable[[int], Sequence[bytes]]
"""Stream id -> what is sent once its request is complete; b"" closes the connection."""

HELLO = frames.settings({})


def block(fields: Mapping[str, str]) -> bytes:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return bytes(encoder.encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields.items()]))


def headers(stream_id: int, fields: Mapping[str, str], *, last: bool = False) -> bytes:
    flags = frames.END_HEADERS | (frames.END_STREAM if last else 0)
    return frames.frame(frames.HEADERS, flags, stream_id, block(fields))


def opening(stream_id: int) -> bytes:
    return headers(stream_id, {":status": "200", "content-type": "application/grpc"})


def message(stream_id: int, body: bytes) -> bytes:
    return frames.frame(frames.DATA, 0, stream_id, b"\0" + len(body).to_bytes(4, "big") + body)


def ending(stream_id: int, status: str = "0", words: str = "") -> bytes:
    fields = {"grpc-status": status} | ({"grpc-message": words} if words else {})
    return headers(stream_id, fields, last=True)


def answer(stream_id: int, body: bytes = b"fine") -> bytes:
    return opening(stream_id) + message(stream_id, body) + ending(stream_id)


class ScriptedHttp2:
    """Listens on `address`; answers every complete request by the script.

    `requests` are the bodies with their prefixes, `frames` whatever else came: (kind, stream id, payload).
    """

    def __init__(self, script: Script | None = None, *, hello: bytes = HELLO) -> None:
        self.script = script or (lambda stream_id: [answer(stream_id)])
        self.hello = hello
        self.address = ""
        self.connections = 0
        self.requests: list[bytes] = []
        self.frames: list[tuple[int, int, bytes]] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> ScriptedHttp2:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ProtocolError):
                await reader.readexactly(len(frames.PREFACE))
                writer.write(self.hello)
                await self._answer(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cutter = FrameReader(frames.MAX_MAX_FRAME)
        bodies: dict[int, bytes] = {}
        while data := await reader.read(65_536):
            for kind, flags, stream_id, payload in cutter.feed(data):
                if kind == frames.DATA:
                    bodies[stream_id] = bodies.get(stream_id, b"") + payload
                    if flags & frames.END_STREAM:
                        self.requests.append(bodies.pop(stream_id))
                        for part in self.script(stream_id):
                            if not part:
                                return
                            writer.write(part)
                            await writer.drain()
                    elif payload:
                        size = len(payload)
                        writer.write(frames.window_update(0, size) + frames.window_update(stream_id, size))
                else:
                    self.frames.append((kind, stream_id, payload))
