"""Screenshots of real charts with gaps that people boxed (CC BY 4.0), to learn from and to be examined on.

Source: workathon, "gap-pattern" dataset, Roboflow Universe, 2024, CC BY 4.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_export.detector.layout import CLASSES, mirrored
from model_export.detector.scenes import Scene
from model_export.errors import DataError

FOLDER = "patterns_gap_yolo"
_LABELS = (CLASSES.index("gap_down"), CLASSES.index("gap_up"))
# Instruments of which nothing is learnt: COFORGE, GMRINFRA, IDEA; SBI, TCS, SUZLON, RAIN, IREDA.
HELD_OUT_NAMES = (
    "COFORGE_",
    "GMRINFRA_",
    "IDEA_",
    "Screenshot-2024-02-26-at-12-32-02",
    "Screenshot-2024-02-26-at-12-32-23",
    "Screenshot-2024-02-26-at-12-33-03",
    "Screenshot-2024-02-26-at-12-44-54",
    "Screenshot-2024-02-26-at-12-45-43",
    "Screenshot-2024-02-26-at-12-46-12",
)
_LEAST_VISIBLE = 0.7
_SMALLEST_PIECE = 0.45


@dataclass(frozen=True, slots=True)
class Screenshots:
    """Both parts; no instrument is in both."""

    training: tuple[Scene, ...]
    held_out: tuple[Scene, ...]


def read_screenshots(data: Path) -> Screenshots:
    """Read the screenshots below a data folder.

    Raises:
        DataError: There are none, or one has no labels or malformed ones.
    """
    folder = data / FOLDER / "train"
    names = sorted((folder / "images").glob("*.jpg"))
    if not names:
        raise DataError(f"{folder}: no screenshots; leave --data out to learn from generated charts alone")
    scenes = {path.name: _read(path, folder / "labels" / f"{path.stem}.txt") for path in names}
    return Screenshots(
        tuple(scene for name, scene in scenes.items() if not name.startswith(HELD_OUT_NAMES)),
        tuple(scene for name, scene in scenes.items() if name.startswith(HELD_OUT_NAMES)),
    )


def varied(rng: np.random.Generator, scene: Scene) -> Scene:
    """Return a piece of a screenshot, now and then with prices upside down: a gap up becomes a gap down."""
    height, width = scene.pixels.shape[:2]
    piece_w, piece_h = (int(side * rng.uniform(_SMALLEST_PIECE, 1.0)) for side in (width, height))
    left, top = int(rng.integers(0, width - piece_w + 1)), int(rng.integers(0, height - piece_h + 1))
    pixels = scene.pixels[top : top + piece_h, left : left + piece_w]
    corner = np.array([left, top, left, top], np.float32)
    limits = np.array([piece_w, piece_h, piece_w, piece_h], np.float32)
    moved = scene.boxes - corner
    boxes = np.clip(moved, 0, limits)
    kept = _area(boxes) >= _LEAST_VISIBLE * _area(moved)
    boxes, labels = boxes[kept], scene.labels[kept]
    if rng.random() < 0.5:
        # Red and green change places, as what rose falls.
        pixels = pixels[::-1, :, (1, 0, 2)]
        boxes = np.stack((boxes[:, 0], piece_h - boxes[:, 3], boxes[:, 2], piece_h - boxes[:, 1]), axis=1)
        labels = np.array([mirrored(int(label)) for label in labels], np.int64)
    return Scene(np.ascontiguousarray(pixels), boxes, labels)


def _area(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    area: NDArray[np.float32] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return area


def _read(picture: Path, labels: Path) -> Scene:
    from PIL import Image

    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    boxes, classes = [], []
    try:
        rows = labels.read_text().splitlines()
    except OSError as e:
        raise DataError(f"{labels}: can't be read: {e.strerror or e}") from e
    for number, line in enumerate(rows, 1):
        try:
            label, *shares = line.split()
            classes.append(_LABELS[("0", "1").index(label)])
            x, y, w, h = (float(share) for share in shares)
        except ValueError as e:
            raise DataError(
                f"{labels}:{number}: a class, 0 or 1, and four shares are needed, not {line!r}"
            ) from e
        boxes.append(((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height))
    return Scene(pixels, np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64))
