from __future__ import annotations

import struct
import zlib
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from market.chart import columns_of, encode_png
from market.chart.font import HEIGHT_PX, text_mask, text_width
from market.chart.scales import needed_decimals, number_text, round_ticks, short_text, spread
from market.chart.time_axis import TimeAxis, time_axis
from market.events import Bar

S = 1_000_000_000
NEW_YORK = ZoneInfo("America/New_York")


def axis(starts: list[str], size_s: int, most: int = 9, zone: ZoneInfo = NEW_YORK) -> TimeAxis:
    begins = [int(datetime.fromisoformat(start).replace(tzinfo=zone).timestamp()) for start in starts]
    bars = [Bar(1, at * S, (at + size_s) * S, 1, 1, 1, 1, 0) for at in begins]
    return time_axis(columns_of(bars), zone, most)


def days(count: int, start: str = "2024-11-20") -> list[str]:
    first = np.datetime64(start)
    return [f"{np.busday_offset(first, index, roll='forward')}T09:30" for index in range(count)]


@pytest.mark.parametrize(
    ("low", "high", "most", "texts"),
    [
        (180.6, 185.2, 10, ["181.0", "181.5", "182.0", "182.5", "183.0", "183.5", "184.0", "184.5", "185.0"]),
        (0.0, 1.0, 5, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (63_590.0, 64_410.0, 5, ["63600", "63800", "64000", "64200", "64400"]),
        (1.0741, 1.0885, 8, ["1.076", "1.078", "1.080", "1.082", "1.084", "1.086", "1.088"]),
        (0.0, 1e9, 2, ["0", "500000000", "1000000000"]),
        (0.0, 3e-9, 3, ["0.000000000", "0.000000001", "0.000000002", "0.000000003"]),
        (-5.0, 12.0, 2, ["0", "10"]),
    ],
)
def test_price_ticks_are_round_and_written_without_binary_noise(low, high, most, texts) -> None:
    found = round_ticks(low, high, most)
    assert [tick.text for tick in found.ticks] == texts
    for tick in found.ticks:
        assert tick.value == pytest.approx(float(tick.text), rel=1e-15)


def test_numbers_are_written_with_the_decimals_asked_for() -> None:
    assert number_text(182.985, 2) == "182.98"
    assert number_text(0.5, 0) == "0"
    assert number_text(0.04, 1) == "0.0"
    assert number_text(-0.06, 1) == "-0.1"
    assert number_text(1e9, 2) == "1000000000.00"


def test_prices_get_the_decimals_they_need() -> None:
    assert needed_decimals(np.array([182.99, 183.0]), 0) == 2
    assert needed_decimals(np.array([1.08783, 1.087]), 3) == 5
    assert needed_decimals(np.array([182.99, 183.01], dtype=np.float32).astype(np.float64), 1) == 2
    assert needed_decimals(np.array([1 / 3, 2 / 3]), 2) == 4
    assert needed_decimals(np.array([27.95] * 9 + [28.095]), 1) == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.25, "0.25"),
        (7, "7"),
        (950, "950"),
        (1250, "1.25K"),
        (1.5e6, "1.5M"),
        (2e9, "2B"),
        (1e18, "1000000T"),
    ],
)
def test_volumes_are_written_short(value: float, text: str) -> None:
    assert short_text(value) == text


def test_labels_move_apart_and_stay_inside() -> None:
    assert spread([10, 12, 50], 11, 0, 100) == [5, 16, 50]
    assert spread([40, 42, 44], 11, 0, 100) == [31, 42, 53]
    assert spread([85, 90, 95], 11, 0, 100) == [67, 78, 89]
    assert spread([-5], 11, 0, 100) == [0]
    assert spread([5, 5, 5], 11, 0, 20) == [0, 11, 22]
    assert spread([], 11, 0, 20) == []


def test_times_within_a_day_stand_at_round_times_over_their_date() -> None:
    found = axis([f"2025-03-12T{9 + (30 + 5 * i) // 60:02}:{(30 + 5 * i) % 60:02}" for i in range(60)], 300)
    assert [label.text for label in found.labels] == ["10:00", "11:00", "12:00", "13:00", "14:00"]
    assert [label.text for label in found.context] == ["Mar 12, 2025"]
    assert found.bar_size == "5 min"
    assert found.period == "2025-03-12 09:30 to 14:30"
    assert found.breaks == found.pauses == ()


