"""What commands print: lines for people, or one JSON document per answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray


def line(text: str = "") -> None:
    """Print one line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def document(content: Mapping[str, Any]) -> None:
    """Print one JSON document on one line; numbers that are not finite become null."""
    line(json.dumps(_plain(content), allow_nan=False))


def complain(text: str) -> None:
    """Print one line of error."""
    sys.stderr.write(f"error: {' '.join(text.split())}\n")


def no_answer(service: str, reason: str, detail: str, *, as_json: bool) -> int:
    """Print why there is no answer; return the exit status for that."""
    detail = explained(detail)
    if as_json:
        document({"answered": False, "service": service, "reason": str(reason), "detail": detail})
    complain(f"{service}: no answer ({reason}): {detail}")
    return 1


def explained(detail: str) -> str:
    """Return what a server said, with what it means where the words alone do not say it."""
    if detail.startswith("UNIMPLEMENTED"):
        return f"{detail}; another kind of server, or an older release, answers at that address"
    return detail


def moment(ns: int) -> str:
    """Return nanoseconds UTC as ISO-8601 with a Z, to the second; "" for 0."""
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if ns else ""


def milliseconds(ns: int) -> float | None:
    """Return nanoseconds as milliseconds to the microsecond; None for unknown (-1)."""
    return round(ns / 1e6, 3) if ns >= 0 else None


def digest(sha256: str) -> str:
    """Return a digest as people see it."""
    return f"{sha256[:12]}…" if sha256 else "unknown"


def tensor(array: NDArray[Any]) -> str:
    """Return an array as a few lines of text."""
    return np.array2string(array, precision=4, suppress_small=True, threshold=32, max_line_width=100)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
