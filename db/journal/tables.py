"""Which row goes into which table, and how; derived from the row classes.

Telemetry goes in through binary COPY, built here column by column: `TELEMETRY_TYPES` says which
Postgres types that is right for, and the writer compares it with the database before every COPY,
because COPY would store the bytes of a float as a bigint without a word.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from journal import rows


@dataclass(frozen=True, slots=True)
class Table:
    """How one row class is stored.

    Attributes:
        name: Table.
        row_type: Its row class.
        columns: Field names; the table has run_id too.
        documents: Columns of type json.
        decimals: Columns of type numeric.
        binary: Columns of type bytea.
        floats: Columns of type double precision.
        telemetry: Market data: COPY, may be dropped when there is too much of it.
        most_waiting: Rows of other kinds that may be dropped too, once so many wait; 0: they never are.
        time_column: Partition key of telemetry, computed from `time_source`.
        time_source: Field that holds the nanoseconds for `time_column`.
    """

    name: str
    row_type: type
    columns: tuple[str, ...]
    documents: frozenset[str]
    decimals: frozenset[str]
    binary: frozenset[str]
    floats: frozenset[str]
    telemetry: bool = False
    time_column: str = ""
    time_source: str = ""
    most_waiting: int = 0

    @property
    def may_be_dropped(self) -> bool:
        """Whether rows are given up, and counted, where there is no room for them."""
        return self.telemetry or self.most_waiting > 0

    @property
    def insert_sql(self) -> str:
        """Return the statement that stores a JSON array of rows, each row once."""
        columns = [column for column in self.columns if column != "run_id"]
        names = ", ".join(f'"{name}"' for name in ("run_id", *columns))
        return (
            f'INSERT INTO "{self.name}" ({names}) SELECT {names} '  # noqa: S608 - names of our own
            f'FROM json_populate_recordset(NULL::"{self.name}", $1::json) ON CONFLICT DO NOTHING'
        )


def _table(
    name: str, row_type: type, time_column: str = "", time_source: str = "", most_waiting: int = 0
) -> Table:
    kinds = {item.name: str(item.type) for item in fields(row_type)}
    return Table(
        name=name,
        row_type=row_type,
        columns=tuple(kinds),
        documents=frozenset(
            c for c, kind in kinds.items() if kind.startswith(("Mapping", "Sequence[Mapping"))
        ),
        decimals=frozenset(c for c, kind in kinds.items() if kind.startswith("Decimal")),
        binary=frozenset(c for c, kind in kinds.items() if kind == "bytes"),
        floats=frozenset(c for c, kind in kinds.items() if kind.startswith("float")),
        telemetry=bool(time_column),
        time_column=time_column,
        time_source=time_source,
        most_waiting=most_waiting,
    )


TABLES: tuple[Table, ...] = (
    _table("quotes", rows.QuoteRow, "event_time", "event_ns"),
    _table("trades", rows.TradeRow, "event_time", "event_ns"),
    _table("bars", rows.BarRow, "start_time", "start_ns"),
    _table("book_snapshots", rows.BookRow, "event_time", "event_ns"),
    _table("instruments", rows.InstrumentRow),
    _table("decisions", rows.DecisionRow),
    _table("model_calls", rows.ModelCallRow),
    _table("neighbors", rows.NeighborRow),
    _table("shadow_answers", rows.ShadowAnswerRow),
    _table("vision_charts", rows.VisionChartRow, most_waiting=256),
    _table("vision_readings", rows.VisionReadingRow),
    _table("vision_effects", rows.VisionEffectRow),
    _table("order_intents", rows.OrderIntentRow),
    _table("order_events", rows.OrderEventRow),
    _table("fills", rows.FillRow),
    _table("commissions", rows.CommissionRow),
    _table("positions", rows.PositionRow),
    _table("risk_events", rows.RiskEventRow),
)
RUNS = _table("runs", rows.Run)
BY_NAME = {table.name: table for table in TABLES}
BY_ROW_TYPE = {table.row_type: table for table in TABLES}

_POSTGRES_TYPES = {"int": "bigint", "float": "double precision", "Sequence[float]": "double precision[]"}


def copy_columns(table: Table) -> tuple[str, ...]:
    """Return the columns of a telemetry table in the order the binary COPY has them."""
    return ("run_id", table.time_column, *table.columns)


def copy_types(table: Table) -> dict[str, str]:
    """Return column -> Postgres type that the binary COPY of a telemetry table is built for."""
    types = {"run_id": "text", table.time_column: "timestamp with time zone"}
    types.update({item.name: _POSTGRES_TYPES[str(item.type)] for item in fields(table.row_type)})
    return types


TELEMETRY_TYPES = {table.name: copy_types(table) for table in TABLES if table.telemetry}
