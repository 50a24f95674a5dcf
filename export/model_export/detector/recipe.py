"""The whole course, from a seed to what Triton serves: training, graph, parity, examination, card."""

from __future__ import annotations

import platform
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_export import cards, repository
from model_export.chart_patterns import HELD_OUT, REAL, TRAINING
from model_export.contract import Layout
from model_export.detector.card import DetectorCard, card_of
from model_export.detector.examination import examine, generated
from model_export.detector.graph import write_graph
from model_export.detector.half_precision import rounded
from model_export.detector.parity import measure_parity
from model_export.detector.screenshots import Screenshots, read_screenshots
from model_export.detector.served import ServedDetector
from model_export.detector.training import Recipe, train

SEED = 1
_EXAMINED = 2_100
_PARITY_CHARTS = 42
_TIMED_CALLS = 100
_METRICS_NOTE = (
    "of the exported graph; mAP@0.5 is the mean over classes of the area under precision over recall, precision made "
    "to fall only; 95% intervals: bootstrap over charts; held-out charts show one pattern or none, as often each"
)


def make_detector(
    layout: Layout,
    data: Path | None,
    *,
    seed: int = SEED,
    recipe: Recipe | None = None,
    examined: int = _EXAMINED,
) -> DetectorCard:
    """Make the detector and put it into the model repository; on one machine the same arguments give the same weights.

    Args:
        layout: Where everything goes; training keeps its state in build/, and goes on from there.
        data: Folder with the licensed data sets; None: nothing is learnt from screenshots.
        seed: Of everything that varies.
        recipe: None: the whole course.
        examined: Charts of the held-out family to be examined on; half as many of each other family.

    Raises:
        ParityError: The graph does not compute what the network computes.
    """
    recipe = recipe or Recipe()
    screenshots = Screenshots((), ()) if data is None else read_screenshots(data)
    trained = train(seed, recipe, screenshots.training, layout.root / f"build/detector/detector-{seed}.pt")
    net = rounded(trained)
    with tempfile.TemporaryDirectory() as folder:
        # Nothing in the model repository changes before the graph is proven and measured.
        path = Path(folder) / "model.onnx"
        write_graph(net, path)
        detector = ServedDetector(path)
        charts = [scene.pixels for scene in generated(TRAINING, seed + 4, _PARITY_CHARTS)]
        card = card_of(
            artifact_sha256=cards.sha256_of(path),
            export_commit=cards.export_commit(layout.root),
            parameters=sum(parameter.numel() for parameter in trained.parameters()),
            training=_training(seed, recipe),
            parity=measure_parity(net, path, charts),
            metrics=_metrics(detector, screenshots, seed, examined),
            learnt_screenshots=_learnt(screenshots),
        )
        repository.publish(path.read_bytes(), card, layout)
    return card


def _metrics(detector: ServedDetector, screenshots: Screenshots, seed: int, examined: int) -> dict[str, Any]:
    metrics: dict[str, Any] = {"note": _METRICS_NOTE}
    families = (("held_out", HELD_OUT), ("real_order", REAL), ("training_family", TRAINING))
    for number, (name, family) in enumerate(families, 1):
        print(f"  examination: {name}", flush=True)
        count = examined if number == 1 else examined // 2
        metrics[name] = examine(detector, generated(family, seed + number, count))
    if screenshots.held_out:
        metrics["screenshots"] = examine(detector, screenshots.held_out)
    blank = np.full((480, 480, 3), 255, np.uint8)
    metrics["milliseconds_per_call"] = round(detector.milliseconds(blank[None], calls=_TIMED_CALLS), 1)
    return metrics


def _training(seed: int, recipe: Recipe) -> dict[str, Any]:
    return {
        "seed": seed,
        "recipe": asdict(recipe),
        "charts": recipe.steps * recipe.batch,
        "threads": 1,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "placeholder": recipe.steps < Recipe().steps,
        "reproducible": "same machine and torch: same weights; elsewhere the last digits may differ",
    }


def _learnt(screenshots: Screenshots) -> dict[str, int]:
    shown = screenshots.training
    return {"screenshots": len(shown), "boxes": sum(len(s.labels) for s in shown)} if shown else {}
