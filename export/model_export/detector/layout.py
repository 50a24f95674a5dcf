"""What the detector sees and says: its classes, the size it works at, and its two grids of places."""

from __future__ import annotations

from dataclasses import dataclass

from model_export.pattern_shapes import GAPS, MIRRORED, OUTLINED

CLASSES = (*OUTLINED, *GAPS)
"""Labels are positions in it: patterns with an outline first, then gaps."""
HEIGHT_PX, WIDTH_PX = 256, 320
"""Every chart is resized to this inside the graph. Wider than high: bars are thin, and a gap is two bars wide."""

_MIRRORED = {**MIRRORED, "gap_down": "gap_up"}


@dataclass(frozen=True, slots=True)
class Grid:
    """Places that look for a kind of pattern, one per cell.

    Attributes:
        first_label: The first class it looks for.
        classes: How many.
        rows: Of cells.
        columns: Of cells.
        usual_width: Of a box, as a share of the picture; what a cell says of itself is relative to it.
        usual_height: The same.
        reach: A cell answers for boxes whose middle is nearer than this, in cells.
    """

    first_label: int
    classes: int
    rows: int
    columns: int
    usual_width: float
    usual_height: float
    reach: float

    @property
    def cells(self) -> int:
        """Number of cells."""
        return self.rows * self.columns


OUTLINE_GRID = Grid(0, len(OUTLINED), HEIGHT_PX // 16, WIDTH_PX // 16, 0.5, 0.5, 1.5)
GAP_GRID = Grid(len(OUTLINED), len(GAPS), HEIGHT_PX // 8, WIDTH_PX // 8, 0.03, 0.15, 1.0)
GRIDS = (OUTLINE_GRID, GAP_GRID)


def mirrored(label: int) -> int:
    """Return the class that a mirror at a price makes of one."""
    name = CLASSES[label]
    both = _MIRRORED | {b: a for a, b in _MIRRORED.items()}
    return CLASSES.index(both.get(name, name))
