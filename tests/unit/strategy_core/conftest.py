from decimal import Decimal

import pytest

from strategy.config import load
from strategy.core.decision import DecisionRules
from strategy.core.policy import PolicyState
from strategy.core.risk_limits import RiskState


@pytest.fixture
def rules() -> DecisionRules:
    """The shipped defaults."""
    return load().rules


@pytest.fixture
def flat() -> PolicyState:
    """Flat in the middle of a session."""
    return PolicyState(Decimal(0), 0, 100, entry_working=False, exit_working=False)


@pytest.fixture
def risk_state() -> RiskState:
    """A state in which everything is allowed."""
    return RiskState(
        trading_mode="paper",
        live_confirmed=False,
        trading_state="running",
        connection_ready=True,
        equity=100_000.0,
        day_start_equity=100_000.0,
        peak_equity=100_000.0,
        gross_notional=0.0,
        open_positions=0,
        position_quantity=Decimal(0),
        orders_last_minute=0,
        bid_price=99.99,
        ask_price=100.01,
        quote_age_ms=10.0,
        data_live=True,
        halted=False,
        within_trading_hours=True,
        atr=0.25,
        min_tick=Decimal("0.01"),
    )
