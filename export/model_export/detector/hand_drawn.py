"""Outlines that people drew on screenshots, to be examined on and never to learn from.

The set (see the data folder's README) has no licence that would allow more, and no names for its classes: what they
are was read off the captions in the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model_export.detector.average_precision import Found
from model_export.detector.examination import figures
from model_export.detector.layout import CLASSES
from model_export.detector.served import ServedDetector
from model_export.errors import DataError

# Their class number -> its name, and which of ours stand for it. Cups, rectangles, flat bases and volume: none.
MATCHED = {
    2: ("double_bottom", ("double_bottom",)),
    3: ("double_top", ("double_top",)),
    4: ("flag", ("bull_flag", "bear_flag")),
    6: ("triangle", ("ascending_triangle", "descending_triangle", "symmetric_triangle")),
}
NAMES = tuple(name for name, _ in MATCHED.values())


def examine_hand_drawn(detector: ServedDetector, folder: Path) -> dict[str, Any]:
    """Return the figures on hand-drawn outlines: a detection counts for the class that its own is part of.

    Raises:
        DataError: There are no pictures, or a row of labels is malformed.
    """
    from PIL import Image

    pictures = sorted(folder.glob("*/images/*.jpg"))
    if not pictures:
        raise DataError(f"{folder}: no pictures (*/images/*.jpg)")
    found, truth = [], []
    for picture in pictures:
        with Image.open(picture) as image:
            pixels = np.asarray(image.convert("RGB"))
        height, width = pixels.shape[:2]
        labels = picture.parent.parent / "labels" / f"{picture.stem}.txt"
        truth.append(_outlines(labels, width, height))
        found.append(as_matched(detector.find(pixels)))
    return figures(found, truth, NAMES)


def as_matched(found: Found) -> Found:
    """Return detections under the matched classes; those of other classes are left out."""
    group = {
        CLASSES.index(ours): number for number, (_, names) in enumerate(MATCHED.values()) for ours in names
    }
    kept = np.array([int(label) in group for label in found.labels], bool)
    labels = np.array([group[int(label)] for label in found.labels[kept]], np.int64)
    return Found(found.boxes[kept], labels, found.scores[kept])


def _outlines(path: Path, width: int, height: int) -> Found:
    boxes: list[Sequence[float]] = []
    labels: list[int] = []
    known = list(MATCHED)
    rows = path.read_text().splitlines() if path.is_file() else []
    for number, line in enumerate(rows, 1):
        try:
            label, values = int(line.split()[0]), np.array(line.split()[1:], np.float64)
            if len(values) < 4 or len(values) % 2:
                raise ValueError("an even number of at least 4 values is needed")
        except (ValueError, IndexError) as e:
            raise DataError(f"{path}:{number}: {e}") from e
        if label not in known:
            continue
        if len(values) == 4:  # a box: middle and sides
            x, y, w, h = values
            values = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        across, down = values[0::2] * width, values[1::2] * height
        boxes.append((across.min(), down.min(), across.max(), down.max()))
        labels.append(known.index(label))
    return Found(np.array(boxes, np.float64).reshape(-1, 4), np.array(labels, np.int64), np.ones(len(labels)))
