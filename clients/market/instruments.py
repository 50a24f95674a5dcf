"""Keys of instruments."""

from __future__ import annotations

import hashlib

_SYNTHETIC_BIT = 0x40000000


def synthetic_con_id(symbol: str) -> int:
    """Return a stable stand-in for an Interactive Brokers contract id that is not known.

    The same symbol gives the same number on every machine. Bit 30 is always set, so that it is
    visible that the number was made here; it fits a positive int32.

    Args:
        symbol: Ticker, as the data set spells it. Example: "AAPL".

    Raises:
        ValueError: The symbol is empty.
    """
    if not symbol:
        raise ValueError("a symbol is needed to make a contract id")
    digest = hashlib.sha256(symbol.encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x3FFFFFFF | _SYNTHETIC_BIT
