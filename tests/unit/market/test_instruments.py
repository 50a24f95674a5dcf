from __future__ import annotations

import pytest

from market.instruments import synthetic_con_id


def test_a_symbol_always_gets_the_same_marked_positive_number() -> None:
    assert synthetic_con_id("AAPL") == 1588874594  # a stored index and journal depend on it
    for symbol in ("AAPL", "MSFT", "BRK-B", "é"):
        number = synthetic_con_id(symbol)
        assert 0x40000000 <= number <= 0x7FFFFFFF
    assert synthetic_con_id("AAPL") != synthetic_con_id("MSFT")


def test_no_symbol_is_an_error() -> None:
    with pytest.raises(ValueError, match="symbol"):
        synthetic_con_id("")
