"""Pictures as PNG files, through zlib alone. Nothing here reads PNGs."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TRUECOLOUR = 2
_UP = 2  # every row is written as its difference to the one above, which is mostly zero
_LEVEL = 1
MAX_SIDE_PX = 4096


def encode_png(pixels: NDArray[Any]) -> bytes:
    """Return a picture as PNG: 8-bit RGB, not interlaced, filter "up", no time and no other metadata.

    The same pixels give the same bytes with the same zlib; another build of zlib may compress otherwise.
    What identifies a picture everywhere is its pixels.

    Args:
        pixels: (height, width, 3) uint8, each side 1 to 4096.

    Raises:
        ValueError: Another shape or dtype.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels are {pixels.shape} {pixels.dtype}; (height, width, 3) uint8 is needed")
    height, width, _ = pixels.shape
    if not (1 <= height <= MAX_SIDE_PX and 1 <= width <= MAX_SIDE_PX):
        raise ValueError(f"pixels are {width}x{height}; 1 to {MAX_SIDE_PX} a side can be encoded")
    flat = pixels.reshape(height, 3 * width)
    rows = np.empty((height, 1 + 3 * width), dtype=np.uint8)
    rows[:, 0] = _UP
    rows[0, 1:] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, _TRUECOLOUR, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), _LEVEL)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
