"""A plot of latency against rate, as SVG: one panel per target, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 44, 46
_COLUMNS = 2
_COLOURS = {"p50": "#1b6ca8", "p99": "#c8553d", "p99.9": "#8a8f98"}


@dataclass(frozen=True, slots=True)
class Point:
    """One run.

    Attributes:
        rate: Calls per second asked for.
        latency_ms: p50, p99 and p99.9 by name; infinite where too many calls failed.
        kept: Whether the run kept the limits.
    """

    rate: float
    latency_ms: dict[str, float]
    kept: bool


@dataclass(frozen=True, slots=True)
class Panel:
    """One target.

    Attributes:
        title: Its name.
        points: Its runs, in any order.
        limit_ms: Of p99.
        capacity: Highest rate that kept the limits; 0 for none.
    """

    title: str
    points: Sequence[Point]
    limit_ms: float
    capacity: float


def svg(panels: Sequence[Panel], caption: str) -> str:
    """Return the drawing."""
    columns = min(_COLUMNS, len(panels)) or 1
    rows = -(-len(panels) // columns)
    width, height = columns * _WIDTH, rows * _HEIGHT + 26
    body: list[str] = []
    for number, panel in enumerate(panels):
        x, y = (number % columns) * _WIDTH, (number // columns) * _HEIGHT
        body += [f'<g transform="translate({x},{y})">', *_panel(panel), "</g>"]
    return "\n".join(
        [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11" fill="#222">'
            ),
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *body,
            f'<text x="{width / 2}" y="{height - 9}" text-anchor="middle" fill="#555">{escape(caption)}</text>',
            "</svg>\n",
        ]
    )


@dataclass(frozen=True, slots=True)
class _Axis:
    """Maps a logarithmic range onto pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> Iterator[float]:
        for exponent in range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1):
            for digit in (1, 2, 5):
                value = digit * 10.0**exponent
                if self.low <= value <= self.high:
                    yield value


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values) / 1.25, max(values) * 1.25


def _panel(panel: Panel) -> Iterator[str]:
    yield f'<text x="{_LEFT}" y="20" font-size="14" font-weight="bold">{escape(panel.title)}</text>'
    points = sorted(panel.points, key=lambda point: point.rate)
    finite = [value for point in points for value in point.latency_ms.values() if math.isfinite(value)]
    if not points or not finite:
        yield f'<text x="{_LEFT}" y="{_TOP + 20}">no run was answered</text>'
        return
    x = _Axis(*_range([point.rate for point in points]), _LEFT, _WIDTH - _RIGHT)
    y = _Axis(*_range([*finite, panel.limit_ms]), _HEIGHT - _BOTTOM, _TOP)
    yield from _axes(x, y)
    limit_y = y.at(panel.limit_ms)
    yield _line(x.start, limit_y, x.end, limit_y, "#c8553d", "5 4")
    yield f'<text x="{x.start + 4}" y="{limit_y - 4}" fill="#c8553d">p99 limit {panel.limit_ms:g} ms</text>'
    if panel.capacity:
        at = x.at(panel.capacity)
        yield _line(at, y.start, at, y.end, "#2e7d4f", "2 3")
        yield f'<text x="{at - 4}" y="{_TOP + 10}" text-anchor="end" fill="#2e7d4f">{panel.capacity:g}/s</text>'
    for number, (name, colour) in enumerate(_COLOURS.items()):
        yield from _series(points, name, colour, x, y)
        yield f'<circle cx="{_WIDTH - 170 + 55 * number}" cy="16" r="4" fill="{colour}"/>'
        yield f'<text x="{_WIDTH - 163 + 55 * number}" y="20">{name}</text>'


def _axes(x: _Axis, y: _Axis) -> Iterator[str]:
    for value in x.ticks():
        at = x.at(value)
        yield _line(at, y.start, at, y.end, "#eee")
        yield f'<text x="{at}" y="{y.start + 15}" text-anchor="middle">{value:g}</text>'
    for value in y.ticks():
        at = y.at(value)
        yield _line(x.start, at, x.end, at, "#eee")
        yield f'<text x="{x.start - 6}" y="{at + 4}" text-anchor="end">{value:g}</text>'
    yield _line(x.start, y.start, x.end, y.start, "#888")
    yield _line(x.start, y.start, x.start, y.end, "#888")
    middle = (x.start + x.end) / 2
    yield f'<text x="{middle}" y="{y.start + 32}" text-anchor="middle">calls per second</text>'
    yield f'<text transform="translate(14,{(y.start + y.end) / 2}) rotate(-90)" text-anchor="middle">ms</text>'


def _series(points: Sequence[Point], name: str, colour: str, x: _Axis, y: _Axis) -> Iterator[str]:
    """Draw the median over the runs of each rate as a line, and every run: hollow where a limit broke."""
    by_rate: dict[float, list[float]] = {}
    for point in points:
        value = point.latency_ms[name]
        by_rate.setdefault(point.rate, []).append(value)
        if math.isfinite(value):
            fill = colour if point.kept else "white"
            yield (
                f'<circle cx="{x.at(point.rate)}" cy="{y.at(value)}" r="2.5" fill="{fill}" stroke="{colour}"/>'
            )
    medians = [(rate, sorted(values)[len(values) // 2]) for rate, values in by_rate.items()]
    path = " ".join(f"{x.at(rate)},{y.at(value)}" for rate, value in medians if math.isfinite(value))
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}"{dashed}/>'
