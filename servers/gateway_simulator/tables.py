"""Columns of CSV and Parquet files, read so that whatever is wrong names file, column, row and value."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway_simulator import SessionError
from gateway_simulator.session import NS_PER_S, Floats, Ints

MAX_ROWS = 5_000_000
_DAY_NS = 86_400 * NS_PER_S
_EPOCH_LIMITS = ((10**11, NS_PER_S), (10**14, 1_000_000), (10**17, 1_000))


@dataclass(frozen=True, slots=True, eq=False)
class Times:
    """A time column.

    Attributes:
        ns: (rows,) int64: UTC where `zoned`, else the clock on a wall somewhere.
        zoned: Whether the file says which instant is meant.
        dates: Whether they are days without a time.
    """

    ns: Ints
    zoned: bool
    dates: bool


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A file's columns; `first_row` is the number people see for the first one."""

    path: Path
    columns: dict[str, Any]
    first_row: int

    def problem(self, column: str, index: int, value: object, fix: str) -> SessionError:
        """Return the error about one value."""
        return SessionError(f"{self.path}: column {column!r}, row {index + self.first_row}: {value!r} {fix}")

    def find(self, names: Sequence[str]) -> str | None:
        """Return the first of the names that is a column; None when none is."""
        return next((name for name in names if name in self.columns), None)

    def require(self, names: Sequence[str], fix: str = "") -> str:
        """Return the first of the names that is a column.

        Raises:
            SessionError: None is; the message lists what there is.
        """
        found = self.find(names)
        if found is None:
            there = ", ".join(self.columns)
            raise SessionError(
                f"{self.path}: column {names[0]!r} is missing; it has {there}. {fix}".rstrip(" .")
            )
        return found

    def texts(self, column: str) -> NDArray[Any]:
        """Return a column of text; (rows,) str.

        Raises:
            SessionError: A value is missing.
        """
        values = self.columns[column]
        for index, value in enumerate(values):
            if value is None or value == "":
                raise self.problem(column, index, value, "is empty; every row needs a value")
        return np.asarray(values, dtype=np.str_)

    def numbers(self, column: str) -> Floats:
        """Return a column of numbers; (rows,) float64.

        Raises:
            SessionError: A value is none, or is not finite.
        """
        values = self.columns[column]
        try:
            numbers = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            for index, value in enumerate(values):
                if not _is_number(value):
                    raise self.problem(column, index, value, "is not a number") from None
            raise
        bad = np.flatnonzero(~np.isfinite(numbers))
        if len(bad):
            raise self.problem(
                column, int(bad[0]), values[bad[0]], "is not a finite number; drop or fill the row"
            )
        return numbers

    def times(self, column: str) -> Times:
        """Return a time column: ISO-8601 text, days, or epoch numbers in s, ms, us or ns by magnitude.

        Raises:
            SessionError: A value is unreadable, or the column mixes kinds.
        """
        values = self.columns[column]
        if isinstance(values, Times):
            return values
        if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
            return Times(self._epochs(column, values), zoned=True, dates=False)
        first = str(values[0])
        if _is_number(first):
            numbers = self.numbers(column)
            return Times(self._epochs(column, numbers), zoned=True, dates=False)
        if len(first) == len("2025-03-12"):
            return Times(self._parse(column, _date_ns), zoned=False, dates=True)
        zoned = datetime.fromisoformat(first).tzinfo is not None if _is_iso(first) else False
        return Times(self._parse(column, _zoned_ns if zoned else _naive_ns), zoned=zoned, dates=False)

    def _parse(self, column: str, read: Callable[[str], int]) -> Ints:
        values = self.columns[column]
        out = np.empty(len(values), np.int64)
        for index, value in enumerate(values):
            try:
                out[index] = read(str(value))
            except ValueError:
                fix = (
                    "is not a time like the rows before; write ISO-8601, all rows with or all without a zone"
                )
                raise self.problem(column, index, value, fix) from None
        return out

    def _epochs(self, column: str, numbers: NDArray[Any]) -> Ints:
        if not np.isfinite(numbers).all():
            index = int(np.flatnonzero(~np.isfinite(numbers))[0])
            raise self.problem(column, index, numbers[index], "is not a time")
        biggest = float(np.abs(numbers).max())
        scale = next((scale for limit, scale in _EPOCH_LIMITS if biggest < limit), 1)
        if numbers.dtype.kind == "f" and scale != 1:
            return np.asarray(np.round(numbers * scale), np.int64)
        return np.asarray(numbers, np.int64) * scale


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def _is_iso(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _date_ns(text: str) -> int:
    return date.fromisoformat(text).toordinal() * _DAY_NS - date(1970, 1, 1).toordinal() * _DAY_NS


def _zoned_ns(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(text)
    return _datetime_ns(moment)


def _naive_ns(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        raise ValueError(text)
    return _datetime_ns(moment.replace(tzinfo=UTC))


def _datetime_ns(moment: datetime) -> int:
    return int(moment.replace(microsecond=0).timestamp()) * NS_PER_S + moment.microsecond * 1000


def read_table(path: Path) -> Table:
    """Read a CSV or Parquet file, told apart by its suffix.

    Raises:
        SessionError: It is missing, empty, damaged, too big, or neither.
    """
    if not path.is_file():
        raise SessionError(
            f"{path}: there is no such file; --session takes generated, sample, or a file of bars"
        )
    if path.suffix == ".csv":
        table = _read_csv(path)
    elif path.suffix in (".parquet", ".pq"):
        table = _read_parquet(path)
    else:
        raise SessionError(f"{path}: the name must end in .csv or .parquet")
    if not table.columns or not _rows(next(iter(table.columns.values()))):
        raise SessionError(f"{path}: has no rows")
    return table


def _read_csv(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            if not header:
                raise SessionError(f"{path}: is empty; the first line must name the columns")
            rows: list[list[str]] = []
            for row in reader:
                if len(row) != len(header):
                    raise SessionError(
                        f"{path}: row {len(rows) + 2}: has {len(row)} values for {len(header)} columns"
                    )
                rows.append(row)
                if len(rows) > MAX_ROWS:
                    raise _too_big(path)
    except UnicodeDecodeError as error:
        raise SessionError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except csv.Error as error:
        raise SessionError(f"{path}: is not a CSV file: {error}") from error
    columns = {name: list(values) for name, values in zip(header, zip(*rows, strict=True), strict=False)}
    return Table(path, columns, first_row=2)


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise SessionError(
            f"{path}: Parquet needs pyarrow; install tradeserve[cpu], or give a CSV file"
        ) from error
    try:
        file = pq.ParquetFile(path)
        if file.metadata.num_rows > MAX_ROWS:
            raise _too_big(path)
        arrow = file.read()
    except (pa.ArrowException, OSError) as error:
        raise SessionError(f"{path}: is not a readable Parquet file: {error}") from error
    columns = {name: _parquet_column(path, pa, name, arrow.column(name)) for name in arrow.column_names}
    return Table(path, columns, first_row=1)


def _parquet_column(path: Path, pa: Any, name: str, column: Any) -> Any:
    kind = column.type
    is_time = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    if is_time:
        if column.null_count:
            index = next(at for at, value in enumerate(column) if not value.is_valid)
            raise SessionError(f"{path}: column {name!r}, row {index + 1}: is empty; every row needs a time")
        dates = pa.types.is_date(kind)
        zone = None if dates else kind.tz
        ns = column.cast(pa.timestamp("ns", zone)).cast(pa.int64()).to_numpy()
        return Times(np.asarray(ns, np.int64), zoned=zone is not None, dates=dates)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return column.to_numpy()
    return column.to_pylist()


def _too_big(path: Path) -> SessionError:
    return SessionError(
        f"{path}: has more than {MAX_ROWS} rows; cut it to the symbols and days you want to replay"
    )


def _rows(column: Any) -> int:
    return len(column.ns) if isinstance(column, Times) else len(column)
