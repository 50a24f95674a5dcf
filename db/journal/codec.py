"""Rows as bytes: a binary COPY payload for telemetry, a JSON array for everything else.

The same bytes go to Postgres and to the spool. Floats survive bit for bit: binary in COPY, the
shortest decimal that reads back the same in JSON. JSON has no NaN and no infinities: they are the
strings "NaN", "Infinity" and "-Infinity", which Postgres reads as floats in float columns and
`read_document` turns back inside documents. A Decimal inside a document becomes its text.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import Any

import numpy as np
import orjson

from journal.tables import Table

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER = b"\xff\xff"
NS_PER_DAY = 86_400 * 1_000_000_000
_EPOCH_2000_US = 946_684_800 * 1_000_000
_FLOAT8_OID = 701
_SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

RowEncoder = Callable[[Any], bytes]


def row_encoder(table: Table, run_id: str) -> RowEncoder:
    """Return the function that turns one row of a table into bytes.

    Encoded telemetry rows are joined by `copy_payload`, all others by `json_payload`.
    """
    return _copy_encoder(table, run_id) if table.telemetry else _json_encoder(table, run_id)


def copy_payload(encoded: Sequence[bytes]) -> bytes:
    """Return a complete binary COPY stream of encoded rows."""
    return b"".join((COPY_HEADER, *encoded, COPY_TRAILER))


def json_payload(encoded: Sequence[bytes]) -> bytes:
    """Return a JSON array of encoded rows."""
    return b"[" + b",".join(encoded) + b"]"


def split_json_payload(payload: bytes) -> list[bytes]:
    """Return the rows of a JSON array, each as an array of its own, to find the one that is refused."""
    return [json_payload([orjson.dumps(row)]) for row in orjson.loads(payload)]


# --- telemetry -----------------------------------------------------------------------------------


def _copy_encoder(table: Table, run_id: str) -> RowEncoder:
    run = run_id.encode()
    kinds = {item.name: str(item.type) for item in dataclasses.fields(table.row_type)}
    count = len(table.columns) + 2
    head = struct.pack(">hi", count, len(run)) + run + struct.pack(">i", 8)
    time_source = table.time_source
    scalars = [name for name in table.columns if not kinds[name].startswith("Sequence")]
    arrays = [name for name in table.columns if kinds[name].startswith("Sequence")]
    assert table.columns[: len(scalars)] == tuple(scalars), "arrays come last in telemetry rows"
    body = struct.Struct(">q" + "".join("iq" if kinds[name] == "int" else "id" for name in scalars))
    pack = body.pack

    def encode(row: Any) -> bytes:
        values: list[Any] = [getattr(row, time_source) // 1000 - _EPOCH_2000_US]
        for name in scalars:
            values.append(8)
            values.append(getattr(row, name))
        encoded = head + pack(*values)
        for name in arrays:
            encoded += _copy_array(getattr(row, name))
        return encoded

    return encode


def _copy_array(values: Sequence[float]) -> bytes:
    count = len(values)
    if count == 0:
        return struct.pack(">iiii", 12, 0, 0, _FLOAT8_OID)
    pairs: list[Any] = []
    for value in values:
        pairs.append(8)
        pairs.append(value)
    head = struct.pack(">iiiiii", 20 + 12 * count, 1, 0, _FLOAT8_OID, count, 1)
    return head + struct.pack(">" + "id" * count, *pairs)


def day_of(row: Any, table: Table) -> int:
    """Return the UTC day of a telemetry row, in days since 1970-01-01."""
    day: int = getattr(row, table.time_source) // NS_PER_DAY
    return day


# --- everything else -----------------------------------------------------------------------------


def _json_encoder(table: Table, run_id: str) -> RowEncoder:
    columns = table.columns

    def encode(row: Any) -> bytes:
        document: dict[str, Any] = {"run_id": run_id}
        for name in columns:
            document[name] = plain(getattr(row, name))
        return dump_json(document)

    return encode


def dump_json(document: Any) -> bytes:
    """Return JSON that Postgres stores; broken surrogates in texts become question marks."""
    try:
        return orjson.dumps(document)
    except TypeError:
        return orjson.dumps(_without_surrogates(document))


def plain(value: Any) -> Any:
    """Return a value as JSON knows it.

    Raises:
        TypeError: There is no such thing in JSON; the message names the type.
    """
    kind = type(value)
    if kind is float:
        return value if math.isfinite(value) else _special_name(value)
    if kind is int or kind is bool or value is None:
        return value
    if isinstance(value, str):  # enums of texts too
        text = str(value.value) if isinstance(value, Enum) else value
        return text.replace("\x00", "\ufffd")  # Postgres has no NUL in texts
    if isinstance(value, Decimal):
        return _special_name(float(value)) if not value.is_finite() else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return "\\x" + bytes(value).hex()
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, float | int):  # subclasses
        return plain(float(value)) if isinstance(value, float) else int(value)
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    raise TypeError(f"a {kind.__name__} cannot be recorded: pass numbers, texts, lists and mappings")


def read_document(text: str | bytes | None) -> Any:
    """Return the value of a json column, with NaN and infinities as floats again."""
    return None if text is None else _revived(orjson.loads(text))


def _special_name(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _revived(value: Any) -> Any:
    if isinstance(value, str):
        return _SPECIAL.get(value, value)
    if isinstance(value, list):
        return [_revived(item) for item in value]
    if isinstance(value, dict):
        return {key: _revived(item) for key, item in value.items()}
    return value


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value
