import dataclasses
import math

import numpy as np
import pytest

from market.events import Bar
from market.windows import BarWindow, Gap

MINUTE = 60_000_000_000


def bar(index: int, close: float = 10.0, con_id: int = 1) -> Bar:
    return Bar(
        con_id, index * MINUTE, (index + 1) * MINUTE, close, close + 1, close - 1, close, 100.0 + index
    )


def test_a_window_is_ready_when_it_is_full_and_then_slides() -> None:
    window = BarWindow(3)
    for index in range(3):
        assert not window.ready
        assert window.append(bar(index, close=10.0 + index)) is None
    assert window.ready
    assert window.as_array()[:, 3].tolist() == [10.0, 11.0, 12.0]
    window.append(bar(3, close=13.0))
    window.append(bar(4, close=14.0))
    array = window.as_array()
    assert array[:, 3].tolist() == [12.0, 13.0, 14.0]
    assert array[:, 4].tolist() == [102.0, 103.0, 104.0]
    assert array.shape == (3, 5)
    assert array.dtype == np.float32
    assert array.flags["C_CONTIGUOUS"]


def test_an_array_handed_out_does_not_change_later() -> None:
    window = BarWindow(2)
    window.append(bar(0))
    window.append(bar(1))
    before = window.as_array()
    kept = before.copy()
    window.append(bar(2, close=99.0))
    assert np.array_equal(before, kept)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (bar(1), "duplicate"),
        (bar(0), "out of order"),
        (dataclasses.replace(bar(1), end_ns=3 * MINUTE), "out of order"),
        (bar(2, con_id=2), "other instrument"),
        (dataclasses.replace(bar(2), close=math.nan), "invalid: close"),
        (dataclasses.replace(bar(2), high=math.inf), "invalid: high"),
        (dataclasses.replace(bar(2), low=10.5), "invalid: open"),
        (dataclasses.replace(bar(2), volume=-1.0), "invalid: volume"),
        (dataclasses.replace(bar(2), end_ns=2 * MINUTE), "invalid: end_ns"),
        (dataclasses.replace(bar(2), low=0.0), "invalid: low"),
    ],
)
def test_a_wrong_bar_is_rejected_with_its_reason_and_changes_nothing(wrong: Bar, reason: str) -> None:
    window = BarWindow(2)
    window.append(bar(0))
    window.append(bar(1))
    before = window.as_array()
    problem = window.append(wrong)
    assert problem is not None
    assert problem.startswith(reason)
    assert np.array_equal(window.as_array(), before)
    assert window.last_bar == bar(1)


def test_a_gap_is_reported_while_it_is_inside_the_window() -> None:
    window = BarWindow(2)
    window.append(bar(0))
    window.append(bar(5))
    assert window.gaps == (Gap(MINUTE, 5 * MINUTE),)
    assert window.gaps[0].duration_ns == 4 * MINUTE
    window.append(bar(6))
    assert len(window.gaps) == 0


def test_a_window_that_is_not_full_or_has_no_size_says_so() -> None:
    with pytest.raises(ValueError, match="0 of 2 bars"):
        BarWindow(2).as_array()
    with pytest.raises(ValueError, match="window_bars is 0"):
        BarWindow(0)


def test_a_cleared_window_takes_any_bar_again() -> None:
    window = BarWindow(1)
    window.append(bar(7))
    window.clear()
    assert not window.ready
    assert window.append(bar(2, con_id=9)) is None
    assert window.as_array()[0, 4] == 102.0
