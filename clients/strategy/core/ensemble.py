"""Several voters' probabilities become one consensus; who did not answer in time does not count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from strategy.core.values import Consensus, Neighbor, Probabilities
from tradeserve_client.answers import Answer, NoAnswer, Outcome, Reason
from tradeserve_client.bounds import Within

SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class EnsembleLimits:
    """When there are enough voters for a consensus, and how neighbours vote.

    Attributes:
        quorum_voters: Voters that must have answered in time.
        min_weight: Share of all configured weight that must have answered, 0 to 1.
        band_sigmas: Half width of "flat" for the neighbours' outcomes, in standard deviations of
            the move over the horizon; the same as the models were trained with.
        horizon_bars: How far ahead the models and the index look.
        min_neighbors: Neighbours needed for a vote of the similarity voter.
        prior_neighbors: Imaginary neighbours spread evenly over down, flat and up, which keep a
            few real ones from voting with certainty.
    """

    quorum_voters: Annotated[int, Within(1, 32)]
    min_weight: Annotated[float, Within(0, 1)]
    band_sigmas: Annotated[float, Within(0.01, 10)]
    horizon_bars: Annotated[int, Within(1, 1000)]
    min_neighbors: Annotated[int, Within(1, 1000)]
    prior_neighbors: Annotated[float, Within(0, 1000)]


def combine(
    votes: Mapping[str, Outcome[Probabilities]],
    weights: Mapping[str, float],
    quorum_voters: int,
    min_weight: float,
) -> Consensus:
    """Return the weighted mean of the votes that arrived; the result does not depend on their order.

    Args:
        votes: Voter -> its answer in time, or why there is none.
        weights: Voter -> its weight, >= 0, not all 0. A voter without one does not count.
        quorum_voters: Votes needed.
        min_weight: Share (0 to 1) of the sum of `weights` that must have voted.

    Raises:
        ValueError: A weight is negative or not finite, or all are 0.
    """
    bad = sorted(name for name, weight in weights.items() if not (math.isfinite(weight) and weight >= 0))
    total = math.nan if bad else math.fsum(weights.values())
    if bad or not 0 < total < math.inf:
        raise ValueError(f"weights must be finite, >= 0 and not all 0: {dict(weights)!r}")
    counted: dict[str, Probabilities] = {}
    missing: dict[str, str] = {}
    for name in sorted(votes.keys() | weights.keys()):
        vote = votes.get(name)
        if vote is None:
            missing[name] = "not asked"
        elif isinstance(vote, NoAnswer):
            missing[name] = f"{vote.reason.value}: {vote.detail}" if vote.detail else vote.reason.value
        elif not is_distribution(vote.value):
            missing[name] = f"malformed: {vote.value}"
        elif weights.get(name, 0.0) == 0:
            missing[name] = "no weight"
        else:
            counted[name] = vote.value
    # Relative to the largest weight, so that tiny weights neither vanish nor make a sum of 0.
    scale = max(weights.values())
    arrived = math.fsum(weights[name] / scale for name in counted)
    configured = math.fsum(weight / scale for weight in weights.values())
    if len(counted) < max(1, quorum_voters) or arrived / configured < min_weight or arrived == 0:
        return Consensus(None, {}, missing)
    effective = {name: weights[name] / scale / arrived for name in counted}
    down, flat, up = (
        math.fsum(effective[name] * side for name, side in sides)
        for sides in (
            [(name, vote.down) for name, vote in counted.items()],
            [(name, vote.flat) for name, vote in counted.items()],
            [(name, vote.up) for name, vote in counted.items()],
        )
    )
    mass = math.fsum((down, flat, up))
    return Consensus(Probabilities(down / mass, flat / mass, up / mass), effective, missing)


def is_distribution(vote: Probabilities) -> bool:
    """Whether three numbers are probabilities: finite, 0 to 1, with a sum of 1 within 1e-3."""
    values = (vote.down, vote.flat, vote.up)
    if not all(math.isfinite(value) and 0 <= value <= 1 for value in values):
        return False
    return abs(math.fsum(values) - 1) <= SUM_TOLERANCE


def neighbors_vote(
    neighbors: Sequence[Neighbor],
    band_bps: float,
    bar_size_s: int,
    min_count: int,
    prior_neighbors: float = 1.0,
) -> Probabilities | None:
    """Return the similarity-weighted shares of outcomes below, in and above +-`band_bps`.

    Args:
        neighbors: Past states with what came after them; any order. One that is not finite, or has
            a similarity <= 0, does not count.
        band_bps: Half width of "flat" over the horizon at `bar_size_s`, >= 0.
        bar_size_s: Bars of the present state. The band of a neighbour with other bars is scaled
            by the square root of time, because states of several bar sizes share one index.
        min_count: Neighbours that must count for a vote; None otherwise.
        prior_neighbors: Imaginary neighbours of similarity 1, spread evenly over the three.
    """
    usable = [
        neighbor
        for neighbor in neighbors
        if math.isfinite(neighbor.similarity)
        and neighbor.similarity > 0
        and math.isfinite(neighbor.forward_return_bps)
        and neighbor.bar_size_s > 0
    ]
    if len(usable) < max(1, min_count) or not (math.isfinite(band_bps) and band_bps >= 0):
        return None
    shares: dict[str, list[float]] = {side: [prior_neighbors / 3] for side in ("down", "flat", "up")}
    for neighbor in usable:
        band = band_bps * math.sqrt(neighbor.bar_size_s / bar_size_s)
        move = neighbor.forward_return_bps
        side = "down" if move < -band else "up" if move > band else "flat"
        shares[side].append(neighbor.similarity)
    down, flat, up = (math.fsum(shares[side]) for side in ("down", "flat", "up"))
    mass = math.fsum((down, flat, up))
    return Probabilities(down / mass, flat / mass, up / mass)


def neighbors_outcome(
    neighbors: Outcome[Sequence[Neighbor]], band_bps: float, bar_size_s: int, limits: EnsembleLimits
) -> Outcome[Probabilities]:
    """Turn what the similarity server answered into a vote, or into why there is none."""
    if isinstance(neighbors, NoAnswer):
        return neighbors
    vote = neighbors_vote(neighbors.value, band_bps, bar_size_s, limits.min_neighbors, limits.prior_neighbors)
    if vote is None:
        detail = f"{len(neighbors.value)} neighbours, {limits.min_neighbors} usable ones needed"
        return NoAnswer(Reason.NO_INPUT, detail, neighbors.call)
    return Answer(vote, neighbors.call)
