"""A strategy's control service in a process of its own, with the bounds of the real one and an idle engine."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from server_runtime import logs
from server_runtime.server import GrpcServer
from strategy.adapters.control import SERVICE, StrategyServicer, control_options, register
from strategy.core.values import Position
from strategy.status import DecisionFeed, ServiceView, StatusView
from strategy.trading_state import TradingState

_SERVICES = tuple(ServiceView(name, "127.0.0.1:1", 100, 1, "late") for name in ("lstm_cnn", "gaf_resnet"))


class IdleEngine:
    """What the control service shows of a strategy that does nothing."""

    def __init__(self) -> None:
        self.decisions = DecisionFeed()

    def status(self) -> StatusView:
        """Return a status as long as a real one."""
        return StatusView(
            "overload", "paper", TradingState.PAUSED, "bench", 100_000.0, 0.0, 0.0, 0, 0, 1, _SERVICES
        )

    def open_positions(self) -> Sequence[tuple[Position, float]]:
        """Return none."""
        return ()

    def pause(self, reason: str) -> TradingState:
        """Stay paused."""
        del reason
        return TradingState.PAUSED

    def resume(self, reason: str) -> TradingState:
        """Stay paused."""
        return self.pause(reason)

    def reset_kill(self, reason: str) -> TradingState:
        """Stay paused."""
        return self.pause(reason)

    def kill(self, reason: str) -> int:
        """Cancel nothing."""
        del reason
        return 0


def main() -> int:
    """Serve until SIGTERM; the first argument is `--ready-file`, the second its path."""
    logs.configure("control", json=False, level="warning")
    server = GrpcServer(replace(control_options("127.0.0.1", 0), ready_file=Path(sys.argv[2])))
    server.add_service(SERVICE, register(StrategyServicer(IdleEngine())))
    asyncio.run(server.serve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
