"""A generated market: seeded, deterministic, and nobody's recording.

Per instrument and minute the variance follows GARCH(1,1) times a U-shaped season; the efficient
price moves every five seconds with a factor common to all instruments; the touch is one or two
ticks wide; volume is U-shaped and rises with volatility. Bars are aggregated from the prints.
Nothing in it can be predicted from the past but volatility and volume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from gateway_simulator import SessionError
from gateway_simulator.session import NS_PER_S, Floats, Ints, Series, Session, Step, step_seconds, timeline
from market.events import Instrument
from market.instruments import synthetic_con_id

ZONE = "America/New_York"
SESSION_DATE = date(2025, 3, 12)
DEFAULT_SYMBOLS = ("ALFA", "BRVO", "CHRL")
MAX_SYMBOLS = 20
MAX_DAYS = 30
MIN_TICK = 0.01

_OPEN, _CLOSE = time(9, 30), time(16, 0)
_DAY_MINUTES = 390
_STEPS_PER_MINUTE = 12
_MIN_HISTORY_BARS = 120
# GARCH(1,1) per minute; unconditional variance 1.
_ALPHA, _BETA = 0.08, 0.90
_COMMON_SHARE = 0.4
_QUIET_STEP_PROBABILITY = 0.03


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedPaths:
    """Steps of a generated instrument; all arrays (steps,), `bar_at` (bars + 1,)."""

    time_ns: Ints
    bid: Floats
    bid_size: Floats
    ask: Floats
    ask_size: Floats
    trade: Floats
    trade_size: Floats
    bar_at: Ints

    def steps(self, bar: int) -> Sequence[Step]:
        """Return the steps of one bar."""
        part = slice(int(self.bar_at[bar]), int(self.bar_at[bar + 1]))
        columns = (
            self.time_ns,
            self.bid,
            self.bid_size,
            self.ask,
            self.ask_size,
            self.trade,
            self.trade_size,
        )
        return [Step(*row) for row in zip(*(column[part].tolist() for column in columns), strict=True)]


def generate(
    symbols: Sequence[str] = DEFAULT_SYMBOLS, *, bar_size_s: int = 300, seed: int = 7, days: int = 1
) -> Session:
    """Make a session of regular US hours, with at least 120 bars of history before it.

    Raises:
        SessionError: An argument is out of range; the message names it.
    """
    if bar_size_s not in (60, 300, 3600):
        raise SessionError(
            f"--bar-size-s {bar_size_s}: a generated session has bars of 60, 300 or 3600 seconds"
        )
    if not 1 <= len(symbols) <= MAX_SYMBOLS or len(set(symbols)) != len(symbols):
        raise SessionError(f"--symbols: give 1 to {MAX_SYMBOLS} different symbols, not {len(symbols)}")
    if not 1 <= days <= MAX_DAYS:
        raise SessionError(f"--days {days}: a generated session has 1 to {MAX_DAYS} days")
    if seed < 0:
        raise SessionError(f"--seed {seed}: must be 0 or more")
    bars_per_day = -(-_DAY_MINUTES * 60 // bar_size_s)
    history_days = max(2, -(-_MIN_HISTORY_BARS // bars_per_day))
    dates = _weekdays_until(SESSION_DATE, history_days + days)
    step_s = step_seconds(bar_size_s)
    time_ns = np.concatenate([_day_times(day, step_s) for day in dates])
    starts, bar_at = _bar_edges(dates, bar_size_s, step_s)
    ends = np.minimum(starts + bar_size_s * NS_PER_S, time_ns[bar_at[1:] - 1] + step_s * NS_PER_S)
    first = history_days * bars_per_day

    common = np.random.default_rng([seed, 0]).standard_normal((len(dates), _DAY_MINUTES * _STEPS_PER_MINUTE))
    series = []
    for symbol in symbols:
        con_id = synthetic_con_id(symbol)
        rng = np.random.default_rng([seed, con_id])
        paths = _paths(rng, common, time_ns, bar_at)
        price, size = paths.trade, paths.trade_size
        series.append(
            Series(
                instrument=Instrument(con_id, symbol, "USD", MIN_TICK),
                start_ns=starts,
                end_ns=ends,
                open=price[bar_at[:-1]],
                high=np.maximum.reduceat(price, bar_at[:-1]),
                low=np.minimum.reduceat(price, bar_at[:-1]),
                close=price[bar_at[1:] - 1],
                volume=np.add.reduceat(size, bar_at[:-1]),
                first=first,
                paths=paths,
            )
        )
    identity = f"generated/1/{seed}/{bar_size_s}/{days}/{','.join(symbols)}"
    return Session(
        source="generated",
        bar_size_s=bar_size_s,
        zone=ZONE,
        series=tuple(series),
        fingerprint=hashlib.sha256(identity.encode()).hexdigest(),
        seed=seed,
        slots=timeline(series, bar_size_s, ZONE),
    )


def _weekdays_until(last: date, count: int) -> list[date]:
    days: list[date] = []
    day = last
    while len(days) < count:
        if day.weekday() < 5:
            days.append(day)
        day -= timedelta(days=1)
    return days[::-1]


def _day_start_ns(day: date) -> int:
    return int(datetime.combine(day, _OPEN, ZoneInfo(ZONE)).timestamp()) * NS_PER_S


def _day_times(day: date, step_s: int) -> Ints:
    return _day_start_ns(day) + np.arange(_DAY_MINUTES * 60 // step_s, dtype=np.int64) * step_s * NS_PER_S


def _bar_edges(dates: Sequence[date], bar_size_s: int, step_s: int) -> tuple[Ints, Ints]:
    day_steps = _DAY_MINUTES * 60 // step_s
    offsets = np.arange(0, _DAY_MINUTES * 60, bar_size_s, dtype=np.int64)
    starts = np.concatenate([_day_start_ns(day) + offsets * NS_PER_S for day in dates])
    edges = [index * day_steps + offsets // step_s for index in range(len(dates))]
    return starts, np.append(np.concatenate(edges), len(dates) * day_steps)


def _season() -> Floats:
    """Return the U-shape over the minutes of a day; mean 1, high at the open and the close."""
    x = np.linspace(0.0, 1.0, _DAY_MINUTES)
    shape = 0.62 + 1.5 * np.exp(-x / 0.07) + 0.9 * np.exp(-(1 - x) / 0.08)
    return np.asarray(shape / shape.mean(), np.float64)


def _paths(rng: np.random.Generator, common: Floats, time_ns: Ints, bar_at: Ints) -> GeneratedPaths:
    days = len(common)
    per_day = _DAY_MINUTES * _STEPS_PER_MINUTE
    daily_volatility = rng.uniform(0.012, 0.020)
    own = rng.standard_normal((days, per_day))
    noise = np.sqrt(_COMMON_SHARE) * common + np.sqrt(1 - _COMMON_SHARE) * own
    variance = _garch(noise)
    season = np.repeat(_season(), _STEPS_PER_MINUTE)
    scale = daily_volatility / np.sqrt(per_day)
    volatility = np.sqrt(variance * season[None, :])
    returns = noise * volatility * scale
    returns[1:, 0] += rng.standard_normal(days - 1) * daily_volatility * 0.5

    mid = rng.uniform(90, 320) * np.exp(np.cumsum(returns.ravel()))
    wide_probability = np.clip(0.12 * volatility.ravel(), 0.05, 0.6)
    spread_ticks = np.where(rng.random(mid.size) < wide_probability, 2, 1)
    bid_ticks = np.maximum(1, np.floor(mid / MIN_TICK - spread_ticks / 2 + 0.5)).astype(np.int64)
    ask_ticks = bid_ticks + spread_ticks

    quiet = rng.random(mid.size) < _QUIET_STEP_PROBABILITY
    quiet[bar_at[:-1]] = False
    buyer = rng.random(mid.size) < 0.5 + 0.2 * np.sign(returns.ravel())
    trade_ticks = np.where(buyer, ask_ticks, bid_ticks)
    # A step without a print keeps the last price, so that highs and lows see printed prices only.
    last_printed = np.maximum.accumulate(np.where(quiet, 0, np.arange(mid.size)))
    trade_ticks = trade_ticks[last_printed]

    daily_volume = rng.uniform(2e7, 6e7)
    activity = season[None, :] * variance**0.5
    burst = rng.lognormal(-0.32, 0.8, mid.size)
    trade_size = np.maximum(1, np.floor(daily_volume / per_day * activity.ravel() * burst))
    touch = rng.uniform(300, 900)

    def displayed() -> Floats:
        lots = np.maximum(1, np.floor(touch / 100 * rng.lognormal(-0.18, 0.6, mid.size)))
        return np.asarray(lots * 100.0, np.float64)

    return GeneratedPaths(
        time_ns=time_ns,
        bid=np.round(bid_ticks * MIN_TICK, 2),
        bid_size=displayed(),
        ask=np.round(ask_ticks * MIN_TICK, 2),
        ask_size=displayed(),
        trade=np.round(trade_ticks * MIN_TICK, 2),
        trade_size=np.where(quiet, 0.0, trade_size),
        bar_at=bar_at,
    )


def _garch(noise: Floats) -> Floats:
    """Return the variance of each step from (days, steps) standard normal noise; mean about 1."""
    minutes = noise.reshape(-1, _STEPS_PER_MINUTE).sum(axis=1) / np.sqrt(_STEPS_PER_MINUTE)
    variance = np.empty(len(minutes))
    level = 1.0
    for index, shock in enumerate(minutes.tolist()):
        variance[index] = level
        level = (1 - _ALPHA - _BETA) + level * (_ALPHA * shock * shock + _BETA)
    return np.asarray(np.repeat(variance, _STEPS_PER_MINUTE).reshape(noise.shape), np.float64)
