import math

import pytest

from strategy.core.trackers import DrawdownTracker, EquityMarks, OrderRateTracker

S = 1_000_000_000


def test_losses_are_measured_from_the_peak_and_from_the_day_s_start() -> None:
    tracker = DrawdownTracker()
    assert math.isnan(tracker.drawdown_pct)
    for equity in (100.0, 120.0, math.nan, 90.0):
        tracker.update(equity)
    assert tracker.drawdown_pct == pytest.approx(25.0)
    assert tracker.daily_loss_pct == pytest.approx(10.0)
    tracker.start_day()
    assert tracker.daily_loss_pct == 0.0
    assert tracker.drawdown_pct == pytest.approx(25.0)


def test_a_restart_does_not_forget_the_peak() -> None:
    tracker = DrawdownTracker(EquityMarks(100.0, 100.0, 200.0))
    tracker.update(150.0)
    assert tracker.drawdown_pct == pytest.approx(25.0)


def test_orders_leave_the_window_after_its_length() -> None:
    tracker = OrderRateTracker(window_s=60.0)
    tracker.record(0, 3)
    tracker.record(30 * S)
    assert tracker.count(59 * S) == 4
    assert tracker.count(60 * S) == 1
    assert tracker.count(90 * S) == 0


def test_the_count_is_bounded_and_time_never_runs_back() -> None:
    tracker = OrderRateTracker(window_s=60.0, max_events=5)
    tracker.record(100 * S, 1000)
    tracker.record(10 * S)
    assert tracker.count(100 * S) == 5
    assert tracker.count(0) == 5


def test_a_window_needs_a_length() -> None:
    with pytest.raises(ValueError, match="must be > 0"):
        OrderRateTracker(window_s=0.0)
