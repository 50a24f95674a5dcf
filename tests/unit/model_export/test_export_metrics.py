from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_export.metrics import (
    against_median,
    block_ids,
    block_weights,
    evaluate,
    log_losses,
    rank_correlation,
    spread_percentiles,
    weighted_auc,
)


def forecasts(up: np.ndarray) -> np.ndarray:
    return np.stack([0.6 - up, np.full_like(up, 0.4), up], axis=1)


def test_auc_is_one_for_perfect_order_zero_for_reversed_and_half_for_ties() -> None:
    positive, weight = np.asarray([False, False, True, True]), np.ones(4)
    assert weighted_auc(np.asarray([0.1, 0.2, 0.3, 0.4]), positive, weight) == 1.0
    assert weighted_auc(np.asarray([0.4, 0.3, 0.2, 0.1]), positive, weight) == 0.0
    assert weighted_auc(np.zeros(4), positive, weight) == 0.5


def test_auc_without_one_of_the_classes_is_not_a_number() -> None:
    assert np.isnan(weighted_auc(np.asarray([0.1, 0.2]), np.asarray([True, True]), np.ones(2)))


@settings(deadline=None, max_examples=50)  # machines under load are slow, not wrong
@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=2, max_size=40),
)
def test_auc_counts_ordered_pairs(rows: list[tuple[int, bool, int]]) -> None:
    score = np.asarray([r[0] for r in rows], float)
    positive = np.asarray([r[1] for r in rows])
    weight = np.asarray([r[2] for r in rows], float)
    up = [(s, w) for s, p, w in rows if p]
    down = [(s, w) for s, p, w in rows if not p]
    pairs = sum(w * v for _, w in up for _, v in down)
    if not pairs:
        assert np.isnan(weighted_auc(score, positive, weight))
        return
    won = sum(w * v * (1.0 if s > t else 0.5 if s == t else 0.0) for s, w in up for t, v in down)
    assert weighted_auc(score, positive, weight) == pytest.approx(won / pairs)


def test_log_loss_is_the_negative_log_of_what_came_true() -> None:
    p = np.asarray([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    assert log_losses(p, np.asarray([0, 2], np.int8)) == pytest.approx([np.log(2), -np.log(0.8)])


def test_blocks_are_runs_of_days() -> None:
    assert block_ids(np.asarray([100, 101, 104, 105, 109, 120]), 5).tolist() == [0, 0, 0, 1, 1, 2]


def test_each_resample_draws_as_many_blocks_as_there_are_and_is_repeatable() -> None:
    blocks = np.asarray([0, 0, 1, 2, 2, 2])
    draws = block_weights(blocks, 50)
    assert draws.shape == (50, 3)
    assert (draws.sum(1) == 3).all()
    assert np.array_equal(draws, block_weights(blocks, 50))


def test_days_that_move_together_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    day = np.repeat(np.arange(50), 40)
    label = np.repeat(rng.choice([0, 2], 50), 40).astype(np.int8)
    p = np.tile([0.2, 0.2, 0.6], (len(day), 1))
    naive = np.tile([0.3, 0.4, 0.3], (len(day), 1))
    by_day = evaluate(p, label, label, block_ids(day, 1), 50, naive)
    alone = evaluate(p, label, label, np.arange(len(day)), 50, naive)
    assert by_day.accuracy.high - by_day.accuracy.low > 3 * (alone.accuracy.high - alone.accuracy.low)


def test_chance_has_no_skill_and_knowledge_has() -> None:
    rng = np.random.default_rng(5)
    day = np.repeat(np.arange(60), 50)
    label = rng.choice([0, 1, 2], len(day)).astype(np.int8)
    naive = np.tile([1 / 3, 1 / 3, 1 / 3], (len(day), 1))
    chance = evaluate(forecasts(rng.uniform(0.2, 0.4, len(day))), label, label, block_ids(day, 1), 60, naive)
    knowing = np.full((len(day), 3), 0.3)
    knowing[np.arange(len(day)), label] = 0.4
    skilled = evaluate(knowing, label, label, block_ids(day, 1), 60, naive)
    assert not chance.demonstrated_skill
    assert chance.auc.low < 0.5 < chance.auc.high
    assert skilled.demonstrated_skill
    assert skilled.auc.value == 1.0


def test_skill_that_is_gone_one_bar_later_is_none() -> None:
    rng = np.random.default_rng(6)
    day = np.repeat(np.arange(60), 50)
    label = rng.choice([0, 2], len(day)).astype(np.int8)
    later = rng.choice([0, 2], len(day)).astype(np.int8)
    knowing = np.full((len(day), 3), 0.3)
    knowing[np.arange(len(day)), label] = 0.4
    naive = np.tile([1 / 3, 1 / 3, 1 / 3], (len(day), 1))
    assert not evaluate(knowing, label, later, block_ids(day, 1), 60, naive).demonstrated_skill


def test_against_the_median_of_the_day_a_common_drift_counts_for_nothing() -> None:
    day = np.repeat([1, 2], 3)
    score = np.asarray([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    relative, label = against_median(score, day, np.asarray([-3.0, -2.0, -1.0, 5.0, 6.0, 7.0]))
    assert relative == pytest.approx([-0.1, 0, 0.1, -0.1, 0, 0.1])
    assert label.tolist() == [0, 1, 2, 0, 1, 2]


def test_without_both_classes_nothing_is_known_about_order() -> None:
    label = np.asarray([2, 2, 1, 2], np.int8)
    naive = np.tile([1 / 3, 1 / 3, 1 / 3], (4, 1))
    measured = evaluate(forecasts(np.asarray([0.2, 0.3, 0.4, 0.3])), label, label, np.arange(4), 4, naive)
    assert (measured.auc.low, measured.auc.high) == (0.0, 1.0)
    assert not measured.demonstrated_skill


def test_rank_correlation_sees_order_only() -> None:
    assert rank_correlation(np.asarray([1.0, 2, 3]), np.asarray([1.0, 10, 1000])) == pytest.approx(1)
    assert rank_correlation(np.asarray([1.0, 2, 3]), np.asarray([3.0, 2, 1])) == pytest.approx(-1)
    assert np.isnan(rank_correlation(np.asarray([1.0, 1, 1]), np.asarray([3.0, 2, 1])))


def test_percentiles_are_of_up_minus_down() -> None:
    spread = spread_percentiles(forecasts(np.linspace(0.2, 0.4, 101)))
    assert spread["p50"] == pytest.approx(0.0, abs=1e-9)
    assert spread["p95"] == pytest.approx(0.18)


def test_metrics_of_a_card_are_rounded_plain_values() -> None:
    rng = np.random.default_rng(7)
    label = rng.choice([0, 1, 2], 300).astype(np.int8)
    naive = np.tile([1 / 3, 1 / 3, 1 / 3], (300, 1))
    values = evaluate(
        forecasts(rng.uniform(0.2, 0.4, 300)), label, label, np.arange(300), 300, naive
    ).as_dict()
    assert set(values["auc"]) == {"value", "ci95"}
    assert values["auc"]["ci95"][0] <= values["auc"]["value"] <= values["auc"]["ci95"][1]
    assert values["demonstrated_skill"] is False
    assert values["auc_against_same_day_median"] is None
