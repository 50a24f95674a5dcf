"""The bars of a chart as columns, checked once so that drawing never meets a bad number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from market.bars import MAX_PRICE, MAX_VOLUME, MIN_PRICE, NS_PER_S
from market.events import Bar

MIN_BARS = 2
MAX_BARS = 4096

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_PRICES = ("open", "high", "low", "close")
_FIELDS = attrgetter("start_ns", "end_ns", *_PRICES, "volume")


@dataclass(frozen=True, slots=True, eq=False)
class BarColumns:
    """Bars of one instrument, oldest first; all arrays are (bars,).

    Attributes:
        start_ns: Begin of each bar, int64 UTC, growing.
        end_ns: End of each bar; not after the next one's begin.
        open: float64; also high, low, close; 0 < low <= open, close <= high.
        volume: float64, >= 0.

    Raises:
        ValueError: A value is unusable; the message names bar, field and fix.
    """

    start_ns: Ints
    end_ns: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats

    def __post_init__(self) -> None:
        for name in ("start_ns", "end_ns"):
            object.__setattr__(self, name, _column(name, getattr(self, name), np.int64))
        for name in (*_PRICES, "volume"):
            object.__setattr__(self, name, _column(name, getattr(self, name), np.float64))
        self._check()

    def __len__(self) -> int:
        return len(self.close)

    def after(self, first: int) -> BarColumns:
        """Return the bars from number `first` on."""
        part = object.__new__(BarColumns)  # what was checked stays so
        for name in self.__slots__:
            object.__setattr__(part, name, getattr(self, name)[first:])
        return part

    def _check(self) -> None:
        count = len(self.close)
        for name in self.__slots__:
            if getattr(self, name).shape != (count,):
                raise ValueError(
                    f"{name} has shape {getattr(self, name).shape}, close ({count},): one value per bar is needed"
                )
        if not MIN_BARS <= count <= MAX_BARS:
            raise ValueError(
                f"bars: {count} given, {MIN_BARS} to {MAX_BARS} can be drawn; "
                + ("wait for more bars" if count < MIN_BARS else "draw the last ones, or larger bars")
            )
        for name in _PRICES:
            column = getattr(self, name)
            need = f"a price from {MIN_PRICE:g} to {MAX_PRICE:g} is needed: drop or repair the bar"
            _refuse(~((column >= MIN_PRICE) & (column <= MAX_PRICE)), name, column, need)
        # NaN and infinity fail both comparisons above, so the prices can be compared from here on.
        within = "must lie from low to high (have the columns been mixed up?)"
        _refuse(self.high < self.low, "high", self.high, "is below the low; have the columns been mixed up?")
        for name in ("open", "close"):
            column = getattr(self, name)
            _refuse((column < self.low) | (column > self.high), name, column, within)
        need = f"a number from 0 to {MAX_VOLUME:g} is needed; give 0 where it is not known"
        _refuse(~((self.volume >= 0) & (self.volume <= MAX_VOLUME)), "volume", self.volume, need)
        _refuse(self.start_ns < 0, "start_ns", self.start_ns, "must be >= 0, nanoseconds since 1970 UTC")
        _refuse(self.end_ns <= self.start_ns, "end_ns", self.end_ns, "must be after start_ns")
        overlap = np.concatenate(([False], self.start_ns[1:] < self.end_ns[:-1]))
        _refuse(
            overlap, "start_ns", self.start_ns, "lies before the end of the bar before: sort and drop repeats"
        )


def columns_of(bars: Sequence[Bar]) -> BarColumns:
    """Return the columns of bars of one instrument, oldest first.

    Raises:
        ValueError: There are too few or too many, or one is unusable; the message names bar, field and fix.
    """
    if not bars:
        raise ValueError(f"bars: 0 given, {MIN_BARS} to {MAX_BARS} can be drawn; wait for more bars")
    con_ids = [bar.con_id for bar in bars]
    if len(set(con_ids)) > 1:
        index = next(index for index, con_id in enumerate(con_ids) if con_id != con_ids[0])
        raise ValueError(
            f"bars[{index}].con_id is {con_ids[index]}, bars[0] has {con_ids[0]}: one chart shows one instrument"
        )
    start, end, *values = zip(*map(_FIELDS, bars), strict=True)
    return BarColumns(
        *(_column(name, column, np.int64) for name, column in (("start_ns", start), ("end_ns", end))),
        *(
            _column(name, column, np.float64)
            for name, column in zip((*_PRICES, "volume"), values, strict=True)
        ),
    )


def columns_of_window(window: NDArray[Any], *, end_ns: int, bar_size_s: int) -> BarColumns:
    """Return the columns of a model's window, as if its bars had followed one another without a gap.

    Args:
        window: (bars, 5) open, high, low, close, volume (`market.windows.COLUMNS`), oldest first.
        end_ns: End of the last bar.
        bar_size_s: Length of every bar, > 0.

    Raises:
        ValueError: As for `columns_of`; or the shape is another.
    """
    if window.ndim != 2 or window.shape[1] != 5:
        raise ValueError(f"window has shape {window.shape}; (bars, 5) is needed")
    if bar_size_s <= 0:
        raise ValueError(f"bar_size_s is {bar_size_s}; a whole number of seconds > 0 is needed")
    size_ns = bar_size_s * NS_PER_S
    ends = end_ns - size_ns * np.arange(len(window) - 1, -1, -1, dtype=np.int64)
    return BarColumns(ends - size_ns, ends, *window.astype(np.float64).T)


def _column(name: str, values: Any, dtype: Any) -> NDArray[Any]:
    try:
        return np.array(values, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} can't be read as {np.dtype(dtype).name}: {error}") from error


def _refuse(wrong: NDArray[np.bool_], name: str, column: NDArray[Any], need: str) -> None:
    if wrong.any():
        index = int(wrong.argmax())
        raise ValueError(f"bars[{index}].{name} is {column[index].item()!r}: {need}")
