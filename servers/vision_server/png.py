"""Read charts as PNG, strictly: what a chart needs, and nothing that an image can smuggle in.

Taken: 8-bit grey, grey with alpha, RGB and RGBA, not interlaced. Sizes are known and bounded before anything is
decompressed. Ancillary chunks (text, colour profiles, times) are skipped unread. Alpha lies on white.
Source: PNG, third edition, https://www.w3.org/TR/png-3/
"""

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
_SUB, _UP, _AVERAGE, _PAETH = 1, 2, 3, 4
_MOST_CHUNKS = 4096
# A pixel that differs from the background by more than this in a channel shows something.
_VISIBLE = 16
# A flat line through a chart is 1% of its pixels and less in a large one.
_LEAST_VISIBLE_SHARE = 0.0005


class PngError(ValueError):
    """An image is not taken; the message says why."""


@dataclass(frozen=True, slots=True)
class PngLimits:
    """What is taken.

    Attributes:
        max_bytes: Largest file.
        min_side_px: Least width and height.
        max_side_px: Largest width and height.
    """

    max_bytes: int = 4 * 1024 * 1024
    min_side_px: int = 32
    max_side_px: int = 1024


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart that was looked at.

    Attributes:
        pixels: (height, width, 3) uint8, RGB.
        png: The same as PNG, with nothing in it but the pixels.
    """

    pixels: NDArray[np.uint8]
    png: bytes


@dataclass(frozen=True, slots=True)
class _Header:
    body: bytes
    width: int
    height: int
    channels: int

    @property
    def row_bytes(self) -> int:
        return self.width * self.channels

    @property
    def content_bytes(self) -> int:
        return self.height * (1 + self.row_bytes)


def read_png(content: bytes, limits: PngLimits) -> Picture:
    """Read a chart.

    Raises:
        PngError: It is no PNG that is taken.
    """
    if len(content) > limits.max_bytes:
        raise PngError(f"has {len(content)} bytes, at most {limits.max_bytes} are taken")
    if not content.startswith(SIGNATURE):
        raise PngError("is not a PNG")
    header, compressed = _chunks(content, limits)
    rows = np.frombuffer(_inflate(compressed, header.content_bytes), np.uint8)
    rows = rows.reshape(header.height, 1 + header.row_bytes)
    flat = _unfilter(rows[:, 0], rows[:, 1:], header.channels)
    pixels = _rgb(flat.reshape(header.height, header.width, header.channels))
    chunks = ((b"IHDR", header.body), (b"IDAT", b"".join(compressed)), (b"IEND", b""))
    return Picture(pixels, SIGNATURE + b"".join(_chunk(kind, body) for kind, body in chunks))


def shows_nothing(pixels: NDArray[np.uint8]) -> bool:
    """Return whether nearly all pixels have one colour."""
    flat = pixels.reshape(-1, 3)
    codes = flat.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours, counts = np.unique(codes, return_counts=True)
    most = int(colours[counts.argmax()])
    background = np.array([most >> 16, most >> 8 & 255, most & 255], np.int16)
    visible = np.abs(flat.astype(np.int16) - background).max(axis=1) > _VISIBLE
    return float(visible.mean()) < _LEAST_VISIBLE_SHARE


def _chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def _chunks(content: bytes, limits: PngLimits) -> tuple[_Header, list[bytes]]:
    """Walk the chunks; return the header and the compressed parts."""
    header: _Header | None = None
    parts: list[bytes] = []
    at, ended = len(SIGNATURE), False
    for _ in range(_MOST_CHUNKS):
        if at + 12 > len(content):
            raise PngError("is truncated")
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length
        if end > len(content):
            raise PngError("is truncated")
        body = content[at + 8 : end - 4]
        (checksum,) = struct.unpack_from(">I", content, end - 4)
        if zlib.crc32(body, zlib.crc32(kind)) != checksum:
            raise PngError("is damaged: a checksum is wrong")
        if header is None:
            if kind != b"IHDR":
                raise PngError("does not begin with its header")
            header = _parse_header(body, limits)
        elif kind == b"IDAT":
            parts.append(body)
        elif kind == b"IEND":
            ended = True
        elif kind in (b"acTL", b"fcTL", b"fdAT"):
            raise PngError("is animated; a chart is one picture")
        elif not kind[0] & 0x20:  # an upper-case letter: one must understand it
            raise PngError(f"has a chunk {kind!r} that is not taken")
        at = end
        if ended:
            break
    else:
        raise PngError(f"has more than {_MOST_CHUNKS} chunks")
    if header is None or not parts:
        raise PngError("has no picture")
    return header, parts


def _parse_header(body: bytes, limits: PngLimits) -> _Header:
    if len(body) != 13:
        raise PngError("has a malformed header")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">IIBBBBB", body)
    low, high = limits.min_side_px, limits.max_side_px
    if not (low <= width <= high and low <= height <= high):
        raise PngError(f"is {width}x{height} pixels, {low} to {high} a side are taken")
    if depth != 8 or colour not in _CHANNELS:
        raise PngError("has another format of pixels: 8-bit grey, RGB or RGBA is taken")
    if interlace or compression or filtering:
        raise PngError("is interlaced or packed in another way: plain PNG is taken")
    return _Header(body, width, height, _CHANNELS[colour])


def _inflate(parts: list[bytes], size: int) -> bytes:
    """Decompress exactly so many bytes; a bomb is noticed one byte past them."""
    stream = zlib.decompressobj()
    content = bytearray()
    try:
        for part in parts:
            content += stream.decompress(part, size + 1 - len(content))
            if len(content) > size:
                raise PngError("holds more pixels than its header says")
    except zlib.error as e:
        raise PngError("is damaged: its pixels cannot be decompressed") from e
    if len(content) < size:
        raise PngError("is truncated: it holds fewer pixels than its header says")
    return bytes(content)


def _unfilter(filters: NDArray[np.uint8], rows: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    """Undo the filters of the rows.

    Args:
        filters: (height,) uint8.
        rows: (height, row bytes) uint8.
        step: Bytes of a pixel.
    """
    if filters.max(initial=0) > _PAETH:
        raise PngError("is damaged: a row has an unknown filter")
    pixels = rows.reshape(len(rows), -1, step)
    if filters.max(initial=0) >= _AVERAGE:
        return _unfilter_any(filters, pixels)
    if (filters[1:] == _UP).all():  # as our own charts are
        first = _unfilter_row(int(filters[0]), pixels[0], np.zeros_like(pixels[0]))
        whole = np.concatenate([first[None], pixels[1:]])
        return np.add.accumulate(whole, axis=0, dtype=np.uint8)
    done = np.empty_like(pixels)
    above = np.zeros_like(pixels[0])
    for number, row in enumerate(pixels):
        above = done[number] = _unfilter_row(int(filters[number]), row, above)
    return done


def _unfilter_row(kind: int, row: NDArray[np.uint8], above: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if kind == _SUB:
        return np.add.accumulate(row, axis=0, dtype=np.uint8)
    return row + above if kind == _UP else row


def _unfilter_any(filters: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo filters that look at both neighbours: along diagonals, where no pixel needs another one."""
    height, width, step = pixels.shape
    # One row above and one column to the left of the picture, of zeros.
    done = np.zeros((height + 1, width + 1, step), np.int16)
    kinds = filters.astype(np.intp)
    for diagonal in range(height + width - 1):
        row = np.arange(max(0, diagonal - width + 1), min(height, diagonal + 1))
        column = diagonal - row
        left, above, corner = done[row + 1, column], done[row, column + 1], done[row, column]
        to_left, to_above, to_corner = (
            np.abs(above - corner),
            np.abs(left - corner),
            np.abs(left + above - 2 * corner),
        )
        paeth = np.where(
            (to_left <= to_above) & (to_left <= to_corner),
            left,
            np.where(to_above <= to_corner, above, corner),
        )
        predicted = np.choose(
            kinds[row][:, None], [np.zeros_like(left), left, above, (left + above) >> 1, paeth]
        )
        done[row + 1, column + 1] = (pixels[row, column] + predicted) & 255
    return done[1:, 1:].astype(np.uint8)


def _rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    channels = pixels.shape[2]
    colours = pixels if channels in (1, 3) else _on_white(pixels)
    return np.ascontiguousarray(np.broadcast_to(colours, (*pixels.shape[:2], 3)))


def _on_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    alpha = pixels[..., -1:].astype(np.uint16)
    blended = pixels[..., :-1] * alpha + 255 * (255 - alpha)
    return ((blended + 127) // 255).astype(np.uint8)
