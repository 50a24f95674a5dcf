"""Append-only files of checksummed records: what is on disk survives a crash, and says what does not.

A file starts with a magic text. A record is a mark, the length and the CRC-32 of its payload, and
the payload. A reader skips damage by looking for the next mark whose record is whole; an unfinished
record at the end is what a crash leaves and was never acknowledged.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from journal.errors import SpoolError

MAGIC = b"TSJRNL1\n"
MARK = b"\xa5\x5aRC"
HEAD = struct.Struct("<4sII")
MAX_PAYLOAD_BYTES = 64 * 1024 * 1024


class SegmentFile:
    """One file that is being written."""

    def __init__(self, path: Path) -> None:
        """Create the file.

        Raises:
            SpoolError: It cannot be created.
        """
        self.path = path
        try:
            self._fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SpoolError(_reason(path, error)) from error
        self._size_bytes = 0
        self._broken = False
        try:
            self._write(MAGIC)
            os.fsync(self._fd)
            _sync_folder(path.parent)
        except OSError as error:
            self.close()
            path.unlink(missing_ok=True)
            raise SpoolError(_reason(path, error)) from error

    @property
    def size_bytes(self) -> int:
        """How much is in the file."""
        return self._size_bytes

    @property
    def broken(self) -> bool:
        """Whether a failed write or sync makes everything after it unsafe: start another file."""
        return self._broken

    def append(self, payload: bytes, *, durable: bool) -> None:
        """Write one record; with `durable`, return when the disk has it.

        Raises:
            SpoolError: It is not in the file (disk full, broken); what was written of it is cut off.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise SpoolError(f"a record of {len(payload)} bytes is too large for the spool")
        before = self._size_bytes
        try:
            self._write(HEAD.pack(MARK, len(payload), zlib.crc32(payload)) + payload)
            if durable:
                self._sync()
        except OSError as error:
            self._cut_back(before)
            raise SpoolError(_reason(self.path, error)) from error

    def close(self) -> None:
        """Close the file; it stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.write(self._fd, view)
            self._size_bytes += written
            view = view[written:]

    def _sync(self) -> None:
        try:
            os.fdatasync(self._fd) if hasattr(os, "fdatasync") else os.fsync(self._fd)
        except OSError:
            # After a failed sync nobody knows which pages are on disk; the file takes no more.
            self._broken = True
            raise

    def _cut_back(self, size_bytes: int) -> None:
        try:
            os.ftruncate(self._fd, size_bytes)
            self._size_bytes = size_bytes
        except OSError:
            # The reader skips an unfinished record; what would follow it goes into another file.
            self._broken = True


@dataclass(frozen=True, slots=True)
class SegmentContent:
    """What could be read of a file.

    Attributes:
        payloads: Whole records, in the order they were written.
        torn_bytes: Length of an unfinished record at the end.
        damaged_bytes: Bytes that were skipped before or between whole records.
    """

    payloads: list[bytes]
    torn_bytes: int
    damaged_bytes: int


def read_segment(path: Path) -> SegmentContent:
    """Read a file, whatever a crash or a bad disk did to it.

    Raises:
        SpoolError: The file cannot be read at all.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SpoolError(_reason(path, error)) from error
    return parse_segment(data)


def parse_segment(data: bytes) -> SegmentContent:
    """Find the whole records in the bytes of a file."""
    payloads: list[bytes] = []
    damaged = 0
    position = len(MAGIC) if data.startswith(MAGIC) else 0
    while position < len(data):
        payload = _record_at(data, position)
        if payload is not None:
            payloads.append(payload)
            position += HEAD.size + len(payload)
            continue
        following = _next_record(data, position + 1)
        if following < 0:
            return SegmentContent(payloads, torn_bytes=len(data) - position, damaged_bytes=damaged)
        damaged += following - position
        position = following
    return SegmentContent(payloads, torn_bytes=0, damaged_bytes=damaged)


def _record_at(data: bytes, position: int) -> bytes | None:
    if position + HEAD.size > len(data):
        return None
    mark, length, checksum = HEAD.unpack_from(data, position)
    start = position + HEAD.size
    if mark != MARK or length > MAX_PAYLOAD_BYTES or start + length > len(data):
        return None
    payload = data[start : start + length]
    return payload if zlib.crc32(payload) == checksum else None


def _next_record(data: bytes, position: int) -> int:
    while (position := data.find(MARK, position)) >= 0:
        if _record_at(data, position) is not None:
            return position
        position += 1
    return -1


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(path: Path, error: OSError) -> str:
    what = error.strerror or str(error)
    return f"the spool file {path} cannot be used ({what}): free space, or choose another spool folder"
