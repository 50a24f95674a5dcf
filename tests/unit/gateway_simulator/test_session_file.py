from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from gateway_simulator import SessionError, tables
from gateway_simulator.session import NS_PER_S
from gateway_simulator.session_choice import Choice
from gateway_simulator.session_file import SAMPLE, read_sample, read_session

HEADER = "symbol,time,open,high,low,close,volume"
CHOICE = Choice(warmup_bars=2)


def row(day: int, minute: int, symbol: str = "AAA", values: str = "10,11,9,10.5,100") -> str:
    return f"{symbol},2025-03-{day:02}T{14 + minute // 60:02}:{minute % 60:02}:00Z,{values}"


def lines(symbol: str = "AAA") -> list[str]:
    return [row(day, minute, symbol) for day in (11, 12) for minute in range(0, 50, 5)]


def write(path: Path, *rows: str, header: str = HEADER, name: str = "bars.csv") -> Path:
    path = path / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_the_last_day_with_history_is_replayed(tmp_path: Path) -> None:
    session = read_session(write(tmp_path, *lines(), *lines("BBB")), CHOICE)
    assert session.source == "recorded: bars.csv"
    assert session.bar_size_s == 300
    assert [series.instrument.symbol for series in session.series] == ["AAA", "BBB"]
    assert len(session.slots) == 10
    assert session.warmup_bars == 10
    assert session.start_ns == 1_741_788_000 * NS_PER_S


def test_rows_in_any_order_give_the_same_session(tmp_path: Path) -> None:
    sorted_session = read_session(write(tmp_path, *lines()), CHOICE)
    shuffled = read_session(write(tmp_path, *reversed(lines()), name="other.csv"), CHOICE)
    assert sorted_session.fingerprint == shuffled.fingerprint


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ((3, row(11, 10, values="10,8,9,10,1")), "column 'high', row 4: 8.0 is below the low"),
        (
            (3, row(11, 10, values="10,10.1,9,10.5,1")),
            "column 'high', row 4: 10.1 is below the open or the close",
        ),
        (
            (3, row(11, 10, values="10,11,10.2,10.5,1")),
            "column 'low', row 4: 10.2 is above the open or the close",
        ),
        ((3, row(11, 10, values="10,11,9,10.5,-1")), "column 'volume', row 4: -1.0 is negative"),
        ((3, row(11, 10, values="10,11,9,nan,1")), "column 'close', row 4: 'nan' is not a finite number"),
        ((3, row(11, 10, values="10,11,9,,1")), "column 'close', row 4: '' is not a number"),
        ((3, row(11, 10, values="10,11,9,ten,1")), "column 'close', row 4: 'ten' is not a number"),
        ((3, row(11, 10, values="0,11,0,10,1")), "column 'open', row 4: 0.0 is no price"),
        ((3, row(11, 5)), "rows 3 and 4: the same time twice for AAA"),
        ((3, "AAA,yesterday,10,11,9,10,1"), "column 'time', row 4: 'yesterday' is not a time"),
        (
            (3, "AAA,2025-03-11T14:10:00,10,11,9,10,1"),
            "column 'time', row 4: '2025-03-11T14:10:00' is not a time",
        ),
        ((3, ",2025-03-11T14:10:00Z,10,11,9,10,1"), "column 'symbol', row 4: '' is empty"),
        ((3, "AAA,2025-03-11T14:10:00Z,10,11"), "row 4: has 4 values for 7 columns"),
        ((3, row(11, 7)), "row 4: its bar begins before the one before it ends"),
    ],
)
def test_a_bad_row_is_named_with_its_column_and_value(
    tmp_path: Path, change: tuple[int, str], named: str
) -> None:
    number, text = change
    rows = lines()
    rows[number - 1] = text
    path = write(tmp_path, *rows)
    with pytest.raises(SessionError) as caught:
        read_session(path, CHOICE)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("column", ["time", "open", "high", "low", "close"])
def test_a_missing_column_is_named_with_the_ones_there_are(tmp_path: Path, column: str) -> None:
    header = HEADER.replace(column, "other")
    with pytest.raises(SessionError, match=rf"column '{column}' is missing; it has symbol,.*other"):
        read_session(write(tmp_path, *lines(), header=header), CHOICE)


def test_an_unknown_symbol_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="--symbols ZZZ: not in the file, which has AAA, BBB"):
        read_session(write(tmp_path, *lines(), *lines("BBB")), Choice(symbols=("ZZZ",)))


def test_a_file_without_symbols_needs_one_named(tmp_path: Path) -> None:
    rows = [line.removeprefix("AAA,") for line in lines()]
    path = write(tmp_path, *rows, header=HEADER.removeprefix("symbol,"))
    with pytest.raises(SessionError, match="--symbols NAME"):
        read_session(path, CHOICE)
    session = read_session(path, Choice(symbols=("ONE",), warmup_bars=2))
    assert session.series[0].instrument.symbol == "ONE"


def test_naive_times_need_a_zone_and_mean_it(tmp_path: Path) -> None:
    rows = [line.replace("Z,", ",").replace("T14", "T10") for line in lines()]
    path = write(tmp_path, *rows)
    with pytest.raises(SessionError, match="times without a zone; say which with --time-zone"):
        read_session(path, CHOICE)
    session = read_session(path, Choice(warmup_bars=2, time_zone="America/New_York"))
    assert session.start_ns == 1_741_788_000 * NS_PER_S


@pytest.mark.parametrize("scale", [1, 10**3, 10**6, 10**9])
def test_epoch_numbers_are_read_by_their_magnitude(tmp_path: Path, scale: int) -> None:
    starts = [1_741_701_600 + day * 86_400 + 300 * bar for day in (0, 1) for bar in range(10)]
    rows = [f"AAA,{start * scale},10,11,9,10,5" for start in starts]
    assert read_session(write(tmp_path, *rows), CHOICE).start_ns == (1_741_701_600 + 86_400) * NS_PER_S


