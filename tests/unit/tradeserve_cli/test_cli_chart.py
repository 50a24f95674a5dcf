from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tradeserve_cli.arguments import UsageError
from tradeserve_cli.bar_file import read_bars
from tradeserve_cli.command_line import main

NEW_YORK = ZoneInfo("America/New_York")
S = 1_000_000_000
OPENS_S = 1_741_786_200  # 2025-03-12 09:30 in New York


def write(folder: Path, content: str, name: str = "bars.csv") -> Path:
    path = folder / name
    path.write_text(content)
    return path


@pytest.mark.parametrize(
    "times",
    [
        ("2025-03-12T13:30:00Z", "2025-03-12T13:35:00+00:00"),
        ("2025-03-12T09:30", "2025-03-12 09:35:00"),
        (str(OPENS_S), str(OPENS_S + 300)),
        (f"{OPENS_S}000", f"{OPENS_S + 300}000"),
        (f"{OPENS_S}000000000", f"{OPENS_S + 300}000000000"),
        (f"{OPENS_S}.0", f"{OPENS_S + 300}.0"),
    ],
)
def test_times_are_read_as_sessions_read_them(tmp_path: Path, times: tuple[str, str]) -> None:
    rows = "".join(f"{time},10,12,9,11\n" for time in reversed(times))
    symbol, bars = read_bars(write(tmp_path, f"time,open,high,low,close\n{rows}"), "", NEW_YORK)
    assert symbol == ""
    assert [(bar.start_ns, bar.end_ns) for bar in bars] == [
        (OPENS_S * S, (OPENS_S + 300) * S),
        ((OPENS_S + 300) * S, (OPENS_S + 600) * S),
    ]
    assert {bar.volume for bar in bars} == {0.0}


def test_days_are_sessions_and_ends_of_bars_are_ends(tmp_path: Path) -> None:
    daily = write(tmp_path, "date,open,high,low,close\n2025-03-12,1,1,1,1\n2025-03-13,1,1,1,1\n")
    _, bars = read_bars(daily, "", NEW_YORK)
    assert (bars[0].start_ns, bars[0].end_ns) == (OPENS_S * S, (OPENS_S + 23_400) * S)
    ends = write(
        tmp_path, "ts_et_end,open,high,low,close\n2025-03-12T09:31,1,1,1,1\n2025-03-12T09:32,1,1,1,1\n"
    )
    _, bars = read_bars(ends, "", NEW_YORK)
    assert (bars[0].start_ns, bars[0].end_ns) == (OPENS_S * S, (OPENS_S + 60) * S)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no row of bars"),
        ("time,open,high,low\n1,1,1,1\n", "column 'close' is missing"),
        ("open,high,low,close\n1,1,1,1\n", "column 'time' is missing"),
        ("time,open,high,low,close\nsoon,1,1,1,1\n", "row 2: column 'time': 'soon' is no ISO-8601 time"),
        ("time,open,high,low,close\nnan,1,1,1,1\n", "row 2: column 'time': 'nan' is no time since 1970"),
        ("time,open,high,low,close\n5,1,much,1,1\n", "row 2: column 'high': 'much' is no number"),
        ("time,open,high,low,close\n2000000,1,0.5,1,1\n", "row 2: open 1.0, close 1.0 must lie from low"),
        (
            "time,open,high,low,close\n2000000,1,1,1,1\n2000000,1,1,1,1\n",
            "2000000 begins before the bar before it ends",
        ),
        (
            "symbol,time,open,high,low,close\nA,5,1,1,1,1\nB,5,1,1,1,1\n",
            "holds A, B: choose one with --symbol",
        ),
    ],
)
def test_a_wrong_file_is_named_with_row_and_column(tmp_path: Path, content: str, words: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UsageError) as raised:
        read_bars(path, "", NEW_YORK)
    assert str(raised.value).startswith(f"{path}: ")
    assert words in str(raised.value)


def test_the_command_draws_the_last_bars_of_a_symbol(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"{name},{60 * index},10,12,9,11,5\n" for index in range(40) for name in ("A", "B"))
    path = write(tmp_path, f"symbol,time,open,high,low,close,volume\n{rows}")
    out = tmp_path / "chart.png"
    assert (
        main(["chart", str(path), "--symbol", "B", "--bars", "30", "--averages", "5", "--out", str(out)]) == 0
    )
    assert capsys.readouterr().out == f"{out}: 30 bars, {out.stat().st_size} bytes\n"
    content = out.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert (content[16:20], content[20:24]) == ((960).to_bytes(4, "big"), (640).to_bytes(4, "big"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--symbol", "C"], "--symbol C: not in the file, which has A"),
        (["--time-zone", "Mars"], "time_zone is 'Mars'"),
        (["--mark", "stop=900"], "marks[0].price is 900.0"),
        (["--style", "bare", "--mark", "stop=10"], "the bare style shows none"),
        (["--out", "no/such/folder/x.png"], "can't be written"),
    ],
)
def test_what_cannot_be_drawn_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    path = write(tmp_path, "symbol,time,open,high,low,close\nA,0,10,12,9,11\nA,60,10,12,9,11\n")
    assert main(["chart", str(path), "--out", str(tmp_path / "x.png"), *options]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("mark", ["stop", "stop=much", "halt=5"])
def test_a_mark_is_a_kind_and_a_price(capsys: pytest.CaptureFixture[str], mark: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["chart", "x.csv", "--mark", mark])
    assert ended.value.code == 2
    assert "is not KIND=PRICE; kinds are buy, sell, stop, limit" in capsys.readouterr().err
