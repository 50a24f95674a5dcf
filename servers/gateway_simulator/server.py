"""The gateway: one session, one account, and every client that is connected."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway_simulator import GatewayError, messages
from gateway_simulator.clock import ReplayClock
from gateway_simulator.connection import Connection
from gateway_simulator.contracts import list_instruments, trading_hours
from gateway_simulator.faults import Fault
from gateway_simulator.orders import Order, OrderFilled, OrderNews, OrderRefused
from gateway_simulator.replay import Line, Move, Replay
from gateway_simulator.session import Session
from gateway_simulator.state import StateFile
from gateway_simulator.wire import encode
from gateway_simulator.wire_log import WireLog

ACCOUNT_NUMBER = "DU0000001"
SUBSCRIBE_GRACE_S = 3.0
MAX_CONNECTIONS = 32
_MAX_MOVES_AT_ONCE = 200
_IDLE_S = 0.02
_STANDSTILL_REFRESH_S = 0.25
_CONNECTIVITY = {
    "1100": "Connectivity between IBKR and Trader Workstation has been lost.",
    "1101": "Connectivity between IBKR and Trader Workstation has been restored - data lost.",
    "1102": "Connectivity between IBKR and Trader Workstation has been restored - data maintained.",
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """How the gateway behaves.

    Attributes:
        speed: Replayed seconds per wall second.
        cash: The account's at the begin of the session.
        pacing: Refuse more than 50 messages a second with error 100.
        depth_lines: Market depth subscriptions a client may have at once.
        state_file: Where the state survives; None: nowhere.
        wire_log: Where stamps go; None: nowhere.
        faults: What to inject.
    """

    speed: float = 300.0
    cash: float = 1_000_000.0
    pacing: bool = True
    depth_lines: int = 10
    state_file: Path | None = None
    wire_log: Path | None = None
    faults: tuple[Fault, ...] = ()


class Gateway:
    """Replays a session to its clients and trades their orders against it."""

    def __init__(self, session: Session, options: Options) -> None:
        self.session = session
        self.options = options
        self.replay = Replay(session)
        self.clock = ReplayClock(options.speed)
        self.state = StateFile(options.state_file)
        self.exchange = self.state.load(self.replay, ACCOUNT_NUMBER, options.cash)
        self.account = self.exchange.account
        self.listings = list_instruments(session)
        self.hours = (trading_hours(session, liquid=False), trading_hours(session, liquid=True))
        self.connections: dict[int, Connection] = {}
        self.wire_log = WireLog(options.wire_log)
        self._everyone: set[Connection] = set()
        self._first_wanted_s: float | None = None
        self._stalled_until_s = 0.0
        self._server: asyncio.Server | None = None
        self._replaying: asyncio.Task[None] | None = None
        self._failure: GatewayError | None = None

    # --- life -------------------------------------------------------------------------------------

    async def start(self, host: str, port: int) -> str:
        """Listen and return the address.

        Raises:
            OSError: The port is in use, or the host is none of this machine.
        """
        self._server = await asyncio.start_server(self._serve, host, port)
        self._replaying = asyncio.create_task(self._run())
        bound_host, bound_port = self._server.sockets[0].getsockname()[:2]
        return f"{bound_host}:{bound_port}"

    async def wait(self) -> None:
        """Wait for the replay, which ends only by failing or by stop().

        Raises:
            GatewayError: Something broke that it can't go on without, such as the state file.
        """
        assert self._replaying is not None
        await asyncio.wait([self._replaying])
        if self._failure is not None:
            raise self._failure
        if not self._replaying.cancelled():
            self._replaying.result()

    def fail(self, failure: GatewayError) -> None:
        """End the replay because of something that happened while a client was served."""
        self._failure = failure
        if self._replaying is not None:
            self._replaying.cancel()

    async def stop(self) -> None:
        """Hang up on everyone and save the state."""
        if self._replaying is not None and not self._replaying.done():
            self._replaying.cancel()
            await asyncio.wait([self._replaying])
        if self._server is not None:
            self._server.close()
        for connection in list(self._everyone):
            connection.close()
        self.wire_log.close()
        if self._failure is None:
            self.state.save(self.exchange)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._everyone) >= MAX_CONNECTIONS:
            writer.close()
            return
        connection = Connection(self, reader, writer)
        self._everyone.add(connection)
        await connection.run()

    def leave(self, connection: Connection) -> None:
        """Forget a client that is gone."""
        self._everyone.discard(connection)
        if self.connections.get(connection.client_id) is connection:
            del self.connections[connection.client_id]

    # --- the replay -------------------------------------------------------------------------------

    def bars_wanted(self) -> None:
        """Note that a client follows bars: the replay starts when it follows all, or soon after."""
        if self._first_wanted_s is None:
            self._first_wanted_s = time.monotonic()

    async def _run(self) -> None:
        while not self._may_start():
            self._flush()
            await asyncio.sleep(_IDLE_S)
        self.clock.start(self.replay.elapsed_ns())
        log.info("replay started", moves=self.replay.moves, speed=self.options.speed)
        while True:
            await self._advance()

    def _may_start(self) -> bool:
        if self._first_wanted_s is None:
            return False
        wanted: set[int] = set()
        for connection in self.connections.values():
            wanted |= connection.subscriptions.bar_con_ids()
        return wanted >= set(self.listings) or time.monotonic() - self._first_wanted_s >= SUBSCRIBE_GRACE_S

    async def _advance(self) -> None:
        due_ns = self.replay.due_ns()
        if due_ns is None:
            await self._stand_still()
            return
        wait_s = self.clock.wait_s(due_ns)
        if wait_s > 0:
            self._flush()
            await asyncio.sleep(min(wait_s, _IDLE_S))
            return
        for _ in range(_MAX_MOVES_AT_ONCE):
            move = self.replay.advance()
            if move.closed:
                await self._close_bars(move)
                break
            self._step(move)
            due_ns = self.replay.due_ns()
            if due_ns is None or self.clock.wait_s(due_ns) > 0:
                break
        self._flush()
        await asyncio.sleep(0)

    async def _stand_still(self) -> None:
        for line in self.replay.lines.values():
            line.refresh(self.replay.now_ns)
        self.publish(self.exchange.match(self.replay.lines.values()))
        self._flush()
        await asyncio.sleep(_STANDSTILL_REFRESH_S)

    def _step(self, move: Move) -> None:
        self.publish(self.exchange.match(move.changed))
        if self._silent():
            return
        for connection in self.connections.values():
            for line in move.changed:
                connection.send(*connection.subscriptions.on_step(line))

    async def _close_bars(self, move: Move) -> None:
        self.state.save(self.exchange)
        for line, index in move.closed:
            self._send_close(line, int(line.series.end_ns[index]))
        for connection in self.connections.values():
            self._send_figures(connection)
        for fault in self.options.faults:
            if fault.at_bar == move.slot:
                self._inject(fault)
        if self.replay.ended:
            log.info("session ended; the last quotes stay")

    def _send_close(self, line: Line, end_ns: int) -> None:
        if self._silent():
            return
        for connection in self.connections.values():
            frames = connection.subscriptions.closing(line)
            if frames:
                # Taken before: the client may run before a system call that wakes it returns.
                sent_ns = time.monotonic_ns()
                connection.send(*frames)
                self.wire_log.bar_close_sent(line.instrument.con_id, end_ns, sent_ns)

    def _flush(self) -> None:
        if self._silent():
            return
        now_ns = time.monotonic_ns()
        for connection in list(self.connections.values()):
            connection.send(*connection.subscriptions.due(now_ns))

    def _silent(self) -> bool:
        return not self.exchange.connected or time.monotonic() < self._stalled_until_s

    # --- orders and the account -------------------------------------------------------------------

    def publish(self, news: Sequence[OrderNews]) -> None:
        """Save what happened, then tell it to whom it concerns."""
        if not news:
            return
        self.state.save(self.exchange)
        filled: set[int] = set()
        for one in news:
            client_id = one.client_id if isinstance(one, OrderRefused) else one.order.client_id
            if isinstance(one, OrderFilled):
                filled.add(one.order.con_id)
            connection = self.connections.get(client_id)
            if connection is not None:
                connection.tell(one)
        if filled:
            for connection in self.connections.values():
                for con_id in filled:
                    if connection.follows_positions:
                        self.send_position(connection, con_id)
                self._send_figures(connection)

    def why_held(self, order: Order) -> str:
        """Return what IB says an order waits for."""
        if order.status != "PreSubmitted":
            return ""
        parent = self.exchange.orders.get((order.client_id, order.parent_id))
        waits = ["child"] if parent is not None and not parent.filled else []
        return ",".join([*waits, *(["trigger"] if order.is_stop else [])])

    def send_position(self, connection: Connection, con_id: int) -> None:
        """Send what the account holds of an instrument."""
        holding = self.account.holdings[con_id]
        frame = messages.position(
            self.listings[con_id], self.account.number, holding.quantity, holding.average_cost
        )
        connection.send(frame)

    def send_account(self, connection: Connection) -> None:
        """Send all account values, the portfolio and the end marks of a download."""
        prices, number = self.exchange.prices(), self.account.number
        frames = [encode(6, 2, *row, number) for row in self.account.values(prices)]
        frames += [
            messages.portfolio_value(
                self.listings[con_id],
                number,
                one.quantity,
                prices[con_id],
                one.average_cost,
                one.realized_pnl,
            )
            for con_id, one in self.account.holdings.items()
        ]
        now = messages.utc_text(self.replay.now_ns).split(" ")[1][:5]
        connection.send(*frames, encode(8, 1, now), encode(54, 1, number))

    def send_summary(self, connection: Connection, request_id: int) -> None:
        """Send the values a summary asked for."""
        tags = connection.summaries[request_id]
        for key, value, currency in self.account.values(self.exchange.prices()):
            if not tags or key in tags:
                connection.send(encode(63, 1, request_id, self.account.number, key, value, currency))

    def send_pnl(self, connection: Connection, request_id: int) -> None:
        """Send the PnL a request asked for: of the account, or of one instrument."""
        con_id, prices = connection.pnl[request_id], self.exchange.prices()
        chosen = [con_id] if con_id else list(self.account.holdings)
        held = {one: self.account.holdings[one] for one in chosen if one in self.account.holdings}
        open_pnl = sum(self.account.unrealized(one, prices[one]) for one in held)
        closed_pnl = sum(holding.realized_pnl for holding in held.values())
        figures = [messages.number(value) for value in (open_pnl + closed_pnl, open_pnl, closed_pnl)]
        if con_id:
            quantity = held[con_id].quantity if con_id in held else 0.0
            value = messages.number(quantity * prices[con_id])
            connection.send(encode(95, request_id, messages.number(quantity), *figures, value))
        else:
            connection.send(encode(94, request_id, *figures))

    def _send_figures(self, connection: Connection) -> None:
        if connection.follows_account:
            self.send_account(connection)
        for request_id in connection.summaries:
            self.send_summary(connection, request_id)
        for request_id in connection.pnl:
            self.send_pnl(connection, request_id)

    # --- faults -----------------------------------------------------------------------------------

    def _inject(self, fault: Fault) -> None:
        log.info("fault", kind=fault.kind, at_bar=fault.at_bar, value=fault.value, symbol=fault.symbol)
        if fault.kind == "disconnect":
            for connection in list(self._everyone):
                connection.close()
        elif fault.kind in _CONNECTIVITY:
            self._change_connectivity(fault.kind)
        elif fault.kind == "reject_orders":
            self.exchange.refuse_next = fault.value
        elif fault.kind == "stall_ms":
            self._stalled_until_s = time.monotonic() + fault.value / 1000
        else:
            for line in self.replay.lines.values():
                if line.instrument.symbol == fault.symbol:
                    line.halted = fault.kind == "halt"

    def _change_connectivity(self, code: str) -> None:
        self.exchange.connected = code != "1100"
        for connection in list(self.connections.values()):
            if code == "1101":
                connection.subscriptions.clear()
            connection.error(-1, int(code), _CONNECTIVITY[code])
