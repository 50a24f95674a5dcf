"""Frozen dataclasses as plain JSON values and back, without losing a bit.

Floats that JSON or a Postgres jsonb column can't carry exactly (nan, infinities, -0.0) become
strings; Decimals are strings; every other float survives as its shortest decimal text.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Return a value made of dict, list, str, int, float, bool and None only."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        negative_zero = value == 0 and math.copysign(1.0, value) < 0
        return value if math.isfinite(value) and not negative_zero else repr(value)
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} has no plain JSON form")


def from_json(kind: type[T], data: Any) -> T:
    """Return the dataclass `kind` that `to_json` wrote.

    Raises:
        ValueError: A field is missing, unknown, or of another type; the message names it.
    """
    result: T = _read(kind, data, kind.__name__)
    return result


@lru_cache(maxsize=64)
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(kind: Any, data: Any, where: str) -> Any:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        (inner,) = [choice for choice in get_args(kind) if choice is not type(None)]
        return None if data is None else _read(inner, data, where)
    if origin is tuple:
        if not isinstance(data, list):
            raise ValueError(f"{where} is {data!r}; a list is needed")
        return tuple(_read(get_args(kind)[0], item, f"{where}[{row}]") for row, item in enumerate(data))
    if origin is not None and issubclass(origin, Mapping):
        _need_mapping(data, where)
        return {key: _read(get_args(kind)[1], item, f"{where}.{key}") for key, item in data.items()}
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, data, where)
    try:
        if kind is float and not isinstance(data, bool):
            return float(data)
        if kind is Decimal and isinstance(data, str):
            return Decimal(data)
        if isinstance(kind, type) and issubclass(kind, Enum):
            return kind(data)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{where} is {data!r}; {kind.__name__} is needed") from error
    if kind in (int, str, bool) and type(data) is kind:
        return data
    raise ValueError(f"{where} is {data!r}; {getattr(kind, '__name__', kind)} is needed")


def _read_dataclass(kind: Any, data: Any, where: str) -> Any:
    _need_mapping(data, where)
    hints = _hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    if set(names) != set(data):
        missing, unknown = sorted(set(names) - set(data)), sorted(set(data) - set(names))
        raise ValueError(f"{where} lacks the fields {missing} and has the unknown fields {unknown}")
    return kind(**{name: _read(hints[name], data[name], f"{where}.{name}") for name in names})


def _need_mapping(data: Any, where: str) -> None:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where} is {data!r}; an object is needed")
