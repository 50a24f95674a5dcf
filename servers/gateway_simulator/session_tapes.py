"""Quotes and books recorded beside the bars of a session."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gateway_simulator.paths import BookTape, QuoteTape
from gateway_simulator.session import BOOK_LEVELS, Floats, Ints
from gateway_simulator.session_choice import Choice, times_of
from gateway_simulator.tables import Table, read_table

_SIDES = ("bid_price", "bid_size", "ask_price", "ask_size")


def quote_tapes(path: Path, choice: Choice, zone: str) -> dict[str, QuoteTape]:
    """Return the quotes of each symbol that lie beside a file of bars; empty without such a file.

    Raises:
        SessionError: Something in it is unusable.
    """
    table = _table_beside(path, "quotes")
    if table is None:
        return {}
    sides = [_positive(table, name) for name in _SIDES]
    _refuse_crossed(table, "ask_price", sides[0], sides[2])
    return {
        symbol: QuoteTape(ns, *(side[rows] for side in sides))
        for symbol, rows, ns in _rows_by_symbol(table, choice, zone)
    }


def book_tapes(path: Path, choice: Choice, zone: str) -> dict[str, BookTape]:
    """Return the order books of each symbol that lie beside a file of bars; empty without such a file.

    Raises:
        SessionError: Something in it is unusable.
    """
    table = _table_beside(path, "book")
    if table is None:
        return {}
    table.require(("bid_price_1",), "Levels are bid_price_1, bid_size_1, ask_price_1, ask_size_1, …")
    depth = sum(f"bid_price_{level}" in table.columns for level in range(1, BOOK_LEVELS + 1))
    sides = [
        np.column_stack([_positive(table, f"{name}_{level}") for level in range(1, depth + 1)])
        for name in _SIDES
    ]
    _refuse_crossed(table, "ask_price_1", sides[0][:, 0], sides[2][:, 0])
    return {
        symbol: BookTape(ns, *(side[rows] for side in sides))
        for symbol, rows, ns in _rows_by_symbol(table, choice, zone)
    }


def _table_beside(path: Path, kind: str) -> Table | None:
    found = (path.with_name(f"{path.stem}.{kind}{suffix}") for suffix in (".parquet", ".csv"))
    return next((read_table(one) for one in found if one.is_file()), None)


def _positive(table: Table, name: str) -> Floats:
    values = table.numbers(table.require((name,)))
    bad = np.flatnonzero(values < 0)
    if len(bad):
        raise table.problem(name, int(bad[0]), float(values[bad[0]]), "is negative")
    return values


def _refuse_crossed(table: Table, column: str, bid: Floats, ask: Floats) -> None:
    crossed = np.flatnonzero((ask <= bid) & (ask > 0) & (bid > 0))
    if len(crossed):
        raise table.problem(column, int(crossed[0]), float(ask[crossed[0]]), "is not above the bid")


def _rows_by_symbol(table: Table, choice: Choice, zone: str) -> list[tuple[str, Ints, Ints]]:
    names, times, _ = times_of(table, Choice(symbols=choice.symbols, time_zone=choice.time_zone or zone))
    symbols = choice.symbols if names is None else [str(name) for name in np.unique(names)]
    out = []
    for symbol in symbols:
        rows = np.arange(len(times.ns)) if names is None else np.flatnonzero(names == symbol)
        rows = rows[np.argsort(times.ns[rows], kind="stable")]
        out.append((symbol, rows, times.ns[rows]))
    return out
