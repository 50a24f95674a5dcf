from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model_export.data import (
    DAILY,
    HOURLY,
    MINUTE_2024,
    SOURCES,
    Series,
    Source,
    _aggregate,
    _read,
    _stretches,
    load_series,
)
from model_export.errors import DataError


def local(*parts: int) -> datetime:
    """Return a time without a zone, as the hourly set stores New York's."""
    return datetime(*parts)  # type: ignore[arg-type] # noqa: DTZ001


def write(
    data_dir: Path,
    source: Source,
    times: dict[str, list[object]],
    closes: list[float],
    **changes: list[float],
) -> None:
    folder = data_dir / source.folder
    folder.mkdir(parents=True, exist_ok=True)
    columns = {
        "symbol": pa.array(["AAA"] * len(closes), pa.large_string()),
        **times,
        "open": closes,
        "high": [c + 1 for c in closes],
        "low": [c - 1 for c in closes],
        "close": closes,
        "volume": [100] * len(closes),
        **changes,
    }
    pq.write_table(pa.table(columns), folder / source.file)


def hours(source: Source, values: list[datetime]) -> dict[str, list[object]]:
    return {"ts": pa.array(values, pa.timestamp("us", "UTC" if source is MINUTE_2024 else None))}


def test_missing_data_names_every_set_its_licence_and_its_origin(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_series(tmp_path)
    for source in SOURCES:
        assert source.folder in str(caught.value)
        assert source.licence in str(caught.value)
    assert "--data" in str(caught.value)


def test_no_unlicensed_set_is_read() -> None:
    assert {s.folder for s in SOURCES} == {
        "bars_1min_us_2024",
        "lean_sample",
        "bars_hour_us_1998_2021",
        "daily_us_1999_2017",
    }


def test_hourly_times_are_new_york_times_in_summer_and_winter(tmp_path: Path) -> None:
    write(tmp_path, HOURLY, hours(HOURLY, [local(2010, 1, 5, 10), local(2010, 7, 6, 10)]), [10.0, 11.0])
    (series,) = _read(HOURLY, tmp_path)
    assert [datetime.fromtimestamp(t / 1e9, UTC).hour for t in series.start_ns] == [15, 14]


def test_a_daily_bar_is_known_at_the_close_in_new_york(tmp_path: Path) -> None:
    write(tmp_path, DAILY, {"date": [date(2010, 1, 5), date(2010, 7, 6)]}, [10.0, 11.0])
    (series,) = _read(DAILY, tmp_path)
    assert [datetime.fromtimestamp(t / 1e9, UTC).hour for t in series.end_ns] == [21, 20]


def test_minutes_outside_regular_hours_are_left_out(tmp_path: Path) -> None:
    minutes = [datetime(2024, 1, 3, h, m, tzinfo=UTC) for h, m in ((14, 29), (14, 30), (20, 59), (21, 0))]
    write(tmp_path, MINUTE_2024, hours(MINUTE_2024, minutes), [10.0, 11.0, 12.0, 13.0])
    one_minute, five_minutes = _read(MINUTE_2024, tmp_path)
    assert one_minute.bars[:, 3].tolist() == [11.0, 12.0]
    assert (one_minute.bar_size_s, five_minutes.bar_size_s) == (60, 300)


def test_five_minute_bars_join_the_minutes_that_traded() -> None:
    start = np.asarray([0, 60, 240, 300, 900], np.int64) * 10**9
    bars = np.asarray(
        [[1, 5, 1, 2, 10], [2, 9, 2, 3, 10], [3, 4, 0.5, 4, 10], [7, 8, 6, 7, 1], [8, 8, 8, 8, 2]], float
    )
    begin, end, joined = _aggregate(start, bars, 300)
    assert begin.tolist() == [0, 300 * 10**9, 900 * 10**9]
    assert (end - begin).tolist() == [300 * 10**9] * 3
    assert joined.tolist() == [[1, 9, 0.5, 4, 30], [7, 8, 6, 7, 1], [8, 8, 8, 8, 2]]


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [("close", float("nan"), "not finite"), ("low", -1.0, "price <= 0"), ("volume", -5, "volume < 0")],
)
def test_a_bad_value_names_the_file_and_the_symbol(
    tmp_path: Path, column: str, value: float, words: str
) -> None:
    times = hours(HOURLY, [local(2010, 1, 5, 10), local(2010, 1, 5, 11)])
    write(tmp_path, HOURLY, times, [10.0, 11.0], **{column: [10.0 if column != "volume" else 10, value]})
    with pytest.raises(DataError, match=f"{HOURLY.file}: AAA .*{words}"):
        list(_read(HOURLY, tmp_path))


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    folder = tmp_path / HOURLY.folder
    folder.mkdir()
    pq.write_table(pa.table({"symbol": ["AAA"], "ts": [local(2010, 1, 5)]}), folder / HOURLY.file)
    with pytest.raises(DataError, match="close, high, low, open, volume"):
        list(_read(HOURLY, tmp_path))


def test_two_rows_for_one_time_are_refused(tmp_path: Path) -> None:
    write(tmp_path, HOURLY, hours(HOURLY, [local(2010, 1, 5, 10)] * 2), [10.0, 11.0])
    with pytest.raises(DataError, match="two rows for one time"):
        list(_read(HOURLY, tmp_path))


def test_a_split_in_raw_prices_cuts_a_series_and_one_in_adjusted_prices_does_not(
    make_series: Callable[..., Series],
) -> None:
    for bar_size_s, parts in ((3600, 2), (86400, 1)):
        series = make_series(100, bar_size_s)
        series.bars[40:, :4] /= 2
        cut = list(_stretches(series))
        assert len(cut) == parts
        assert sum(len(c) for c in cut) == 100
    assert len(list(_stretches(make_series(100, 3600)))) == 1


def test_a_hole_of_weeks_cuts_a_series(make_series: Callable[..., Series]) -> None:
    series = make_series(100, 3600)
    series.start_ns[50:] += 21 * 86_400 * 10**9
    series.end_ns[50:] += 21 * 86_400 * 10**9
    assert [len(c) for c in _stretches(series)] == [50, 50]
