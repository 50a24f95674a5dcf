"""Market states with their outcomes: one of them, a table of them, and tables that grow at their end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MIN_ROOM = 16_384


@dataclass(frozen=True, slots=True)
class State:
    """One market state with its outcome.

    Attributes:
        state_id: Unique in the index.
        con_id: What was traded.
        symbol: The same, for people.
        event_ns: Close of its last bar, nanoseconds UTC.
        outcome_ns: When its outcome was known, nanoseconds UTC.
        bar_ns: Length of one bar.
        forward_return_bps: Return over the index's horizon.
    """

    state_id: int
    con_id: int
    symbol: str
    event_ns: int
    outcome_ns: int
    bar_ns: int
    forward_return_bps: float


@dataclass(frozen=True, slots=True)
class StateTable:
    """Market states with their outcomes, one row each.

    Attributes:
        state_id: (n,) int64, unique.
        embedding: (n, dimension) float32, length 1.
        con_id: (n,) int64.
        symbol_id: (n,) int32, place in `symbols`.
        symbols: Every symbol once.
        event_ns: (n,) int64, close of the last bar, nanoseconds UTC.
        outcome_ns: (n,) int64, when the outcome was known, nanoseconds UTC.
        bar_ns: (n,) int64, length of one bar.
        forward_return_bps: (n,) float32.
    """

    state_id: NDArray[np.int64]
    embedding: NDArray[np.float32]
    con_id: NDArray[np.int64]
    symbol_id: NDArray[np.int32]
    symbols: tuple[str, ...]
    event_ns: NDArray[np.int64]
    outcome_ns: NDArray[np.int64]
    bar_ns: NDArray[np.int64]
    forward_return_bps: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.state_id)

    @property
    def dimension(self) -> int:
        """Length of every embedding."""
        return int(self.embedding.shape[1])

    @classmethod
    def of(cls, states: Sequence[State], embeddings: NDArray[np.float32]) -> "StateTable":
        """Return states as a table.

        Args:
            states: Its rows.
            embeddings: (n, dimension) float32, length 1.
        """
        place = {symbol: i for i, symbol in enumerate(dict.fromkeys(state.symbol for state in states))}
        return cls(
            state_id=np.array([s.state_id for s in states], dtype=np.int64),
            embedding=np.ascontiguousarray(embeddings, dtype=np.float32),
            con_id=np.array([s.con_id for s in states], dtype=np.int64),
            symbol_id=np.array([place[s.symbol] for s in states], dtype=np.int32),
            symbols=tuple(place),
            event_ns=np.array([s.event_ns for s in states], dtype=np.int64),
            outcome_ns=np.array([s.outcome_ns for s in states], dtype=np.int64),
            bar_ns=np.array([s.bar_ns for s in states], dtype=np.int64),
            forward_return_bps=np.array([s.forward_return_bps for s in states], dtype=np.float32),
        )

    def rows(self, rows: NDArray[Any]) -> "StateTable":
        """Return a table of some of the rows (places or a mask), copied."""
        columns = {name: column[rows] for name, column in columns_of(self).items()}
        return StateTable(symbols=self.symbols, **columns)

    def in_time_order(self) -> "StateTable":
        """Return the rows in ascending order of outcome_ns; itself when they are."""
        if np.all(self.outcome_ns[1:] >= self.outcome_ns[:-1]):
            return self
        return self.rows(np.argsort(self.outcome_ns, kind="stable"))

    def states(self, rows: NDArray[np.int64]) -> list[State]:
        """Return some rows, one by one."""
        columns = (
            self.state_id[rows].tolist(),
            self.con_id[rows].tolist(),
            [self.symbols[i] for i in self.symbol_id[rows].tolist()],
            self.event_ns[rows].tolist(),
            self.outcome_ns[rows].tolist(),
            self.bar_ns[rows].tolist(),
            self.forward_return_bps[rows].tolist(),
        )
        return [State(*fields) for fields in zip(*columns, strict=True)]


COLUMNS: dict[str, np.dtype[Any]] = {
    "state_id": np.dtype(np.int64),
    "embedding": np.dtype(np.float32),
    "con_id": np.dtype(np.int64),
    "symbol_id": np.dtype(np.int32),
    "event_ns": np.dtype(np.int64),
    "outcome_ns": np.dtype(np.int64),
    "bar_ns": np.dtype(np.int64),
    "forward_return_bps": np.dtype(np.float32),
}


def columns_of(table: StateTable) -> dict[str, NDArray[Any]]:
    """Return the arrays of a table, one value per row, by name."""
    return {name: getattr(table, name) for name in COLUMNS}


def empty_columns(rows: int, dimension: int) -> dict[str, NDArray[Any]]:
    """Return arrays for so many rows, not filled: memory that is not written is not used."""
    shapes: dict[str, tuple[int, ...]] = {"embedding": (rows, dimension)}
    return {name: np.empty(shapes.get(name, (rows,)), dtype) for name, dtype in COLUMNS.items()}


def room_for(count: int) -> int:
    """Return for how many rows memory is set aside behind `count` of them."""
    return max(_MIN_ROOM, count // 4)


class GrowingTable:
    """A table that rows are added to at its end, without copying those that are there.

    Every table that was handed out stays as it is: it does not see rows that came later. Add from
    one thread at a time; read from any.
    """

    def __init__(self, columns: Mapping[str, NDArray[Any]], count: int, symbols: Sequence[str]) -> None:
        """Take over arrays.

        Args:
            columns: As of `empty_columns`; the first `count` rows are filled.
            count: Rows that are filled.
            symbols: What symbol_id counts in.
        """
        self._columns = dict(columns)
        self._count = count
        self._symbols = {symbol: i for i, symbol in enumerate(symbols)}

    @classmethod
    def of(cls, table: StateTable) -> "GrowingTable":
        """Return one that starts with the rows of a table; they are copied when it first grows."""
        return cls(columns_of(table), len(table), table.symbols)

    def table(self) -> StateTable:
        """Return the rows that are there now."""
        columns = {name: column[: self._count] for name, column in self._columns.items()}
        return StateTable(symbols=tuple(self._symbols), **columns)

    def replace(self, table: StateTable) -> None:
        """Hold other rows from now on."""
        self._columns = columns_of(table)
        self._count = len(table)
        self._symbols = {symbol: i for i, symbol in enumerate(table.symbols)}

    def append(self, new: StateTable) -> StateTable:
        """Add rows at the end.

        Returns:
            The table with them.
        """
        first, last = self._count, self._count + len(new)
        if last > len(self._columns["state_id"]):
            larger = empty_columns(last + room_for(last), self._columns["embedding"].shape[1])
            for name, column in larger.items():
                column[:first] = self._columns[name][:first]
            self._columns = larger
        for symbol in new.symbols:
            self._symbols.setdefault(symbol, len(self._symbols))
        place = np.array([self._symbols[symbol] for symbol in new.symbols], dtype=np.int32)
        for name, column in columns_of(new).items():
            self._columns[name][first:last] = place[column] if name == "symbol_id" else column
        self._count = last
        return self.table()
