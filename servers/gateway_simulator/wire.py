"""Frames and fields of the TWS socket protocol.

After the handshake every message is a frame: u32 big-endian length, then fields that each end in NUL.
Source: https://interactivebrokers.github.io/tws-api/ and the decoders of ib_insync and ib_async.
"""

from __future__ import annotations

import asyncio
import struct

from gateway_simulator import WireError

UNSET_DOUBLE = "1.7976931348623157E308"
"""Java's Double.MAX_VALUE as the gateway prints it: "no value"."""

UNSET_INTEGER = "2147483647"
MAX_FRAME_BYTES = 1 << 20
_LENGTH = struct.Struct(">I")

Field = str | int | float | bool


def encode(*fields: Field) -> bytes:
    """Return the frame that carries `fields`."""
    texts = []
    for field in fields:
        if field is True:
            texts.append("1")
        elif field is False:
            texts.append("0")
        else:
            texts.append(str(field))
    body = ("\0".join(texts) + "\0").encode()
    return _LENGTH.pack(len(body)) + body


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Read one frame's body.

    Raises:
        WireError: The frame is larger than any request can be.
        asyncio.IncompleteReadError: The client is gone.
    """
    (size,) = _LENGTH.unpack(await reader.readexactly(4))
    if size > MAX_FRAME_BYTES:
        raise WireError(f"frame of {size} bytes; at most {MAX_FRAME_BYTES} are accepted")
    return await reader.readexactly(size)


def split(body: bytes) -> list[str]:
    """Return the fields of a frame's body.

    Raises:
        WireError: The body is not NUL-terminated UTF-8 text.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise WireError(f"a frame is not UTF-8: {error}") from error
    if not text.endswith("\0"):
        raise WireError("a frame does not end in NUL")
    return text[:-1].split("\0")


def parse_versions(text: str) -> tuple[int, int]:
    """Return the lowest and highest version of a handshake such as "v157..176 +PACEAPI".

    Raises:
        WireError: It is none.
    """
    versions = text.split(" ", 1)[0]
    low, _, high = versions.removeprefix("v").partition("..")
    try:
        return int(low), int(high or low)
    except ValueError as error:
        raise WireError(f"unreadable version range {text!r}; expected v157..178") from error


class FieldReader:
    """Reads the fields of one request in order."""

    def __init__(self, fields: list[str]) -> None:
        self._fields = fields
        self._at = 0

    def text(self) -> str:
        """Return the next field; a missing one is a malformed request.

        Raises:
            WireError: There is none.
        """
        if self._at >= len(self._fields):
            raise WireError(f"message {self._fields[0]} has only {len(self._fields)} fields")
        self._at += 1
        return self._fields[self._at - 1]

    def integer(self) -> int:
        """Return the next field as int; empty and unset are 0."""
        text = self.text()
        return 0 if text in ("", UNSET_INTEGER) else int(text)

    def number(self) -> float | None:
        """Return the next field as float; None when empty or unset."""
        text = self.text()
        if text == "":
            return None
        value = float(text)
        return None if value > 1e300 else value

    def flag(self) -> bool:
        """Return the next field as bool."""
        return self.text() == "1"

    def skip(self, count: int) -> None:
        """Leave fields out."""
        for _ in range(count):
            self.text()