def test_times_may_be_the_ends_of_bars(tmp_path: Path) -> None:
    path = write(tmp_path, *lines())
    starts = read_session(path, CHOICE)
    ends = read_session(path, Choice(warmup_bars=2, time_is_end=True))
    assert ends.start_ns == starts.start_ns - 300 * NS_PER_S


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("bars.csv", b"", "is empty"),
        ("bars.csv", b"symbol,time\n", "has no rows"),
        ("bars.csv", b"\xff\xfe\x00", "is not UTF-8"),
        ("bars.parquet", b"not parquet at all", "is not a readable Parquet file"),
        ("bars.txt", b"x", "must end in .csv or .parquet"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, name: str, content: bytes, named: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow, which is not installed")
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SessionError, match=named):
        read_session(path, CHOICE)


def test_a_missing_file_says_what_session_takes(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="--session takes generated, sample, or a file"):
        read_session(tmp_path / "none.csv", CHOICE)


def test_a_file_beyond_the_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_ROWS", 5)
    with pytest.raises(SessionError, match="more than 5 rows"):
        read_session(write(tmp_path, *lines()), CHOICE)


def test_too_little_history_is_named(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="AAA has 10 bars before the session, and 60 are needed"):
        read_session(write(tmp_path, *lines()), Choice())


def test_an_odd_bar_size_says_which_are_possible(tmp_path: Path) -> None:
    rows = [row(day, minute) for day in (11, 12) for minute in range(0, 50, 7)]
    with pytest.raises(SessionError, match="420 s apart; a session has bars of 60, 300, 3600, 86400 s"):
        read_session(write(tmp_path, *rows), CHOICE)


def test_parquet_gives_the_same_session_as_csv(tmp_path: Path) -> None:
    csv_arrow = pytest.importorskip("pyarrow.csv", reason="Parquet needs pyarrow, which is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = write(tmp_path, *lines())
    target = tmp_path / "bars.parquet"
    parquet.write_table(csv_arrow.read_csv(path), target)
    assert read_session(target, CHOICE).fingerprint == read_session(path, CHOICE).fingerprint


def test_recorded_quotes_and_books_replace_the_synthesized_ones(tmp_path: Path) -> None:
    path = write(tmp_path, *lines())
    write(
        tmp_path,
        "AAA,2025-03-12T14:00:00Z,9.99,300,10.03,400",
        header="symbol,time,bid_price,bid_size,ask_price,ask_size",
        name="bars.quotes.csv",
    )
    write(
        tmp_path,
        "AAA,2025-03-12T14:02:00Z,9.98,100,10.04,200,9.97,500,10.05,600",
        header="symbol,time,bid_price_1,bid_size_1,ask_price_1,ask_size_1,bid_price_2,bid_size_2,ask_price_2,ask_size_2",
        name="bars.book.csv",
    )
    steps = read_session(path, CHOICE).series[0].paths.steps(10)
    assert steps[0][1:5] == (9.99, 300, 10.03, 400)
    assert steps[-1].book == (((9.98, 100.0), (9.97, 500.0)), ((10.04, 200.0), (10.05, 600.0)))


def test_crossed_quotes_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, *lines())
    write(
        tmp_path,
        "AAA,2025-03-12T14:00:00Z,10,300,9.9,400",
        header="symbol,time,bid_price,bid_size,ask_price,ask_size",
        name="bars.quotes.csv",
    )
    with pytest.raises(
        SessionError, match=r"bars.quotes.csv: column 'ask_price', row 2: 9.9 is not above the bid"
    ):
        read_session(path, CHOICE)


def test_the_sample_is_real_daily_data_with_its_licence_beside_it() -> None:
    session = read_sample(Choice(warmup_bars=120))
    assert session.source == "sample"
    assert session.bar_size_s == 86_400
    assert [series.instrument.symbol for series in session.series] == ["AAPL", "GOOG", "IBM", "MSFT"]
    assert (session.warmup_bars, len(session.slots)) == (120, 171)
    assert session.daily_hours()[-1][1].date() == date(2013, 3, 1)
    folder = SAMPLE.parent
    assert "Public domain" in (folder / "SOURCE.md").read_text()
    assert "Bokeh Contributors" in (folder / "LICENSE-bokeh_sampledata.txt").read_text()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 200_000


def test_daily_sessions_have_at_most_250_bars_by_default(tmp_path: Path) -> None:
    days = np.arange(np.datetime64("2020-01-01"), np.datetime64("2021-12-31"))
    path = write(tmp_path, *(f"AAA,{day},10,11,9,10,5" for day in days))
    assert len(read_session(path, CHOICE).slots) == 250


SHARED = Path(__file__).parents[4] / "shared" / "data"


@pytest.mark.parametrize(
    ("file", "symbols", "size_s"),
    [
        ("unlicensed/bars_5min_us_2025_2026/bars_5min_open.parquet", ("AAPL", "MSFT", "SPY"), 300),
        ("unlicensed/bars_1min_spy_2024_2025/spy_1min_open.parquet", ("SPY",), 60),
    ],
)
def test_real_recordings_replay(file: str, symbols: tuple[str, ...], size_s: int) -> None:
    pytest.importorskip("pyarrow", reason="Parquet needs pyarrow, which is not installed")
    path = SHARED / file
    if not path.exists():
        pytest.skip("needs the project's recorded sessions in ../shared/data, which are not on this machine")
    session = read_session(path, Choice(symbols=symbols))
    assert session.bar_size_s == size_s
    assert len(session.slots) == 23_400 // size_s
