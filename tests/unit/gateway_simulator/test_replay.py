from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_simulator.clock import ReplayClock
from gateway_simulator.generated import generate
from gateway_simulator.history import bar_date
from gateway_simulator.paths import SynthesizedPaths
from gateway_simulator.replay import Replay
from gateway_simulator.session import DAY_S, NS_PER_S, TAIL_BARS, local_to_ns
from gateway_simulator.session_choice import Choice
from gateway_simulator.session_file import read_sample


def test_a_bar_is_known_only_when_its_time_is_over() -> None:
    session = generate(("ALFA",))
    replay = Replay(session)
    line = next(iter(replay.lines.values()))
    series = line.series
    while not replay.ended:
        move = replay.advance()
        for _, index in move.closed:
            assert replay.now_ns == series.end_ns[index]
        assert line.bar.index == np.searchsorted(series.end_ns, replay.now_ns, side="right")
        assert line.step.at_ns <= replay.now_ns
        if line.bar.count:
            assert series.low[line.bar.index] <= line.bar.low <= line.bar.high <= series.high[line.bar.index]


def test_before_the_first_step_the_market_shows_the_history_only() -> None:
    session = generate(("ALFA",))
    line = next(iter(Replay(session).lines.values()))
    assert line.last == line.series.close[line.series.first - 1]
    assert line.step.at_ns < session.start_ns
    assert line.bar.volume == 0


def test_seeking_gets_to_the_same_place_as_moving() -> None:
    moved, sought = Replay(generate()), Replay(generate())
    for _ in range(137):
        moved.advance()
    sought.seek(137)
    for one, two in zip(moved.lines.values(), sought.lines.values(), strict=True):
        assert (one.step, one.last, one.day_volume, one.bar) == (two.step, two.last, two.day_volume, two.bar)
    assert moved.due_ns() == sought.due_ns()


def test_after_the_session_the_clock_goes_on_for_ten_bars_and_stands_still() -> None:
    session = generate(("ALFA",))
    replay = Replay(session)
    while replay.due_ns() is not None:
        replay.advance()
    assert replay.now_ns == session.end_ns + TAIL_BARS * 300 * NS_PER_S
    line = next(iter(replay.lines.values()))
    assert line.last == line.series.close[-1]
    assert line.step.bid > 0


def test_nights_take_no_time_and_daily_bars_are_the_regular_session() -> None:
    session = read_sample(Choice(warmup_bars=120))
    day_ns = int(6.5 * 3600) * NS_PER_S
    assert [slot.elapsed_ns for slot in session.slots[:3]] == [0, day_ns, 2 * day_ns]
    assert session.bar_size_s == DAY_S


def test_the_bar_after_the_last_one_has_a_later_date_so_that_the_last_is_seen_to_close() -> None:
    for session in (read_sample(Choice(warmup_bars=120)), generate(("ALFA",))):
        replay = Replay(session)
        while not replay.ended:
            replay.advance()
        for line in replay.lines.values():
            last_ns = int(line.series.start_ns[-1])
            assert bar_date(session, line.bar.start_ns, 2) > bar_date(session, last_ns, 2)
            assert line.bar.open == line.bar.close == line.series.close[-1]


def test_due_times_never_go_back() -> None:
    replay = Replay(generate(bar_size_s=3600, days=2))
    before = -1
    while (due := replay.due_ns()) is not None:
        assert due >= before
        before = due
        replay.advance()


def test_the_clock_runs_at_its_speed_and_does_not_rush_after_a_stall() -> None:
    now = 0
    clock = ReplayClock(300.0, lambda: now)
    clock.start(0)
    assert clock.wait_s(300 * NS_PER_S) == pytest.approx(1.0)
    now = NS_PER_S
    assert clock.wait_s(300 * NS_PER_S) == pytest.approx(0.0)
    now = 60 * NS_PER_S
    assert clock.wait_s(600 * NS_PER_S) == 0.0
    assert clock.wait_s(900 * NS_PER_S) == pytest.approx(1.0)


def test_local_times_follow_daylight_saving() -> None:
    hour = 3600 * NS_PER_S
    winter = local_to_ns(np.array([0], np.int64), "America/New_York")
    summer_local = np.datetime64("2025-07-01T09:30").astype("datetime64[ns]").astype(np.int64)
    summer = local_to_ns(np.array([summer_local]), "America/New_York")
    assert winter[0] == 5 * hour
    assert summer[0] == summer_local + 4 * hour


@given(
    opened=st.floats(1, 500),
    close=st.floats(1, 500),
    up=st.floats(0, 5),
    down=st.floats(0, 0.9),
    volume=st.integers(0, 10_000_000),
    spread_bps=st.floats(0, 50),
)
@settings(max_examples=60, deadline=None)
def test_a_path_made_from_a_bar_prints_exactly_that_bar(
    opened: float, close: float, up: float, down: float, volume: int, spread_bps: float
) -> None:
    high, low = max(opened, close) + up, min(opened, close) - down
    o, h, low_column, c, v = (np.array([value]) for value in (opened, high, low, close, float(volume)))
    start = np.array([0], np.int64)
    paths = SynthesizedPaths(
        start, start + 300 * NS_PER_S, o, h, low_column, c, v, 5 * NS_PER_S, 0.01, spread_bps
    )
    steps = paths.steps(0)
    prices = [step.trade_price for step in steps]
    assert (prices[0], max(prices), min(prices), prices[-1]) == (opened, high, low, close)
    assert sum(step.trade_size for step in steps) == volume
    assert all(0 < step.bid < step.ask for step in steps)
    assert all(0 <= step.at_ns < 300 * NS_PER_S for step in steps)
