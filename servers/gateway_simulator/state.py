"""What survives a restart: the account, orders, executions, ids and the replay's position.

The file is rewritten as a whole, through a temporary file and a rename, before a client is told
what changed. A killed process leaves either the old file or the new one.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from gateway_simulator import StateError
from gateway_simulator.account import Account, Holding
from gateway_simulator.exchange import Exchange
from gateway_simulator.orders import Execution, Order
from gateway_simulator.replay import Replay

FORMAT = 1
MAX_FILE_BYTES = 64 << 20


class StateFile:
    """Loads and saves the state; without a path it keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self, replay: Replay, account_number: str, cash: float) -> Exchange:
        """Return the exchange as it was saved, with the replay moved to its place; or a fresh one.

        Raises:
            StateError: The file is unreadable, damaged, or of another session.
        """
        saved = self._read()
        if saved is None:
            account = Account(account_number, cash)
            first = secrets.randbelow(1 << 29) + (1 << 29)
            return Exchange(replay, account, first_perm_id=first, exec_prefix=f"{secrets.randbits(32):08x}")
        if saved.get("fingerprint") != replay.session.fingerprint:
            raise StateError(
                f"{self._path}: saved while another session was replayed; start with that session's "
                "options, or give another --state-file"
            )
        try:
            return self._restore(saved, replay)
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(
                f"{self._path}: damaged ({error!r}); delete it to start the session afresh"
            ) from error

    def save(self, exchange: Exchange) -> None:
        """Write everything down.

        Raises:
            StateError: The file can't be written; the message says why.
        """
        if self._path is None:
            return
        replay, account = exchange.replay, exchange.account
        content = {
            "format": FORMAT,
            "fingerprint": replay.session.fingerprint,
            "moves": replay.moves,
            "account": {
                "number": account.number,
                "cash": account.cash,
                "currency": account.currency,
                "holdings": [[con_id, asdict(one)] for con_id, one in account.holdings.items()],
            },
            "next_perm_id": exchange.next_perm_id,
            "exec_prefix": exchange.exec_prefix,
            "next_exec": exchange.next_exec,
            "next_order_id": list(exchange.next_order_id.items()),
            "refuse_next": exchange.refuse_next,
            "orders": list(exchange.orders.values()),
            "executions": exchange.executions,
        }
        temporary = self._path.with_name(self._path.name + ".new")
        try:
            temporary.write_bytes(orjson.dumps(content))
            temporary.replace(self._path)
        except OSError as error:
            raise StateError(f"{self._path}: cannot be written: {os.strerror(error.errno or 0)}") from error

    def _read(self) -> dict[str, Any] | None:
        if self._path is None or not self._path.exists():
            return None
        try:
            if self._path.stat().st_size > MAX_FILE_BYTES:
                raise StateError(f"{self._path}: larger than any state file; give another --state-file")
            saved = orjson.loads(self._path.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise StateError(
                f"{self._path}: unreadable ({error}); delete it to start the session afresh"
            ) from error
        if not isinstance(saved, dict) or saved.get("format") != FORMAT:
            raise StateError(f"{self._path}: not a state file of this version; give another --state-file")
        return saved

    def _restore(self, saved: dict[str, Any], replay: Replay) -> Exchange:
        held = saved["account"]
        account = Account(held["number"], held["cash"], held["currency"])
        account.holdings = {con_id: Holding(**one) for con_id, one in held["holdings"]}
        exchange = Exchange(
            replay, account, first_perm_id=saved["next_perm_id"], exec_prefix=saved["exec_prefix"]
        )
        exchange.next_exec = saved["next_exec"]
        exchange.next_order_id = dict(saved["next_order_id"])
        exchange.refuse_next = saved["refuse_next"]
        orders = [Order(**one) for one in saved["orders"]]
        exchange.orders = {order.key: order for order in orders}
        exchange.executions = [Execution(**one) for one in saved["executions"]]
        replay.seek(saved["moves"])
        return exchange
