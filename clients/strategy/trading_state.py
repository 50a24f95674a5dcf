"""Whether orders may go out, and why not: one place that every order passes.

A kill is latched in a file, so that a restart stays killed until a person resets it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from strategy.ports import ConnectionState


class TradingState(StrEnum):
    """Whether the strategy may send entries; the first that applies counts, in this order."""

    KILLED = "killed"
    HALTED = "halted"
    DISCONNECTED = "disconnected"
    STARTING = "starting"
    PAUSED = "paused"
    TRADING = "trading"


class StateError(Exception):
    """A command does not fit the state; the message says why and what to do."""


class TradingGate:
    """Holds what blocks trading: kill, halt, connection, start, pause.

    Args:
        latch_file: Where a kill survives a restart.
        on_change: Called with the state and the reason whenever either changes.
    """

    def __init__(self, latch_file: Path, on_change: Callable[[TradingState, str], None]) -> None:
        self._latch_file = latch_file
        self._on_change = on_change
        self._connection = (ConnectionState.CONNECTING, "not connected yet")
        self._started = False
        self._paused = ""
        self._halted = ""
        self._killed = _read_latch(latch_file)
        self._last = (self.state, self.reason)

    @property
    def state(self) -> TradingState:
        """What applies now."""
        return self._now()[0]

    @property
    def reason(self) -> str:
        """Why, in words; empty while trading."""
        return self._now()[1]

    @property
    def may_enter(self) -> bool:
        """Whether new positions may be opened."""
        return self.state is TradingState.TRADING

    @property
    def may_exit(self) -> bool:
        """Whether positions may be closed: whenever the broker's state is known."""
        return self._connection[0] is ConnectionState.READY

    @property
    def killed(self) -> bool:
        """Whether the kill switch is latched."""
        return bool(self._killed)

    @property
    def how_to_reset(self) -> str:
        """What a person does to trade again after a kill."""
        return f"call ResetKillSwitch and Resume, or delete {self._latch_file} and start again"

    def started(self) -> None:
        """History, contracts and reconciliation are there."""
        self._started = True
        self._tell()

    def connection(self, state: ConnectionState, reason: str) -> None:
        """The broker's connection changed."""
        self._connection = (state, reason)
        self._tell()

    def pause(self, reason: str) -> None:
        """Stop entries until resume()."""
        self._paused = reason or "paused by a person"
        self._tell()

    def resume(self) -> None:
        """Allow entries again.

        Raises:
            StateError: Halted or killed.
        """
        if self._killed:
            raise StateError(f"killed ({self._killed}); reset the kill switch first")
        if self._halted:
            raise StateError(f"halted ({self._halted}); start a new session after looking into it")
        self._paused = ""
        self._tell()

    def halt(self, reason: str) -> None:
        """A risk limit was hit: no entries until the end of this run."""
        if not self._halted:
            self._halted = reason
            self._tell()

    def kill(self, reason: str) -> None:
        """Latch the kill switch."""
        if not self._killed:
            self._killed = reason or "no reason given"
            self._tell()  # first stop, then write down: a full disk must not keep it from stopping
            try:
                self._latch_file.parent.mkdir(parents=True, exist_ok=True)
                self._latch_file.write_text(json.dumps({"reason": self._killed}))
            except OSError as error:
                self._killed += f" (a restart will NOT stay killed: {error})"
                self._tell()

    def reset_kill(self) -> None:
        """Unlatch the kill switch; the strategy is paused afterwards.

        Raises:
            StateError: The broker's state is not known.
        """
        if not self.may_exit:
            raise StateError("the gateway is away or not reconciled; reset after it is back")
        self._killed = ""
        self._latch_file.unlink(missing_ok=True)
        self.pause("kill switch was reset; resume to trade")

    def _now(self) -> tuple[TradingState, str]:
        if self._killed:
            return TradingState.KILLED, self._killed
        if self._halted:
            return TradingState.HALTED, self._halted
        state, reason = self._connection
        if not self._started:
            return TradingState.STARTING, reason
        if state is not ConnectionState.READY:
            return TradingState.DISCONNECTED, reason
        if self._paused:
            return TradingState.PAUSED, self._paused
        return TradingState.TRADING, ""

    def _tell(self) -> None:
        now = self._now()
        if now != self._last:
            self._last = now
            self._on_change(*now)


def _read_latch(latch_file: Path) -> str:
    try:
        return str(json.loads(latch_file.read_text())["reason"])
    except FileNotFoundError:
        return ""
    except (ValueError, KeyError, TypeError, OSError) as error:
        return f"{latch_file} is there but unreadable ({error}); delete it to reset"
