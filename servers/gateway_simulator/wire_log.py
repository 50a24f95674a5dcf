"""Stamps of what passed the socket, for benchmarks: JSON lines with monotonic times."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import orjson

from gateway_simulator import GatewayError

MAX_FILE_BYTES = 256 << 20


class WireLog:
    """Appends stamps to a file; without a path it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self._file: BinaryIO | None = None
        if path is not None:
            try:
                self._file = path.open("ab", buffering=0)
            except OSError as error:
                raise GatewayError(f"--wire-log {path}: cannot be written: {error.strerror}") from error

    def bar_close_sent(self, con_id: int, bar_end_ns: int, sent_ns: int) -> None:
        """Stamp a bar's close with the time just before it was handed to the socket."""
        self._write({"kind": "bar_close_sent", "con_id": con_id, "bar_end_ns": bar_end_ns, "ns": sent_ns})

    def order_received(self, order_ref: str, received_ns: int) -> None:
        """Stamp an order with the time its frame came off the socket."""
        self._write({"kind": "order_received", "order_ref": order_ref, "ns": received_ns})

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, entry: dict[str, object]) -> None:
        if self._file is not None and self._file.tell() < MAX_FILE_BYTES:
            self._file.write(orjson.dumps(entry) + b"\n")
