"""A market whose every step a test writes down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from gateway_simulator.account import Account
from gateway_simulator.exchange import Exchange
from gateway_simulator.orders import Order, OrderNews
from gateway_simulator.replay import Replay
from gateway_simulator.session import NS_PER_S, Series, Session, Step, timeline
from market.events import Instrument

CON_ID = 1001
START_NS = 1_741_786_200 * NS_PER_S  # 2025-03-12 09:30 in New York
BAR_NS = 60 * NS_PER_S
STEP_NS = 5 * NS_PER_S


@dataclass(frozen=True)
class ScriptedPaths:
    quotes: Sequence[tuple[float, float, float]]  # bid, ask, size; one per step of bar 1

    def steps(self, bar: int) -> Sequence[Step]:
        start = START_NS + (bar - 1) * BAR_NS
        script = self.quotes if bar == 1 else [self.quotes[0] if bar == 0 else self.quotes[-1]]
        rows = [*script, *([script[-1]] * (12 - len(script)))]
        return [
            Step(
                start + k * STEP_NS,
                bid,
                size,
                ask,
                size,
                (bid + ask) / 2,
                10.0,
                (((bid, size),), ((ask, size),)),
            )
            for k, (bid, ask, size) in enumerate(rows)
        ]


def scripted_session(*quotes: tuple[float, float, float]) -> Session:
    paths = ScriptedPaths(quotes)
    starts = START_NS + np.arange(-1, 2, dtype=np.int64) * BAR_NS
    rows = [[step.trade_price for step in paths.steps(bar)] for bar in range(3)]
    series = Series(
        Instrument(CON_ID, "TEST"),
        starts,
        starts + BAR_NS,
        np.array([row[0] for row in rows]),
        np.array([max(row) for row in rows]),
        np.array([min(row) for row in rows]),
        np.array([row[-1] for row in rows]),
        np.full(3, 120.0),
        first=1,
        paths=paths,
    )
    return Session(
        source="recorded: test",
        bar_size_s=60,
        zone="America/New_York",
        series=(series,),
        fingerprint="test",
        seed=None,
        slots=timeline([series], 60, "America/New_York"),
    )


class Desk:
    """An exchange on a scripted market, and everything it told."""

    def __init__(self, *quotes: tuple[float, float, float], cash: float = 1_000_000.0) -> None:
        self.replay = Replay(scripted_session(*quotes))
        self.exchange = Exchange(self.replay, Account("DU1", cash), first_perm_id=100, exec_prefix="0000e0d5")
        self.news: list[OrderNews] = []
        self._next_id = 1
        self.step()

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            move = self.replay.advance()
            self.news += self.exchange.match(move.changed)

    def place(self, action: str, quantity: float, order_type: str = "MKT", **terms: Any) -> Order:
        order_id = terms.pop("order_id", self._next_id)
        self._next_id = max(self._next_id, order_id + 1)
        values: dict[str, Any] = {
            "client_id": 7,
            "order_id": order_id,
            "perm_id": 0,
            "con_id": CON_ID,
            "action": action,
            "quantity": quantity,
            "order_type": order_type,
            "limit_price": 0.0,
            "stop_price": 0.0,
            "tif": "DAY",
            "oca_group": "",
            "oca_type": 0,
            "order_ref": f"ref-{order_id}",
            "transmit": True,
            "parent_id": 0,
            "outside_rth": False,
            "exchange": "SMART",
        }
        request = Order(**{**values, **terms})
        self.news += self.exchange.place(request)
        return self.exchange.orders.get(request.key, request)

    def bracket(
        self, quantity: float, *, limit: float, profit: float, stop: float
    ) -> tuple[Order, Order, Order]:
        entry = self.place("BUY", quantity, "LMT", limit_price=limit, transmit=False)
        take = self.place(
            "SELL", quantity, "LMT", limit_price=profit, transmit=False, parent_id=entry.order_id
        )
        protect = self.place("SELL", quantity, "STP", stop_price=stop, parent_id=entry.order_id)
        return entry, take, protect

    @property
    def kinds(self) -> list[str]:
        return [type(one).__name__ for one in self.news]

    @property
    def refusals(self) -> list[int]:
        return [one.code for one in self.news if hasattr(one, "code")]

    @property
    def fills(self) -> list[tuple[float, float]]:
        return [(one.shares, one.price) for one in self.exchange.executions]

    @property
    def position(self) -> float:
        holding = self.exchange.account.holdings.get(CON_ID)
        return holding.quantity if holding else 0.0


@pytest.fixture
def desk() -> Callable[..., Desk]:
    return Desk
