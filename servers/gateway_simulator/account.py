"""The paper account: cash, positions, and the figures the gateway reports about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LEVERAGE = 4.0
"""Buying power as a multiple of equity: a US margin account during the day."""

_MARGIN_SHARE = 0.25


@dataclass(slots=True)
class Holding:
    """What the account holds of one instrument.

    Attributes:
        quantity: Signed units.
        average_cost: Per unit, commissions included, as IBKR reports it.
        realized_pnl: Since the session began, after commissions.
    """

    quantity: float = 0.0
    average_cost: float = 0.0
    realized_pnl: float = 0.0


class Account:
    """Books fills and values what is held."""

    def __init__(self, number: str, cash: float, currency: str = "USD") -> None:
        self.number = number
        self.cash = cash
        self.currency = currency
        self.holdings: dict[int, Holding] = {}

    def book(self, con_id: int, signed: float, price: float, cost: float) -> float | None:
        """Book a fill and return its realized PnL after commission; None when it only opens.

        Args:
            con_id: Instrument.
            signed: Units, negative for a sale.
            price: Per unit.
            cost: Commission of the fill.
        """
        holding = self.holdings.setdefault(con_id, Holding())
        self.cash -= signed * price + cost
        shares = abs(signed)
        sign = 1 if signed > 0 else -1
        closing = min(shares, abs(holding.quantity)) if holding.quantity * sign < 0 else 0.0
        realized = None
        if closing:
            side = 1 if holding.quantity > 0 else -1
            realized = round(side * closing * (price - holding.average_cost) - cost * closing / shares, 6)
            holding.realized_pnl += realized
            holding.quantity += sign * closing
            if holding.quantity == 0:
                holding.average_cost = 0.0
        opening = shares - closing
        if opening:
            held = abs(holding.quantity)
            paid = opening * price + sign * cost * opening / shares
            holding.average_cost = (held * holding.average_cost + paid) / (held + opening)
            holding.quantity += sign * opening
        return realized

    def net_liquidation(self, prices: Mapping[int, float]) -> float:
        """Return cash plus the value of everything held."""
        return self.cash + sum(one.quantity * prices[con_id] for con_id, one in self.holdings.items())

    def gross_position(self, prices: Mapping[int, float]) -> float:
        """Return the value of all positions, longs and shorts added up."""
        return sum(abs(one.quantity) * prices[con_id] for con_id, one in self.holdings.items())

    def unrealized(self, con_id: int, price: float) -> float:
        """Return what closing a holding at `price` would realize."""
        holding = self.holdings.get(con_id)
        return holding.quantity * (price - holding.average_cost) if holding else 0.0

    def values(self, prices: Mapping[int, float]) -> list[tuple[str, str, str]]:
        """Return (key, value, currency) as account updates and summaries carry them."""
        net = self.net_liquidation(prices)
        gross = self.gross_position(prices)
        margin = gross * _MARGIN_SHARE
        free = net - margin
        unrealized = sum(self.unrealized(con_id, prices[con_id]) for con_id in self.holdings)
        realized = sum(one.realized_pnl for one in self.holdings.values())
        amounts = {
            "NetLiquidation": net,
            "TotalCashValue": self.cash,
            "TotalCashBalance": self.cash,
            "CashBalance": self.cash,
            "SettledCash": self.cash,
            "EquityWithLoanValue": net,
            "GrossPositionValue": gross,
            "StockMarketValue": net - self.cash,
            "InitMarginReq": margin,
            "MaintMarginReq": margin,
            "FullInitMarginReq": margin,
            "FullMaintMarginReq": margin,
            "AvailableFunds": free,
            "ExcessLiquidity": free,
            "BuyingPower": max(0.0, free * LEVERAGE),
            "UnrealizedPnL": unrealized,
            "RealizedPnL": realized,
        }
        rows = [
            ("AccountCode", self.number, ""),
            ("AccountReady", "true", ""),
            ("AccountType", "INDIVIDUAL", ""),
            ("Currency", self.currency, self.currency),
        ]
        return rows + [(key, f"{amount:.2f}", self.currency) for key, amount in amounts.items()]
