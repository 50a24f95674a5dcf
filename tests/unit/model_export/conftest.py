"""Small made-up series."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from model_export.data import DAILY, HOURLY, MINUTE_2024, Series

SeriesMaker = Callable[..., Series]


@pytest.fixture
def make_series() -> SeriesMaker:
    def make(
        bars: int, bar_size_s: int = 86400, first_ns: int = 0, seed: int = 1, symbol: str = "AAA"
    ) -> Series:
        rng = np.random.default_rng(seed)
        close = 50 * np.exp(np.cumsum(rng.normal(0, 0.01, bars)))
        columns = np.stack([close, close * 1.004, close * 0.996, close, rng.uniform(1e3, 1e5, bars)], 1)
        start = first_ns + np.arange(bars, dtype=np.int64) * bar_size_s * 10**9
        source = {86400: DAILY, 3600: HOURLY}.get(bar_size_s, MINUTE_2024)
        return Series(
            source, symbol, bar_size_s, start, start + bar_size_s * 10**9, columns.astype(np.float32)
        )

    return make
