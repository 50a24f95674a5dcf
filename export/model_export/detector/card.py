"""The detector's card: what it finds, what it was made from, how well it finds it, and what nobody has shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model_export import cards, triton_config
from model_export.contract import DETECTOR
from model_export.detector.layout import CLASSES, HEIGHT_PX, WIDTH_PX

NOT_DEMONSTRATED = [
    "skill on outlined patterns in real markets: it learnt them from generated series alone",
    "that it finds what people outline on real charts: expect next to none of it",
    "skill where a pattern takes less than about a quarter of the chart, or more than a few are on it",
    "any value in trading: whether what it finds tells anything about later prices was not measured",
]
_GENERATED = {
    "name": "generated series with planted patterns, drawn by market.chart",
    "licence": "Apache-2.0",
    "origin": "model_export.chart_patterns, family 'training': 13 patterns and none, each equally often; "
    "a quarter of the charts show two series in a row",
}
_SCREENSHOTS = {
    "name": "patterns_gap_yolo",
    "licence": "CC BY 4.0",
    "origin": 'workathon, "gap-pattern" dataset, Roboflow Universe, 2024 (universe.roboflow.com/workathon/gap-pattern)',
}


@dataclass(frozen=True, slots=True)
class DetectorCard:
    """The card of the detector; the fields are the JSON's keys."""

    name: str
    version: int
    task: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    classes: list[str]
    architecture: str
    data: list[dict[str, Any]]
    split: dict[str, Any]
    training: dict[str, Any]
    export_commit: str
    artifact_sha256: str
    parity: dict[str, Any]
    metrics: dict[str, Any]
    not_demonstrated: list[str]
    demonstrated_skill: bool
    statement: str

    def parameters(self) -> dict[str, str]:
        """Return the parameters of its Triton configs: what the labels stand for among them."""
        return triton_config.parameters(
            self.artifact_sha256,
            self.export_commit,
            self.demonstrated_skill,
            self.statement,
            {"classes": ",".join(self.classes)},
        )


def card_of(
    *,
    artifact_sha256: str,
    export_commit: str,
    parameters: int,
    training: dict[str, Any],
    parity: dict[str, Any],
    metrics: dict[str, Any],
    learnt_screenshots: Mapping[str, int],
) -> DetectorCard:
    """Return the card.

    Args:
        artifact_sha256: Of the graph.
        export_commit: Of the sources.
        parameters: Of the network.
        training: Seed, recipe, machine.
        parity: Of network and graph.
        metrics: By examination.
        learnt_screenshots: Pictures and boxes that were learnt from; {} for none.
    """
    return DetectorCard(
        **cards.describe_contract(DETECTOR),
        classes=list(CLASSES),
        architecture=f"one stage, no anchors: convolutions, attention over the whole picture, {parameters / 1e6:.2f} "
        f"million parameters, kept in 16 bits; pictures are resized to {WIDTH_PX} x {HEIGHT_PX} and boxes suppressed "
        "in the graph",
        data=[_GENERATED, *([{**_SCREENSHOTS, **learnt_screenshots}] if learnt_screenshots else [])],
        split=_SPLIT,
        training=training,
        export_commit=export_commit,
        artifact_sha256=artifact_sha256,
        parity=parity,
        metrics=metrics,
        not_demonstrated=NOT_DEMONSTRATED,
        demonstrated_skill=False,
        statement=statement_of(metrics, bool(training["placeholder"])),
    )


_SPLIT = {
    "held_out": "family 'held_out': shuffled blocks of real daily returns (AAPL, GOOG, IBM, MSFT, 2012 to 2013) in "
    "place of the volatility process, other averages, time zones and combinations of theme and bars; its ranges of "
    "shapes, noise and sizes lie within those of the training family",
    "real_order": "family 'real': the same with the returns in the order in which they happened",
    "training_family": "family 'training', another seed",
    "screenshots": "no instrument of the held-out screenshots is among those learnt from",
    "use": "none of them was trained on; figures on up to 280 held-out charts were watched; the time there was set the "
    "length of the training",
}


def statement_of(metrics: Mapping[str, Any], placeholder: bool) -> str:
    """Return one honest sentence for screens and configs, at most 200 characters."""
    one = metrics["held_out"]["map50"]
    figure = f"{one['value']:.3f} [{one['ci95'][0]:.3f}, {one['ci95'][1]:.3f}]"
    if placeholder:
        return f"Placeholder training. {cards.NO_SKILL}: it only proves that the path runs. mAP@0.5 {figure}."
    real = metrics.get("screenshots")
    gaps = f", {real['map50']['value']:.2f} for gaps on real screenshots" if real else ""
    return (
        f"{cards.NO_SKILL} in trading. mAP@0.5 {figure} on held-out generated charts{gaps}; "
        "not shown to find other patterns on real charts."
    )
