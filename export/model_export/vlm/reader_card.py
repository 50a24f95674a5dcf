"""The reader's card: what it is, what it was made from, how well it reads, and what nobody has shown."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from model_export.cards import export_commit
from vision_prompt import load_template

NAME, VERSION = "chart_reader", 2
SERVING = {"max_tokens": 192, "engine": {"dtype": "float32", "max_model_len": 2048}}
NOT_DEMONSTRATED = [
    "skill on patterns in real markets: no labelled series were at hand, only screenshots of other programs' charts",
    "skill on charts of other styles, sizes or shapes than this project's readable style at 480 x 480 pixels",
    "that its stated confidence means anything beyond the noise of a generated pattern",
    "any value in trading: its signal is a lookup from the pattern that it names",
]


def card_of(
    *,
    root: Path,
    manifest_sha256: str,
    parameters: int,
    weights_bytes: int,
    training: dict[str, Any],
    metrics: dict[str, Any],
) -> dict[str, Any]:
    """Return the card."""
    template = load_template()
    held_out = metrics["held_out"]
    accuracy, levels = held_out["pattern_accuracy"], held_out["levels_within_5_percent_of_range"]
    real = metrics["real"]["pattern_accuracy"]
    return {
        "name": NAME,
        "version": VERSION,
        "task": "reads a drawn chart: patterns, levels, signal, in JSON",
        "architecture": f"Qwen3VLForConditionalGeneration, {parameters / 1e6:.2f} million parameters",
        "weights_bytes": weights_bytes,
        "artifact_sha256": manifest_sha256,
        "export_commit": export_commit(root),
        "prompt": {"name": template.name, "sha256": template.sha256.hex()},
        "input": "a chart of the readable style, 480 x 480 pixels, about 40 to 100 bars; it is read at 192 x 192",
        "data": [
            {
                "name": "generated series with planted patterns, drawn by market.chart",
                "licence": "Apache-2.0",
                "origin": "model_export.chart_patterns, family 'training': 13 patterns and none, each equally often",
            }
        ],
        "split": {
            "held_out": "family 'held_out': blocks of real daily returns (AAPL, GOOG, IBM, MSFT, 2012 to 2013, the "
            "sample session) in place of the volatility process, shapes, sizes and noise within the training "
            "family's, other averages, time zones and combinations of theme and bars, two marks in place of one",
            "validation": "family 'training', another seed",
            "real": "family 'real': as 'held_out', its daily returns in the order in which they came, not shuffled; "
            "the patterns are planted all the same",
            "watched": "as 'held_out', another seed: figures on these charts were watched while training, and the "
            "lengths of the lessons were chosen by them: their figures flatter",
            "use": "none was trained on; nothing was chosen by figures on 'held_out'. That there is a fourth round was "
            "chosen by two other sets like it",
        },
        "training": {
            **training,
            "threads": "2 in the first and third lesson, 1 in the second",
            "torch": torch.__version__,
            "machine": platform.machine(),
            "reproducible": "same machine and torch: same weights; elsewhere the last digits may differ",
        },
        "metrics": {
            "note": "greedy decoding of the bfloat16 weights in float32, unguided; 95% intervals: Wilson's",
            **metrics,
        },
        "not_demonstrated": NOT_DEMONSTRATED,
        "statement": _statement(accuracy, levels, real),
        "serving": SERVING,
    }


def _statement(accuracy: dict[str, Any], levels: dict[str, Any], real: dict[str, Any]) -> str:
    def text(one: dict[str, Any]) -> str:
        return f"{one['value']:.1%} [{one['ci95'][0]:.1%}, {one['ci95'][1]:.1%}]"

    return (
        "A small reader for tests and demonstrations, trained on generated charts alone. On held-out generated "
        f"charts it names {text(accuracy)} of the patterns and both levels within 5% of the range on {text(levels)}; "
        f"{text(real)} of the patterns where the noise around them is real moves in their order. On patterns of real "
        "markets nothing was measured; its signal is a lookup from the pattern and its confidence is not "
        "calibrated: its readings have no trading value."
    )
