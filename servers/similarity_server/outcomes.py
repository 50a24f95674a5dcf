"""What the outcomes of neighbours say together. Pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class OutcomeStatistics:
    """A summary of forward returns r with weights w; it describes the past.

    Attributes:
        neighbor_count: Neighbours that count: those whose similarity is above 0.
        mean_return_bps: sum(w r) / sum(w).
        hit_rate: sum(w [r > 0]) / sum(w), 0 to 1.
        dispersion_bps: sqrt(sum(w (r - mean)^2) / sum(w)).
        effective_count: sum(w)^2 / sum(w^2), from 1 to neighbor_count.
    """

    neighbor_count: int
    mean_return_bps: float
    hit_rate: float
    dispersion_bps: float
    effective_count: float


def summarize(
    similarity: NDArray[np.float64], forward_return_bps: NDArray[np.float64]
) -> OutcomeStatistics | None:
    """Sum up the outcomes of neighbours, weighted with their similarity.

    Args:
        similarity: (n,) cosine similarities to the query.
        forward_return_bps: (n,) their forward returns, basis points.

    Returns:
        None when no neighbour has a similarity above 0.

    Source: the effective count is L. Kish, Survey Sampling, 1965.
    """
    # Few and small numbers: float64 keeps the squares of tiny weights from vanishing.
    weight = np.maximum(np.asarray(similarity, dtype=np.float64), 0.0)
    largest = weight.max(initial=0.0)
    if not largest > 0.0:
        return None
    weight = weight / largest
    returns = np.asarray(forward_return_bps, dtype=np.float64)
    total = weight.sum()
    mean = float(weight @ returns / total)
    return OutcomeStatistics(
        neighbor_count=int(np.count_nonzero(weight)),
        mean_return_bps=mean,
        hit_rate=float(weight[returns > 0].sum() / total),
        dispersion_bps=float(np.sqrt(weight @ np.square(returns - mean) / total)),
        effective_count=float(total**2 / (weight @ weight)),
    )
