"""The account as the strategy sees it: positions, profit, losses against their limits, rate of orders."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Decimal

from strategy.core.position import PositionBook, PositionDifference
from strategy.core.trackers import DrawdownTracker, EquityMarks, OrderRateTracker
from strategy.core.values import Account, Commission, Fill, Position
from strategy.ports import BrokerSnapshot
from strategy.report import Money


@dataclass(slots=True)
class Portfolio:
    """Follows fills between the broker's account reports, and the reports when they come.

    A gateway reports equity only every few minutes; in between it is the last report plus the
    profit since, so that a loss limit does not wait for the next one.
    """

    book: PositionBook = field(default_factory=PositionBook)
    rate: OrderRateTracker = field(default_factory=OrderRateTracker)
    _losses: DrawdownTracker = field(default_factory=DrawdownTracker)
    _base: float = math.nan
    _start_equity: float = math.nan
    _start_realized: Decimal = Decimal(0)
    _start_commission: Decimal = Decimal(0)
    _currency: str = ""
    _max_drawdown_pct: float = 0.0
    _bars_held: dict[int, int] = field(default_factory=dict)

    @property
    def equity(self) -> float:
        """Account's equity now; nan until the first report."""
        return self._base + float(self.book.total_pnl)

    @property
    def marks(self) -> EquityMarks:
        """What losses are measured from."""
        return self._losses.marks

    @property
    def drawdown_pct(self) -> float:
        """Loss since the highest equity of the run, in percent; 0 until it is known."""
        drawdown = self._losses.drawdown_pct
        return 0.0 if math.isnan(drawdown) else drawdown

    def quantity(self, con_id: int) -> Decimal:
        """Return the signed position."""
        return self.book.state(con_id).quantity

    def bars_held(self, con_id: int) -> int:
        """Return the bars closed since the position was opened or found; 0 when flat."""
        return self._bars_held.get(con_id, 0)

    def open_positions(self) -> list[Position]:
        """Return what is held."""
        return [
            Position(state.con_id, state.symbol, state.quantity, float(state.average_price))
            for state in self.book.open_states
        ]

    def on_bar(self, con_id: int, close: float) -> None:
        """Value the position and count its age."""
        if self.quantity(con_id):
            self._bars_held[con_id] = self._bars_held.get(con_id, 0) + 1
        else:
            self._bars_held.pop(con_id, None)
        self.mark(con_id, close)

    def mark(self, con_id: int, price: float) -> None:
        """Value a position at a price."""
        self.book.mark(con_id, price)
        self._update_losses()

    def on_fill(self, fill: Fill) -> bool:
        """Apply an execution; False when it was applied before."""
        applied = self.book.apply_fill(fill) is not None
        if applied:
            if not self.quantity(fill.con_id):
                self._bars_held.pop(fill.con_id, None)
            self.mark(fill.con_id, float(fill.price))
        return applied

    def on_commission(self, commission: Commission) -> None:
        """Apply the cost of an execution."""
        self.book.apply_commission(commission)
        self._update_losses()

    def on_account(self, account: Account) -> None:
        """Take the broker's report."""
        self._currency = account.currency
        self._base = account.equity - float(self.book.total_pnl)
        self._update_losses()

    def on_reconciled(self, snapshot: BrokerSnapshot, event_ns: int) -> tuple[PositionDifference, ...]:
        """Take the broker's positions; return where ours differed."""
        first = math.isnan(self._start_equity)
        for fill in snapshot.fills:
            self.book.apply_fill(fill)
        for commission in snapshot.commissions:
            self.book.apply_commission(commission)
        differences = self.book.reconcile(snapshot.positions, event_ns)
        self.on_account(snapshot.account)
        if first:
            self._start_equity = snapshot.account.equity
            self._start_realized = self.book.realized_pnl
            self._start_commission = self.book.commission
            return ()
        return differences

    def money(self) -> Money:
        """Return what the run did to the account."""
        return Money(
            currency=self._currency,
            start_equity=self._start_equity,
            realized=float(self.book.realized_pnl - self._start_realized),
            unrealized=float(self.book.unrealized_pnl),
            commission=float(self.book.commission - self._start_commission),
            max_drawdown_pct=self._max_drawdown_pct,
        )

    def _update_losses(self) -> None:
        self._losses.update(self.equity)
        self._max_drawdown_pct = max(self._max_drawdown_pct, self.drawdown_pct)
