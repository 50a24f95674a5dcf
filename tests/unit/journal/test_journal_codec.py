import dataclasses
import math
import struct
from decimal import Decimal
from enum import StrEnum
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal import rows
from journal.batches import Batch
from journal.codec import (
    COPY_HEADER,
    COPY_TRAILER,
    copy_payload,
    day_of,
    dump_json,
    json_payload,
    plain,
    read_document,
    row_encoder,
    split_json_payload,
)
from journal.errors import SpoolError
from journal.tables import BY_ROW_TYPE, TABLES, TELEMETRY_TYPES, copy_columns
from journal_rows import DAY_NS, NS, a_decision, a_quote, one_of_each


def fields_of(encoded: bytes) -> list[bytes]:
    """Take a binary COPY row apart as Postgres does."""
    (count,) = struct.unpack_from(">h", encoded)
    position, found = 2, []
    for _ in range(count):
        (length,) = struct.unpack_from(">i", encoded, position)
        found.append(encoded[position + 4 : position + 4 + length])
        position += 4 + length
    assert position == len(encoded)
    return found


def test_every_row_class_has_a_table() -> None:
    assert {table.row_type for table in TABLES} == set(rows.Row.__args__)
    assert {table.name for table in TABLES if table.telemetry} == {
        "quotes",
        "trades",
        "bars",
        "book_snapshots",
    }
    for table in TABLES:
        assert table.columns == tuple(item.name for item in dataclasses.fields(table.row_type))


@pytest.mark.parametrize("row", [row for row in one_of_each() if BY_ROW_TYPE[type(row)].telemetry], ids=repr)
def test_a_telemetry_row_has_one_field_per_column_of_its_copy(row: Any) -> None:
    table = BY_ROW_TYPE[type(row)]
    found = dict(zip(copy_columns(table), fields_of(row_encoder(table, "run")(row)), strict=True))
    assert found["run_id"] == b"run"
    (microseconds,) = struct.unpack(">q", found[table.time_column])
    assert microseconds == getattr(row, table.time_source) // 1000 - 946_684_800_000_000
    for column, kind in TELEMETRY_TYPES[table.name].items():
        if kind == "bigint":
            assert struct.unpack(">q", found[column])[0] == getattr(row, column)
        elif kind == "double precision":
            assert struct.unpack(">d", found[column])[0] == getattr(row, column)


@given(st.lists(st.floats(), max_size=12), st.floats(), st.integers(-(2**63), 2**63 - 1))
def test_floats_and_integers_of_telemetry_keep_every_bit(
    levels: list[float], price: float, con_id: int
) -> None:
    quotes, books = BY_ROW_TYPE[rows.QuoteRow], BY_ROW_TYPE[rows.BookRow]
    quote = fields_of(row_encoder(quotes, "r")(rows.QuoteRow(con_id, NS, price, 0.0, price, 0.0)))
    assert quote[2] == struct.pack(">q", con_id)
    assert quote[4] == struct.pack(">d", price)
    book = fields_of(row_encoder(books, "r")(rows.BookRow(1, NS, levels, [], [], [])))
    if levels:
        assert book[4][20:] == b"".join(struct.pack(">id", 8, level) for level in levels)
    else:
        assert book[4] == struct.pack(">iii", 0, 0, 701)


def test_numpy_scalars_pass_as_numbers() -> None:
    table = BY_ROW_TYPE[rows.TradeRow]
    ours = row_encoder(table, "r")(rows.TradeRow(1, NS, 1.5, 2.0))
    numpys = row_encoder(table, "r")(
        rows.TradeRow(np.int64(1), np.int64(NS), np.float64(1.5), np.float32(2.0))  # type: ignore[arg-type]
    )
    assert ours == numpys


def test_a_copy_stream_is_framed_as_postgres_wants_it() -> None:
    assert copy_payload([b"ab", b"c"]) == COPY_HEADER + b"abc" + COPY_TRAILER
    assert len(COPY_HEADER) == 19


def test_the_day_of_a_row_is_its_utc_day() -> None:
    table = BY_ROW_TYPE[rows.QuoteRow]
    assert day_of(a_quote(0, 0), table) == 0
    assert day_of(a_quote(0, DAY_NS - 1), table) == 0
    assert day_of(a_quote(0, DAY_NS), table) == 1
    assert day_of(a_quote(0, -1), table) == -1


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_documents_come_back_as_they_were(value: Any) -> None:
    text = dump_json(plain(value))
    again = read_document(text)
    assert repr(again) == repr(_as_stored(value))


def _as_stored(value: Any) -> Any:
    """What a document can hold: no NUL in texts, and the names of special floats are those floats."""
    if isinstance(value, str):
        special = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
        text = value.replace("\x00", "\ufffd")
        return special.get(text, text)
    if isinstance(value, list):
        return [_as_stored(item) for item in value]
    if isinstance(value, dict):
        return {key.replace("\x00", "\ufffd"): _as_stored(item) for key, item in value.items()}
    return value


def test_special_floats_decimals_bytes_and_numpy_become_json() -> None:
    class Colour(StrEnum):
        RED = "red"

    document = {
        "nan": math.nan,
        "inf": -math.inf,
        "decimal": Decimal("1.500"),
        "bytes": b"\x00\xff",
        "array": np.array([[1.5, np.inf]], dtype=np.float32),
        "int": np.int64(7),
        "flag": np.bool_(True),
        "enum": Colour.RED,
        "row": rows.TradeRow(1, 2, 3.0, 4.0),
        "tuple": (1, 2),
        3: "key",
    }
    assert orjson.loads(dump_json(plain(document))) == {
        "nan": "NaN",
        "inf": "-Infinity",
        "decimal": "1.500",
        "bytes": "\\x00ff",
        "array": [[1.5, "Infinity"]],
        "int": 7,
        "flag": True,
        "enum": "red",
        "row": {"con_id": 1, "event_ns": 2, "price": 3.0, "size": 4.0},
        "tuple": [1, 2],
        "3": "key",
    }


def test_broken_surrogates_do_not_stop_a_row() -> None:
    table = BY_ROW_TYPE[rows.DecisionRow]
    encoded = row_encoder(table, "r")(a_decision("d", reason="bad \ud800 text", state={"\ud800": 1}))
    assert orjson.loads(encoded)["reason"] == "bad ? text"


def test_what_json_does_not_know_is_named() -> None:
    with pytest.raises(TypeError, match="a object cannot be recorded"):
        plain({"x": object()})


def test_a_payload_splits_into_its_rows() -> None:
    rows_ = [b'{"a":1}', b'{"a":"x,}]"}']
    assert split_json_payload(json_payload(rows_)) == [b"[" + row + b"]" for row in rows_]


def test_a_batch_survives_its_record() -> None:
    import uuid

    batch = Batch(uuid.uuid4(), "quotes", 2, b"\n\x00payload\n", (19_675,))
    assert Batch.from_record(batch.to_record()) == dataclasses.replace(batch, on_disk=True)
    with pytest.raises(SpoolError, match="not a batch"):
        Batch.from_record(b"{}\nrest")