def test_a_new_day_and_missing_time_are_told_apart() -> None:
    found = axis(
        ["2025-03-12T15:50", "2025-03-12T15:55", "2025-03-13T09:30", "2025-03-13T09:45", "2025-03-13T09:50"],
        300,
    )
    assert found.breaks == (2,)
    assert found.pauses == (3,)
    assert [label.text for label in found.context] == ["Mar 12, 2025", "Mar 13"]
    assert found.period == "2025-03-12 15:50 to 2025-03-13 09:55"


def test_days_are_labelled_by_date_or_month_over_their_year() -> None:
    few, many = axis(days(6), 23_400), axis(days(60), 23_400)
    assert [label.text for label in few.labels] == [
        "Nov 20",
        "Nov 21",
        "Nov 22",
        "Nov 25",
        "Nov 26",
        "Nov 27",
    ]
    assert [label.text for label in many.labels] == ["Dec", "Jan", "Feb"]
    assert [(label.bar, label.text) for label in many.context] == [(0, "2024"), (30, "2025")]
    assert many.bar_size == "1 day"
    assert many.period == "2024-11-20 to 2025-02-11"
    assert many.breaks == many.pauses == ()


def test_years_need_no_context() -> None:
    found = axis([f"{1990 + index}-01-02T00:00" for index in range(30)], 360 * 86_400)
    assert [label.text for label in found.labels] == ["1995", "2000", "2005", "2010", "2015"]
    assert found.context == ()
    assert found.bar_size == "1 year"


@pytest.mark.parametrize(
    ("starts", "size_s", "name"),
    [
        (["2025-03-12T09:30:00", "2025-03-12T09:30:05"], 5, "5 s"),
        (["2025-03-12T09:30", "2025-03-12T09:31"], 60, "1 min"),
        (["2025-03-12T09:30", "2025-03-12T10:30"], 3600, "1 h"),
        (["2025-03-12T00:00", "2025-03-13T00:00"], 86_400, "1 day"),
        (["2025-03-10T00:00", "2025-03-17T00:00"], 5 * 86_400, "1 week"),
        (["2025-03-01T00:00", "2025-04-01T00:00"], 28 * 86_400, "1 month"),
    ],
)
def test_the_size_of_bars_is_named(starts: list[str], size_s: int, name: str) -> None:
    assert axis(starts, size_s).bar_size == name


def test_clocks_that_change_within_the_chart_are_followed() -> None:
    before_and_after = axis(["2025-03-07T15:00", "2025-03-10T09:00", "2025-03-31T09:00"], 3600, most=3)
    assert before_and_after.period == "2025-03-07 15:00 to 2025-03-31 10:00"
    autumn = [f"2025-10-{day}T09:00" for day in (20, 21, 22, 23, 24, 27, 28)]
    assert axis(autumn, 3600, zone=ZoneInfo("Europe/London")).period == "2025-10-20 09:00 to 2025-10-28 10:00"


def test_letters_have_their_size_and_unknown_ones_become_question_marks() -> None:
    for text in ("", "A", "183.46", "AAPL 5 min"):
        for scale, bold in ((1, False), (1, True), (3, False), (2, True)):
            mask = text_mask(text, scale, bold=bold)
            assert mask.shape == (HEIGHT_PX * scale, text_width(text, scale, bold=bold))
    assert np.array_equal(text_mask("\N{SNOWMAN}\n"), text_mask("??"))
    assert len({text_width(digit) for digit in "0123456789"}) == 1
    everything = [text_mask(chr(code)).tobytes() for code in range(33, 127)]
    shapes = [text_mask(chr(code)).shape for code in range(33, 127)]
    assert len(set(zip(everything, shapes, strict=True))) == 94, "two glyphs look the same"


def test_a_png_has_the_chunks_and_sums_that_readers_check() -> None:
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    png = encode_png(pixels)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, found = 8, []
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        name, content = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", png, at + 8 + length) == (zlib.crc32(name + content),)
        found.append((name, content))
        at += 12 + length
    assert [name for name, _ in found] == [b"IHDR", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBBBBB", found[0][1]) == (3, 2, 8, 2, 0, 0, 0)
    rows = zlib.decompress(found[1][1])
    assert rows == b"\2" + pixels[0].tobytes() + b"\2" + (pixels[1] - pixels[0]).tobytes()


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 5000, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_not_encoded(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="pixels are"):
        encode_png(pixels)
