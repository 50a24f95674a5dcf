"""Names and numbers as a prompt shows them: few characters, always the same, never an instruction."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from vision_prompt.errors import PromptError

UNNAMED = "unnamed"
MOST_PRICE = 1e9
MOST_DECIMALS = 6
_MOST_FIGURE = 999_999_999.0
_MOST_BPS = 99_999.0
_SYMBOL = re.compile(r"[A-Z0-9]{1,8}(?:[.\- ][A-Z0-9]{1,4})?")
_NOT_SYMBOLS = frozenset({"BUY", "SELL", "HOLD", "SYSTEM", "USER", "IGNORE"})
_MOST_NAME_CHARACTERS = 32
# Indicator names are made of these words and of numbers, so that no sentence can be one.
_WORDS = frozenset(
    (
        *("adx", "atr", "average", "band", "bands", "bars", "bollinger", "bps", "change", "close", "day"),
        *("days", "distance", "drawdown", "ema", "high", "imbalance", "low", "lower", "ma", "macd", "mean"),
        *("minute", "minutes", "momentum", "move", "obv", "open", "pct", "percent", "position", "price"),
        *("range", "ratio", "realized", "return", "roc", "rsi", "score", "share", "sigma", "signal", "skew"),
        *("slope", "sma", "spread", "std", "stochastic", "trend", "true", "upper", "vol", "volatility"),
        *("volume", "vwap", "width", "z", "zscore"),
    )
)
_NUMBER = re.compile(r"[0-9]{1,4}")
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"))
_MOST_BAR_S = 366 * 86_400
_NS_PER_S = 1_000_000_000
_DAY_S = 86_400
_LAST_NS = 4_102_444_800 * _NS_PER_S  # 2100


def symbol_text(symbol: str) -> str:
    """Return a symbol if it looks like one ("BRK B", "EUR.USD"), else "unnamed"."""
    fits = _SYMBOL.fullmatch(symbol) is not None and symbol not in _NOT_SYMBOLS
    return symbol.replace(" ", ".") if fits else UNNAMED


def is_indicator_name(name: str) -> bool:
    """Return whether a name consists of known words and short numbers: "rsi_14", "atr_14_bps"."""
    if len(name) > _MOST_NAME_CHARACTERS:
        return False
    words = name.split("_")
    return words[0] in _WORDS and all(word in _WORDS or _NUMBER.fullmatch(word) is not None for word in words)


def finite(field: str, value: float) -> float:
    """Return the value.

    Raises:
        PromptError: It is not finite.
    """
    if not math.isfinite(value):
        raise PromptError(field, f"is {value!r}; a finite number is needed")
    return float(value)


def price_decimals(step: float) -> int:
    """Return how many decimals tell prices apart that lie `step` from each other, 0 to 6."""
    return min(max(math.ceil(-math.log10(step)) + 1, 0), MOST_DECIMALS)


def price_text(price: float, decimals: int) -> str:
    """Return a price with a fixed number of decimals."""
    return f"{price:.{decimals}f}"


def figure_text(field: str, value: float) -> str:
    """Return a figure with three or four digits that count, at most 999999999 to either side of 0."""
    bounded = min(max(finite(field, value), -_MOST_FIGURE), _MOST_FIGURE)
    size = abs(bounded)
    decimals = 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 1 else 4
    text = f"{bounded:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def bps_text(field: str, value: float) -> str:
    """Return basis points with their sign, at most 99999 to either side of 0."""
    bounded = min(max(finite(field, value), -_MOST_BPS), _MOST_BPS)
    text = f"{bounded:+.1f}"
    return "+0.0" if float(text) == 0 else text


def bar_text(bar_s: int) -> str:
    """Return the length of a bar: "5m", "1h", "1d", "30s".

    Raises:
        PromptError: It is not a number of seconds from 1 to a year.
    """
    if not 1 <= bar_s <= _MOST_BAR_S:
        raise PromptError("bar_s", f"is {bar_s!r}; 1 to {_MOST_BAR_S} is needed")
    for unit_s, unit in _UNITS:
        if bar_s % unit_s == 0:
            return f"{bar_s // unit_s}{unit}"
    return f"{bar_s}s"


def time_text(field: str, at_ns: int, bar_s: int) -> str:
    """Return a time in UTC; only the day for bars of a day and longer.

    Raises:
        PromptError: It lies before 1970 or after 2099.
    """
    if not 0 <= at_ns < _LAST_NS:
        raise PromptError(field, f"is {at_ns!r}; nanoseconds from 1970 to 2099 are needed")
    at = datetime.fromtimestamp(at_ns // _NS_PER_S, tz=UTC)
    return at.strftime("%Y-%m-%d" if bar_s >= _DAY_S else "%Y-%m-%d %H:%M")
