"""Faults that a script injects after the close of a given bar of the session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from gateway_simulator import FaultError

KINDS = ("disconnect", "1100", "1101", "1102", "reject_orders", "stall_ms", "halt", "resume")
MAX_FAULTS = 10_000


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        at_bar: Number of the session's bar after whose close it happens, from 0.
        kind: One of KINDS.
        value: Orders to refuse, or milliseconds to stall; 0 for the rest.
        symbol: Of halt and resume.
    """

    at_bar: int
    kind: str
    value: int = 0
    symbol: str = ""


def read_faults(path: Path, symbols: Sequence[str]) -> tuple[Fault, ...]:
    """Read a fault script: a JSON list of {"at_bar": N, "kind": …, "value": N, "symbol": …}.

    Raises:
        FaultError: The script is unusable; the message names the entry.
    """
    try:
        entries = orjson.loads(path.read_bytes())
    except OSError as error:
        raise FaultError(f"{path}: cannot be read: {error.strerror}") from error
    except orjson.JSONDecodeError as error:
        raise FaultError(f"{path}: not JSON: {error}") from error
    if not isinstance(entries, list) or len(entries) > MAX_FAULTS:
        raise FaultError(f"{path}: must be a JSON list of at most {MAX_FAULTS} faults")
    return tuple(_read(entry, f"{path}: fault {number}", symbols) for number, entry in enumerate(entries))


def _read(entry: object, where: str, symbols: Sequence[str]) -> Fault:
    if not isinstance(entry, dict):
        raise FaultError(f"{where}: must be an object such as {{'at_bar': 3, 'kind': 'disconnect'}}")
    unknown = sorted(set(entry) - {"at_bar", "kind", "value", "symbol"})
    if unknown:
        raise FaultError(f"{where}: unknown key {unknown[0]!r}; known are at_bar, kind, value, symbol")
    at_bar, kind, value, symbol = (
        entry.get("at_bar"),
        entry.get("kind"),
        entry.get("value", 0),
        entry.get("symbol", ""),
    )
    if not isinstance(at_bar, int) or isinstance(at_bar, bool) or at_bar < 0:
        raise FaultError(f"{where}: at_bar must be a whole number from 0, not {at_bar!r}")
    if kind not in KINDS:
        raise FaultError(f"{where}: kind must be one of {', '.join(KINDS)}, not {kind!r}")
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise FaultError(f"{where}: value must be a whole number from 0, not {value!r}")
    if kind in ("reject_orders", "stall_ms") and value == 0:
        raise FaultError(f"{where}: {kind} needs a value above 0")
    if kind in ("halt", "resume") and symbol not in symbols:
        raise FaultError(
            f"{where}: {kind} needs a symbol of the session ({', '.join(symbols)}), not {symbol!r}"
        )
    return Fault(at_bar, str(kind), value, str(symbol))
