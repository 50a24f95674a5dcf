"""A gateway that shakes hands and then says nothing, closes at once, or never says a word."""

from __future__ import annotations

import asyncio
import struct
from enum import Enum


class Manner(Enum):
    SILENT = "accepts and never speaks"
    CLOSING = "closes at once"
    GREETING = "shakes hands, then answers nothing"
    OFFLINE = "shakes hands, then says that it lost Interactive Brokers"


def _frame(*fields: object) -> bytes:
    body = "".join(f"{field}\0" for field in fields).encode()
    return struct.pack(">I", len(body)) + body


class MuteGateway:
    def __init__(self, manner: Manner) -> None:
        self.manner = manner
        self.port = 0
        self.sessions = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> MuteGateway:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sessions += 1
        self._writers.append(writer)
        if self.manner is Manner.CLOSING:
            writer.close()
            return
        if self.manner in (Manner.GREETING, Manner.OFFLINE):
            await reader.readuntil(b"API\0")
            writer.write(_frame(176, "20240131 09:30:00 UTC"))
            writer.write(_frame(15, 1, "DU1234567") + _frame(9, 1, 1))
            if self.manner is Manner.OFFLINE:
                writer.write(_frame(4, 2, -1, 1100, "Connectivity has been lost", ""))
        while await reader.read(4096):
            pass
