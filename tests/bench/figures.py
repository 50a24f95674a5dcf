"""What a benchmark says: named figures, as a table for people and as JSON for everything else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Samples = Sequence[float]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    Attributes:
        name: In lower case with its unit or meaning last, for example decision_p50_ms.
        value: The number.
        unit: "ms", "ratio", "share", "count", "GB" or "1/s".
        says: One sentence: what was measured against what.
        detail: Everything behind it; goes into the JSON.
    """

    name: str
    value: float
    unit: str
    says: str
    detail: Mapping[str, Any] = field(default_factory=dict)


def quantile(samples: Samples, share: float) -> float:
    """Return a quantile; nan without samples."""
    return float(np.quantile(samples, share)) if len(samples) else math.nan


def median(samples: Samples) -> float:
    """Return the median; nan without samples."""
    return quantile(samples, 0.5)


def summary(samples: Samples) -> dict[str, float]:
    """Return count, quantiles and maximum, for details."""
    if not len(samples):
        return {"count": 0}
    values = {f"p{round(100 * share)}": quantile(samples, share) for share in (0.5, 0.9, 0.99)}
    return {"count": len(samples), **_rounded(values), **_rounded({"max": max(samples)})}


def of_rounds(samples: Samples, rounds: int) -> dict[str, float]:
    """Return the medians of consecutive rounds: their median, and how far apart they lie (the noise)."""
    medians = [median(part.tolist()) for part in np.array_split(np.asarray(samples), rounds) if len(part)]
    if not medians:
        return {"rounds": 0}
    middle = median(medians)
    spread = {"median": middle, "lowest": min(medians), "highest": max(medians)}
    return {"rounds": len(medians), **_rounded(spread)}


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as lines for people."""
    width = max((len(figure.name) for figure in figures), default=0)
    return "\n".join(
        f"  {figure.name:<{width}}  {figure.value:9.3f} {figure.unit:<5}  {figure.says}" for figure in figures
    )


def write(path: Path, figures: Sequence[Figure]) -> None:
    """Replace the JSON file with these figures."""
    document = {
        figure.name: {
            "value": round(figure.value, 6),
            "unit": figure.unit,
            "detail": {"says": figure.says, **figure.detail},
        }
        for figure in figures
        if math.isfinite(figure.value)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
    temporary.replace(path)


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 5) for name, value in values.items()}
