"""Malformed requests: valid ones with their bytes or their fields spoilt."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

_NUMBERS = (0, 1, -1, 255, 256, 257, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
_FLOATS = (0.0, -0.0, 1e-45, 3.4e38, -3.4e38, float("nan"), float("inf"), float("-inf"))
_TEXTS = (
    "",
    "\0",
    "x" * 10_000,
    "'; drop table decisions; --",
    "../../etc/passwd",
    "\u202e☃",
    "market_states",
)
_BYTES = (b"", b"\0", b"\xff" * 511, b"\0" * 512, b"\x7f" * 513, b"\0\0\x80?" * 128, b"\0\0\xc0\x7f" * 128)
_WHOLE = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_ENUM)
_NATURAL = (FieldDescriptor.CPPTYPE_UINT32, FieldDescriptor.CPPTYPE_UINT64)
_32_BITS = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_ENUM, FieldDescriptor.CPPTYPE_UINT32)
_MAX_REPEATED = 1_100


def malformed(rng: random.Random, valid: Message) -> bytes:
    """Return the bytes of a request with at least one thing spoilt: half of them its bytes, half its fields."""
    if rng.random() < 0.5:
        body = bytearray(valid.SerializeToString())
        for _ in range(rng.randint(1, 4)):
            rng.choice(_BYTE_SPOILERS)(rng, body)
        return bytes(body)
    message = type(valid)()
    message.CopyFrom(valid)
    for _ in range(rng.randint(1, 3)):
        _spoil_field(rng, message)
    return message.SerializeToString()


def garbage(rng: random.Random) -> bytes:
    """Return what a lost client might send on a new connection: noise, perhaps after HTTP/2's preface."""
    noise = rng.randbytes(rng.randint(1, 400))
    frame = rng.randrange(2**14).to_bytes(3, "big") + rng.randbytes(2) + b"\0\0\0\1" + noise
    return rng.choice((noise, b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame))


def _flip(rng: random.Random, body: bytearray) -> None:
    if body:
        body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)


def _cut(rng: random.Random, body: bytearray) -> None:
    del body[rng.randint(0, len(body)) :]


def _insert(rng: random.Random, body: bytearray) -> None:
    at = rng.randint(0, len(body))
    body[at:at] = rng.choice((rng.randbytes(rng.randint(1, 32)), b"\xff" * 10, b"\x0a\xff\xff\xff\xff\x07"))


def _repeat(rng: random.Random, body: bytearray) -> None:
    start = rng.randint(0, len(body))
    body += body[start : start + rng.randint(1, 64)]


_BYTE_SPOILERS: Sequence[Callable[[random.Random, bytearray], None]] = (_flip, _cut, _insert, _repeat)


def _spoil_field(rng: random.Random, message: Message) -> None:
    field = rng.choice(message.DESCRIPTOR.fields) if message.DESCRIPTOR.fields else None
    if field is None:
        return
    if field.is_repeated:
        values = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            # All maps of our protos have texts as keys.
            value = field.message_type.fields_by_name["value"]
            for number in range(rng.choice((1, 3, _MAX_REPEATED))):
                values[f"{rng.choice(_TEXTS)}{number or ''}"] = _value(rng, value)
        elif field.message_type is None:
            values.extend(_value(rng, field) for _ in range(rng.randint(1, 3)))
        elif values and rng.random() < 0.9:
            _spoil_field(rng, rng.choice(values))
        else:
            part = values[0] if values else values.add()
            values.extend([part] * rng.choice((1, 2, _MAX_REPEATED - len(values))))
    elif rng.random() < 0.2:
        message.ClearField(field.name)
    elif field.message_type is not None:
        part = getattr(message, field.name)
        part.SetInParent()
        _spoil_field(rng, part)
    else:
        setattr(message, field.name, _value(rng, field))


def _value(rng: random.Random, field: FieldDescriptor) -> Any:
    kind = field.cpp_type
    if kind in _WHOLE or kind in _NATURAL:
        bits = 32 if kind in _32_BITS else 64
        number = rng.choice((*_NUMBERS, rng.getrandbits(64)))
        wrapped = number % 2**bits
        return wrapped if kind in _NATURAL or wrapped < 2 ** (bits - 1) else wrapped - 2**bits
    if kind in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice(_FLOATS)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.choice((*_BYTES, rng.randbytes(512)))
    return rng.choice(_TEXTS)
