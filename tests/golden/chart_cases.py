"""Charts of made-up bars that must stay the same to the last byte; run it to write them anew.

    python tests/golden/chart_cases.py

Whoever changes the readable style looks at the pictures and commits them. The bare style is what models
were trained on: a change of it is a new style.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from market.chart import BarShape, Chart, ChartOptions, ChartStyle, Mark, MarkKind, Theme, draw, encode_png
from market.events import Bar

FOLDER = Path(__file__).parent / "charts"
DIGESTS = FOLDER / "sha256.json"
NS_PER_S = 1_000_000_000
FOR_PEOPLE = ("readable_light", "readable_dark", "readable_daily", "bare_candles")
"""Kept as pictures too."""


class Dice:
    """Whole numbers that are the same everywhere."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def roll(self, low: int, high: int) -> int:
        self._state = (self._state * 6364136223846793005 + 1442695040888963407) % 2**64
        return low + (self._state >> 33) % (high - low + 1)


def made_up(count: int, size_s: int, start: datetime, seed: int = 7, cents: int = 18_300) -> list[Bar]:
    """Return bars of New York's regular hours (of daily bars, weekdays); prices in whole cents."""
    dice, bars, close, drift = Dice(seed), [], cents, 0
    at_s, day_end_s = int(start.timestamp()), int(start.timestamp()) + 23_400
    length_s = min(size_s, 23_400)
    for index in range(count):
        if index % 17 == 0:
            drift = dice.roll(-6, 6)
        step = cents // 900
        opened = close + dice.roll(-2, 2)
        close = opened + drift + dice.roll(-step, step)
        high, low = max(opened, close) + dice.roll(0, step // 2), min(opened, close) - dice.roll(0, step // 2)
        volume = float(dice.roll(4_000, 20_000) + (60_000 if dice.roll(0, 30) == 0 else 0))
        prices = (opened / 100, high / 100, low / 100, close / 100)
        bars.append(Bar(1, at_s * NS_PER_S, (at_s + length_s) * NS_PER_S, *prices, volume))
        at_s += size_s
        if size_s < 86_400 and at_s >= day_end_s:
            at_s, day_end_s = day_end_s + 63_000, day_end_s + 86_400
        while datetime.fromtimestamp(at_s, UTC).weekday() > 4:
            at_s, day_end_s = at_s + 86_400, day_end_s + 86_400
    return bars


@dataclass(frozen=True, slots=True)
class Case:
    """One chart."""

    bars: Sequence[Bar]
    options: ChartOptions
    marks: Sequence[Mark] = ()
    warm_up_bars: int = 0

    def draw(self) -> Chart:
        return draw(self.bars, self.options, marks=self.marks, warm_up_bars=self.warm_up_bars)


def cases() -> Mapping[str, Case]:
    morning = datetime(2025, 3, 12, 13, 30, tzinfo=UTC)
    minutes = made_up(120, 300, morning)
    days = made_up(170, 86_400, datetime(2024, 8, 5, 13, 30, tzinfo=UTC), seed=3, cents=43_000)
    entry = minutes[95].close
    marks = (
        Mark(MarkKind.BUY, entry, 95),
        Mark(MarkKind.STOP, entry - 0.75, 95),
        Mark(MarkKind.LIMIT, entry + 1.5, 95),
    )
    flat = [replace(bar, open=100.0, high=100.0, low=100.0, close=100.0, volume=0.0) for bar in minutes]
    spike = [*minutes[:60], replace(minutes[60], high=9_000.0, volume=1e9), *minutes[61:]]
    bare = ChartOptions(style=ChartStyle.BARE)
    readable = ChartOptions(symbol="CHRL")
    dark = ChartOptions(640, 400, shape=BarShape.OHLC, theme=Theme.DARK, symbol="CHRL")
    return {
        "readable_light": Case(minutes, readable, marks),
        "readable_dark": Case(minutes, dark, marks[:1]),
        "readable_daily": Case(days, replace(readable, symbol="DLTA", averages=(20, 50)), (), 50),
        "readable_flat": Case(flat, readable),
        "readable_spike": Case(spike, readable),
        "readable_gaps": Case([*minutes[:30], *minutes[44:60], *minutes[90:]], readable),
        "readable_tiny": Case(minutes, replace(readable, width_px=64, height_px=64), marks),
        "readable_large": Case(minutes, replace(readable, width_px=1600, height_px=1200), marks),
        "readable_many": Case(made_up(2000, 60, morning, seed=5), replace(readable, time_zone="UTC")),
        "readable_two": Case(minutes[:2], readable),
        "bare_candles": Case(minutes, bare),
        "bare_ohlc": Case(
            minutes[:60], replace(bare, width_px=180, height_px=96, shape=BarShape.OHLC), (), 0
        ),
        "bare_merged": Case(minutes, replace(bare, width_px=64, height_px=64, averages=(), volume=False)),
        "bare_warm": Case(minutes, replace(bare, averages=(5, 20, 40)), (), 60),
        "bare_flat": Case(flat, bare),
    }


def digest(chart: Chart) -> str:
    height, width, _ = chart.pixels.shape
    return hashlib.sha256(f"{width}x{height}:".encode() + chart.pixels.tobytes()).hexdigest()


def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    drawn = {name: case.draw() for name, case in cases().items()}
    for name in FOR_PEOPLE:
        (FOLDER / f"{name}.png").write_bytes(encode_png(drawn[name].pixels))
    digests = {name: digest(chart) for name, chart in drawn.items()}
    DIGESTS.write_text(json.dumps(digests, indent=2) + "\n")


if __name__ == "__main__":
    write()
