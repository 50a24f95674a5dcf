from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway_simulator import SessionError
from gateway_simulator.generated import generate
from gateway_simulator.paths import book_of
from gateway_simulator.session import BOOK_LEVELS


def test_a_seed_makes_the_same_market_again_and_another_seed_another() -> None:
    first, again, other = generate(seed=5), generate(seed=5), generate(seed=6)
    for one, two, three in zip(first.series, again.series, other.series, strict=True):
        assert np.array_equal(one.close, two.close)
        assert one.paths.steps(160) == two.paths.steps(160)
        assert not np.array_equal(one.close, three.close)
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_an_instrument_does_not_change_when_others_join() -> None:
    alone, among = generate(("ALFA",)), generate(("BRVO", "ALFA"))
    assert np.array_equal(alone.series[0].close, among.series[1].close)


@given(seed=st.integers(0, 10_000), bar_size_s=st.sampled_from((60, 300, 3600)))
@settings(max_examples=15, deadline=None)
def test_bars_are_what_the_prints_inside_them_say(seed: int, bar_size_s: int) -> None:
    session = generate(("ALFA",), seed=seed, bar_size_s=bar_size_s)
    series = session.series[0]
    assert (series.low <= np.minimum(series.open, series.close)).all()
    assert (series.high >= np.maximum(series.open, series.close)).all()
    assert (series.low > 0).all()
    assert (series.volume > 0).all()
    assert (series.end_ns > series.start_ns).all()
    for bar in range(series.first, series.first + 5):
        prints = [step for step in series.paths.steps(bar) if step.trade_size > 0]
        prices = [step.trade_price for step in prints]
        assert (prices[0], max(prices), min(prices), prices[-1]) == tuple(
            float(column[bar]) for column in (series.open, series.high, series.low, series.close)
        )
        assert sum(step.trade_size for step in prints) == series.volume[bar]
        assert prints[0].at_ns == series.start_ns[bar]
        assert prints[-1].at_ns < series.end_ns[bar]


def test_the_touch_is_one_or_two_ticks_wide_and_prints_lie_on_it() -> None:
    series = generate().series[0]
    steps = [step for bar in range(series.first, series.first + 78) for step in series.paths.steps(bar)]
    spreads = {round((step.ask - step.bid) / 0.01) for step in steps}
    assert spreads == {1, 2}
    assert all(step.bid <= step.trade_price <= step.ask for step in steps if step.trade_size > 0)


def test_volume_is_u_shaped_over_the_day() -> None:
    sessions = [generate(seed=seed, days=5) for seed in range(4)]
    volumes = np.array([one.volume[one.first :].reshape(-1, 78) for each in sessions for one in each.series])
    by_bar = volumes.mean(axis=(0, 1))
    noon = by_bar[30:48].mean()
    assert by_bar[:6].mean() > 1.4 * noon
    assert by_bar[-6:].mean() > 1.2 * noon


def test_volatility_clusters_and_returns_do_not() -> None:
    squares, plain = [], []
    for seed in range(12):
        for series in generate(seed=seed, days=10, bar_size_s=60).series:
            price = series.close.reshape(-1, 390)
            returns = np.diff(np.log(price), axis=1)
            scaled = returns / returns.std(axis=0)
            squares.append(np.corrcoef(np.abs(scaled[:, :-1]).ravel(), np.abs(scaled[:, 1:]).ravel())[0, 1])
            plain.append(np.corrcoef(returns[:, :-1].ravel(), returns[:, 1:].ravel())[0, 1])
    assert np.mean(squares) > 0.08
    assert abs(np.mean(plain)) < 0.03


def test_the_book_has_ten_levels_that_never_cross() -> None:
    series = generate().series[0]
    for step in series.paths.steps(series.first):
        bids, asks = book_of(step, 0.01)
        assert len(bids) == len(asks) == BOOK_LEVELS
        assert bids[0] == (step.bid, step.bid_size)
        assert asks[0] == (step.ask, step.ask_size)
        assert all(one[0] > two[0] for one, two in pairwise(bids))
        assert all(one[0] < two[0] for one, two in pairwise(asks))
        assert bids[0][0] < asks[0][0]
        assert min(size for _, size in (*bids, *asks)) >= 100


@pytest.mark.parametrize("bar_size_s", [60, 300, 3600])
def test_there_are_at_least_120_bars_of_history(bar_size_s: int) -> None:
    session = generate(bar_size_s=bar_size_s)
    assert session.warmup_bars >= 120
    assert session.source == "generated"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"bar_size_s": 17}, "--bar-size-s 17"),
        ({"symbols": ()}, "--symbols"),
        ({"symbols": ("A", "A")}, "--symbols"),
        ({"days": 0}, "--days 0"),
        ({"seed": -1}, "--seed -1"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, object], named: str) -> None:
    with pytest.raises(SessionError, match=named):
        generate(**arguments)  # type: ignore[arg-type]
