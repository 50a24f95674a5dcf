from __future__ import annotations

import math

import pytest

from strategy.core.ensemble import EnsembleLimits, combine, neighbors_outcome, neighbors_vote
from strategy.core.values import Neighbor, Probabilities
from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Outcome, Reason

CALL = CallRecord("x", "", 0, 0, 0)
WEIGHTS = {"a": 1.0, "b": 1.0, "c": 0.5}


def vote(down: float, flat: float, up: float) -> Outcome[Probabilities]:
    return Answer(Probabilities(down, flat, up), CALL)


def late(detail: str = "") -> Outcome[Probabilities]:
    return NoAnswer(Reason.LATE, detail, CALL)


def neighbor(move_bps: float, similarity: float = 1.0, bar_size_s: int = 60) -> Neighbor:
    return Neighbor(1, 1, "A", 0, bar_size_s, similarity, move_bps)


def test_votes_are_averaged_by_weight() -> None:
    consensus = combine(
        {"a": vote(0.2, 0.3, 0.5), "b": vote(0.4, 0.3, 0.3), "c": vote(0, 0, 1)}, WEIGHTS, 3, 1.0
    )
    assert consensus.probabilities is not None
    assert consensus.probabilities.up == pytest.approx(0.4 * 0.5 + 0.4 * 0.3 + 0.2)
    assert consensus.weights == pytest.approx({"a": 0.4, "b": 0.4, "c": 0.2})
    assert consensus.missing == {}


def test_the_weight_of_a_missing_voter_goes_to_the_others() -> None:
    consensus = combine(
        {"a": vote(0.2, 0.3, 0.5), "b": late("16 ms"), "c": vote(0.2, 0.3, 0.5)}, WEIGHTS, 2, 0.5
    )
    assert consensus.weights == pytest.approx({"a": 2 / 3, "c": 1 / 3})
    assert consensus.missing == {"b": "late: 16 ms"}
    assert consensus.probabilities is not None
    assert consensus.probabilities.up == pytest.approx(0.5)


def test_too_few_votes_or_too_little_weight_is_no_consensus() -> None:
    votes = {"a": vote(0.2, 0.3, 0.5), "b": late()}
    consensus = combine(votes, WEIGHTS, 2, 0.0)
    assert consensus.probabilities is None
    assert consensus.weights == {}
    assert consensus.missing == {"b": "late", "c": "not asked"}
    assert combine(votes, WEIGHTS, 1, 0.5).probabilities is None
    assert combine(votes, WEIGHTS, 1, 0.4).probabilities is not None
    assert combine({}, WEIGHTS, 0, 0.0).probabilities is None


@pytest.mark.parametrize(
    "malformed",
    [
        vote(math.nan, 0.5, 0.5),
        vote(0.5, 0.5, 0.5),
        vote(-0.1, 0.6, 0.5),
        vote(math.inf, 0, 0),
        vote(0.3, 0.3, 0.3),
    ],
)
def test_a_malformed_vote_counts_as_missing(malformed: Outcome[Probabilities]) -> None:
    consensus = combine({"a": vote(0.2, 0.3, 0.5), "b": malformed}, WEIGHTS, 1, 0.0)
    assert consensus.missing["b"].startswith("malformed")
    assert set(consensus.weights) == {"a"}


def test_a_voter_without_weight_is_heard_but_does_not_count() -> None:
    consensus = combine(
        {"a": vote(0, 0, 1), "s": vote(1, 0, 0), "z": vote(1, 0, 0)}, {"a": 1.0, "s": 0.0}, 1, 0.0
    )
    assert consensus.probabilities == Probabilities(0.0, 0.0, 1.0)
    assert consensus.missing == {"s": "no weight", "z": "no weight"}


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": -1.0, "b": 2.0}, {"a": math.nan}, {"a": math.inf}])
def test_weights_that_can_not_be_used_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weights must be"):
        combine({"a": vote(0, 0, 1)}, weights, 1, 0.0)


def test_neighbours_vote_with_their_similarity_around_the_band() -> None:
    moves = [neighbor(-30.0, 0.5), neighbor(5.0, 1.0), neighbor(-5.0, 1.0), neighbor(12.0, 1.5)]
    assert neighbors_vote(moves, 10.0, 60, 4, 0.0) == Probabilities(0.125, 0.5, 0.375)
    smoothed = neighbors_vote(moves, 10.0, 60, 4, 3.0)
    assert smoothed is not None
    assert smoothed.down == pytest.approx(1.5 / 7)


def test_the_band_of_longer_bars_is_wider_by_the_square_root_of_time() -> None:
    moves = [neighbor(19.0, bar_size_s=240), neighbor(21.0, bar_size_s=240), neighbor(19.0, bar_size_s=60)]
    result = neighbors_vote(moves, 10.0, 60, 3, 0.0)
    assert result is not None
    assert (result.flat, result.up) == pytest.approx((1 / 3, 2 / 3))


def test_too_few_usable_neighbours_do_not_vote_and_say_so() -> None:
    limits = EnsembleLimits(1, 0.0, 0.5, 6, min_neighbors=2, prior_neighbors=1.0)
    found: Outcome[tuple[Neighbor, ...]] = Answer(
        (neighbor(1.0), neighbor(1.0, -0.2), neighbor(math.nan)), CALL
    )
    outcome = neighbors_outcome(found, 10.0, 60, limits)
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.NO_INPUT
    assert "3 neighbours, 2 usable" in outcome.detail
    away = NoAnswer(Reason.DOWN, "breaker open", CALL)
    assert neighbors_outcome(away, 10.0, 60, limits) is away
    assert neighbors_vote([neighbor(1.0)], math.nan, 60, 1) is None
