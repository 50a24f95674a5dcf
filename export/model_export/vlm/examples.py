"""Charts with their prompts and answers, made from nothing but a seed, kept in shards on the disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from market.indicators import average_true_range, realized_volatility
from model_export.chart_patterns import Family, PlantedSeries, plant
from model_export.chart_styles import draw_planted, random_symbol
from model_export.pattern_shapes import PATTERN_NAMES
from model_export.vlm.answers import Truth, answer_text, truth_of
from vision_prompt import ChartExtent, ChartFacts, PastOutcome, build_prompt, scale_of

PATH_POINTS = 32
_WORDS = 1
_INDICATORS = (
    *("rsi_14", "adx_14", "sma_20_distance_bps", "ema_50_distance_bps", "vwap_distance_bps", "zscore_20"),
    *("momentum_10_bps", "volume_ratio", "band_width_bps", "move_band_bps", "spread_bps", "macd"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A chart and what to say to it.

    Attributes:
        image: (side, side, 3) uint8, as the network gets it.
        truth: What it shows.
        context: The prompt's text after the picture.
        answer: What to answer.
        path: As in a shard.
    """

    image: NDArray[np.uint8]
    truth: Truth
    context: str
    answer: str
    path: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """Many examples.

    Attributes:
        images: (n, side, side, 3) uint8, read from the disk as needed.
        truths: (n,)
        contexts: (n,)
        answers: (n,)
        paths: (n, PATH_POINTS) float32 closes from the first bar to the last, 0 at the chart's low, 1 at its high.
    """

    images: NDArray[np.uint8]
    truths: Sequence[Truth]
    contexts: Sequence[str]
    answers: Sequence[str]
    paths: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.truths)


def facts_of(rng: np.random.Generator, series: PlantedSeries, symbol: str) -> ChartFacts:
    """Return what a prompt could tell about a series; now and then parts are missing."""
    bars = series.bars
    extent = ChartExtent(
        low_price=float(bars.low.min()),
        high_price=float(bars.high.max()),
        last_price=float(bars.close[-1]),
        start_ns=int(bars.start_ns[0]),
        end_ns=int(bars.end_ns[-1]),
        bar_s=series.bar_s,
    )
    indicators: dict[str, float] = {}
    if rng.random() < 0.75:
        window = np.stack((bars.open, bars.high, bars.low, bars.close, bars.volume), 1)
        atr = average_true_range(window, 14)
        indicators["atr_14_bps"] = atr / float(bars.close[-1]) * 1e4
        indicators["volatility_bps"] = realized_volatility(bars.close) * 1e4
        for name in rng.choice(_INDICATORS, int(rng.integers(0, 4)), replace=False):
            indicators[str(name)] = float(rng.uniform(0, 100)) if "_1" in name else float(rng.normal(0, 60))
    past: tuple[PastOutcome, ...] = ()
    if rng.random() < 0.7:
        mean, spread = rng.normal(0, 20), rng.uniform(5, 60)
        count = int(rng.integers(3, 33))
        past = tuple(
            PastOutcome(float(s), float(r))
            for s, r in zip(rng.uniform(0.6, 1, count), rng.normal(mean, spread, count), strict=True)
        )
    return ChartFacts(
        symbol=symbol,
        extent=None if rng.random() < 0.03 else extent,
        indicators=indicators,
        volume_ratio_forecast=float(rng.lognormal(0, 0.4)) if rng.random() < 0.6 else None,
        past_outcomes=past,
    )


def shrink(pixels: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    """Return the picture as the image processor resizes it (bicubic, the filter as wide as the step)."""
    return np.asarray(Image.fromarray(pixels).resize((side_px, side_px), Image.Resampling.BICUBIC))


def make_example(seed: Sequence[int], family: Family, side_px: int, pattern: str | None = None) -> Example:
    """Return an example; the same seed gives the same one."""
    rng = np.random.default_rng(seed)
    series = plant(rng, family, pattern)
    symbol = random_symbol(rng)
    chart = draw_planted(rng, family, series, symbol)
    # Words have a source of their own: other words leave the pictures as they are.
    context, answer = words_of(np.random.default_rng((*seed, _WORDS)), series, symbol)
    image = shrink(chart.pixels, side_px)
    return Example(image, truth_of(series), context, answer, path_of(series))


def words_of(rng: np.random.Generator, series: PlantedSeries, symbol: str) -> tuple[str, str]:
    """Return the prompt's text after the picture, and the answer."""
    facts = facts_of(rng, series, symbol)
    scale = () if facts.extent is None else scale_of(facts.extent)
    answer = answer_text(truth_of(series), scale, tuple(facts.past_outcomes))
    return build_prompt(facts).after_chart, answer


def path_of(series: PlantedSeries) -> NDArray[np.float32]:
    """Return the closes at evenly spaced bars, as shares of the chart's range."""
    bars = series.bars
    low, high = float(bars.low.min()), float(bars.high.max())
    at = np.linspace(0, len(bars) - 1, PATH_POINTS)
    closes = np.interp(at, np.arange(len(bars)), bars.close)
    return ((closes - low) / (high - low)).astype(np.float32)


def write_shard(
    folder: Path,
    seed: tuple[int, int],
    count: int,
    family: Family,
    side_px: int,
    patterns: Sequence[str] = PATTERN_NAMES,
) -> Path:
    """Make a shard of these patterns in turn, unless it is there; return its folder."""
    if (folder / "examples.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    images = np.empty((count, side_px, side_px, 3), np.uint8)
    paths = np.empty((count, PATH_POINTS), np.float32)
    rows = []
    for index in range(count):
        example = make_example((*seed, index), family, side_px, patterns[index % len(patterns)])
        images[index], paths[index] = example.image, example.path
        truth = example.truth
        rows.append([truth.pattern, truth.upper, truth.lower, truth.clarity, example.context, example.answer])
    np.save(folder / "images.npy", images)
    np.save(folder / "paths.npy", paths)
    part = folder / "examples.json.part"
    part.write_text(json.dumps(rows))
    part.rename(folder / "examples.json")
    return folder


def read_shard(folder: Path) -> Shard:
    """Read a shard that `write_shard` made."""
    rows = json.loads((folder / "examples.json").read_text())
    return Shard(
        images=np.load(folder / "images.npy", mmap_mode="r"),
        truths=[Truth(row[0], row[1], row[2], row[3]) for row in rows],
        contexts=[row[4] for row in rows],
        answers=[row[5] for row in rows],
        paths=np.load(folder / "paths.npy"),
    )
