"""The connection to the gateway that feed and broker share: connect, reconcile, reconnect until closed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Protocol

import structlog

from strategy.adapters.errors import BrokerError
from strategy.adapters.ibkr_codes import CodeKind
from strategy.adapters.ibkr_library import Library, load
from strategy.adapters.ibkr_messages import NoOrders, OrderHandler, SessionError, deliver
from strategy.adapters.ibkr_orders import execution_family, parse_account, parse_working_order
from strategy.adapters.ibkr_parsing import redact_account
from strategy.adapters.ibkr_session import IbkrSession
from strategy.core.values import Fill
from strategy.ports import BrokerSnapshot, ConnectionState

log = structlog.get_logger("ibkr")

CLIENT_ID_TAKEN_CODE = 326


class ConnectionObserver(Protocol):
    """Is told what becomes of the connection."""

    def on_connection_state(self, state: ConnectionState, reason: str) -> None:
        """The state changed, or there is news about it."""

    def on_snapshot(self, snapshot: BrokerSnapshot) -> None:
        """Everything the gateway must say after a (re)connect has arrived."""

    def on_session_ready(self, session: IbkrSession, resubscribe: bool) -> None:
        """The session can be used; `resubscribe` when it carries none of the subscriptions."""


_PAPER_PREFIX = "D"  # Interactive Brokers numbers paper accounts DU… and DF…


class IbkrConnection:
    """One client id's connection to a gateway, kept up by itself once opened.

    Orders belong to the client id, so it never changes: while another session holds it, the same id is
    tried again. Positions, open orders, executions and the account must all have arrived before the
    connection is READY; the libraries connect happily without them.

    Args:
        host: Gateway's host.
        port: Gateway's port.
        client_id: Fixed id of this strategy at the gateway, > 0 (0 would adopt manual orders).
        account: Account to trade; "" when the user manages only one.
        paper_only: Refuse an account that is not a paper one.
        connect_timeout_s: Until when `open` must succeed, and how long one attempt may take.
        first_backoff_s: Pause before the second attempt; doubles up to `max_backoff_s`, with jitter.
        max_backoff_s: Longest pause between attempts.
        monotonic_ns: Clock of `receive_ns` and of send times.

    Attributes:
        state: Where the connection stands.
        reason: Why, in words.
        session: The present session; None between two.
        order_handler: Receives messages about orders.
        contracts: The library's contracts of resolved instruments, by con_id.
    """

    def __init__(
        self,
        host: str,
        port: int,
        client_id: int,
        *,
        account: str = "",
        paper_only: bool = True,
        connect_timeout_s: float = 10.0,
        first_backoff_s: float = 0.25,
        max_backoff_s: float = 15.0,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        if client_id <= 0:
            raise BrokerError(f"client_id is {client_id}; a fixed number > 0 is needed")
        self.host, self.port, self.client_id = host, port, client_id
        self.connect_timeout_s = connect_timeout_s
        self.account = account
        self.paper_only = paper_only
        self.state = ConnectionState.DISCONNECTED
        self.reason = "not connected yet"
        self.monotonic_ns = monotonic_ns
        self.session: IbkrSession | None = None
        self.order_handler: OrderHandler = NoOrders()
        self.contracts: dict[int, Any] = {}
        self._observers: list[ConnectionObserver] = []
        self._backoff_s = (first_backoff_s, max_backoff_s)
        self._library: Library | None = None
        self._opening = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self._link_back = asyncio.Event()
        self._data_lost = False

    @property
    def library(self) -> Library:
        """The client library; known once opened."""
        if self._library is None:
            raise BrokerError("the connection was never opened")
        return self._library

    def observe(self, observer: ConnectionObserver) -> None:
        """Tell an observer from now on."""
        if observer not in self._observers:
            self._observers.append(observer)

    async def open(self) -> None:
        """Connect and reconcile, then keep the connection up until `close`; again does nothing.

        Raises:
            BrokerError: No READY connection within the connect timeout; says what to do.
        """
        async with self._opening:
            if self._keeper is not None:
                return
            self._library = load()
            deadline = time.monotonic() + self.connect_timeout_s
            attempt = 0
            while True:
                left_s = deadline - time.monotonic()
                try:
                    await self._establish(max(0.1, left_s))
                    break
                except SessionError as e:
                    pause_s = self._pause_s(attempt)
                    attempt += 1
                    if isinstance(e, UnusableAccountError) or deadline - time.monotonic() <= pause_s:
                        self._set(ConnectionState.DISCONNECTED, str(e))
                        raise BrokerError(f"no connection to the gateway: {e}") from e
                    await asyncio.sleep(pause_s)
            self._keeper = asyncio.create_task(self._keep(), name="ibkr connection")
            self._keeper.add_done_callback(self._on_keeper_done)

    async def close(self) -> None:
        """Disconnect for good."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})
        await self._drop_session()
        self._set(ConnectionState.DISCONNECTED, "closed")

    def announce(self, reason: str) -> None:
        """Tell the observers news about the connection that leaves its state as it is."""
        self._set(self.state, reason, force=True)

    def request_resync(self, reason: str) -> None:
        """Ask the gateway again for positions, orders and executions; no trading until they arrive."""
        if self.state is ConnectionState.READY:
            self._set(ConnectionState.RECONCILING, reason)
            self._link_back.set()

    # --- one attempt -----------------------------------------------------------------------------

    async def _establish(self, timeout_s: float) -> None:
        """Open one session and reconcile it."""
        await self._drop_session()
        self._link_back.clear()
        self._data_lost = False
        self._set(
            ConnectionState.CONNECTING, f"connecting to {self.host}:{self.port} as client {self.client_id}"
        )
        session = IbkrSession(
            self.library, self.client_id, self.order_handler, self._on_code, self.monotonic_ns
        )
        self.session = session
        try:
            await session.start(self.host, self.port, timeout_s)
            session.account = self._choose_account(session)
            await self._reconcile(session, timeout_s)
            if session.state.link_lost:
                raise SessionError(session.state.link_lost)
        except SessionError as e:
            await self._drop_session()
            if session.state.link_lost:  # why it did not answer
                raise SessionError(session.state.link_lost) from e
            raise
        except BaseException:
            await self._drop_session()
            raise
        self._ready(session, resubscribe=True)

    def _choose_account(self, session: IbkrSession) -> str:
        account = self._only_account(session)
        if self.paper_only and not account.startswith(_PAPER_PREFIX):
            raise UnusableAccountError(
                f"account {redact_account(account)} trades real money and this run is on paper: connect to a "
                "paper gateway (IB Gateway: port 4002), or switch live trading on twice"
            )
        return account

    def _only_account(self, session: IbkrSession) -> str:
        accounts = session.state.accounts
        if self.account in accounts:
            return self.account
        shown = ", ".join(redact_account(a) for a in accounts)
        if self.account:
            raise UnusableAccountError(
                f"account {redact_account(self.account)} is not managed by this login (it manages {shown})"
            )
        if len(accounts) != 1:
            raise UnusableAccountError(f"this login manages {len(accounts)} accounts ({shown}): name one")
        return accounts[0]

    async def _reconcile(self, session: IbkrSession, timeout_s: float) -> None:
        """Have the gateway say what it knows, and check that it said all of it."""
        self._set(
            ConnectionState.RECONCILING, "asking for positions, open orders, executions and the account"
        )
        client = session.client
        session.state.positions.clear()
        session.state.open_orders.clear()
        await session.gather(
            session.ask("positions", client.reqPositions, timeout_s),
            session.ask("open orders", client.reqOpenOrders, timeout_s),
            session.ask("account", lambda: client.reqAccountUpdates(True, session.account), timeout_s),
        )
        # Executions refer to orders, so the orders must be in.
        executions_id = int(client.getReqId())
        own = session.library.execution_filter(clientId=self.client_id, acctCode=session.account)
        await session.ask(executions_id, lambda: client.reqExecutions(executions_id, own), timeout_s)
        snapshot = self._snapshot(session)
        for observer in self._observers:
            deliver(observer.on_snapshot, snapshot)

    def _snapshot(self, session: IbkrSession) -> BrokerSnapshot:
        state = session.state
        fills = latest_executions(list(state.executions.values()))
        filled: defaultdict[int, Decimal] = defaultdict(Decimal)
        for fill in fills:
            filled[fill.perm_id] += fill.quantity
        try:
            account = parse_account(state.account_values)
        except ValueError as e:
            raise SessionError(str(e)) from e
        return BrokerSnapshot(
            positions=tuple(state.positions.values()),
            working_orders=tuple(
                parse_working_order(contract, order, status, filled[int(order.permId)])
                for contract, order, status in state.open_orders.values()
            ),
            fills=fills,
            commissions=tuple(state.commissions[f.exec_id] for f in fills if f.exec_id in state.commissions),
            account=account,
        )

    def _ready(self, session: IbkrSession, resubscribe: bool) -> None:
        self._set(
            ConnectionState.READY,
            f"{self.host}:{self.port} as client {self.client_id}, account {redact_account(session.account)}, "
            f"server version {session.client.serverVersion()}, {session.library.name} {session.library.version}",
        )
        for observer in self._observers:
            deliver(observer.on_session_ready, session, resubscribe)

    async def _drop_session(self) -> None:
        session, self.session = self.session, None
        if session is not None:
            await session.stop()

    # --- afterwards ------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Wait for the session's end or the link's return; bring the connection back each time."""
        while True:
            session = self.session
            if session is None:
                await self._reconnect()
                continue
            link_back = asyncio.ensure_future(self._link_back.wait())
            waits: set[asyncio.Future[Any]] = {session.closed, link_back}
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                link_back.cancel()
            if session.closed.done():
                self._set(ConnectionState.DISCONNECTED, session.closed.result())
                await self._drop_session()
            elif self._link_back.is_set():
                await self._resync(session)

    async def _reconnect(self) -> None:
        attempt = 0
        while True:
            await asyncio.sleep(self._pause_s(attempt))
            attempt += 1
            try:
                await self._establish(self.connect_timeout_s)
                return
            except SessionError as e:
                hint = " (the same client id is tried again)" if e.code == CLIENT_ID_TAKEN_CODE else ""
                self._set(ConnectionState.DISCONNECTED, f"attempt {attempt} failed: {e}{hint}")

    async def _resync(self, session: IbkrSession) -> None:
        self._link_back.clear()
        data_lost, self._data_lost = self._data_lost, False
        try:
            await self._reconcile(session, self.connect_timeout_s)
        except SessionError as e:
            if not session.state.link_lost:
                self._set(ConnectionState.DISCONNECTED, f"not reconciled, connecting anew: {e}")
                await self._drop_session()
            return
        if session.state.link_lost:
            self._set(ConnectionState.DISCONNECTED, session.state.link_lost)
        elif not session.closed.done() and not self._link_back.is_set():
            self._ready(session, resubscribe=data_lost)
        else:
            self._data_lost = self._data_lost or data_lost

    def _on_keeper_done(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and (problem := keeper.exception()) is not None:
            self._set(
                ConnectionState.DISCONNECTED,
                f"reconnecting failed for good: {problem!r}; restart the strategy",
            )
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the connection's keeper failed", "exception": problem, "task": keeper}
            )

    def _on_code(self, kind: CodeKind, line: str) -> None:
        if kind is CodeKind.LINK_LOST:
            self._link_back.clear()
            self._set(ConnectionState.DISCONNECTED, line)
        elif kind in (CodeKind.LINK_BACK, CodeKind.LINK_BACK_DATA_LOST):
            self._data_lost = self._data_lost or kind is CodeKind.LINK_BACK_DATA_LOST
            self._set(ConnectionState.RECONCILING, line)
            self._link_back.set()
        elif kind in (CodeKind.INFO, CodeKind.CLIENT_ID_TAKEN):
            log.info("gateway", message=line)
        else:
            log.warning("gateway", message=line)
            self.announce(line)

    def _pause_s(self, attempt: int) -> float:
        first_s, max_s = self._backoff_s
        return min(max_s, first_s * 2.0 ** min(attempt, 16)) * random.uniform(0.8, 1.2)

    def _set(self, state: ConnectionState, reason: str, force: bool = False) -> None:
        if state is self.state and reason == self.reason and not force:
            return
        self.state, self.reason = state, reason
        log.info("connection", state=state.value, reason=reason)
        for observer in self._observers:
            deliver(observer.on_connection_state, state, reason)


class UnusableAccountError(SessionError):
    """The login does not manage the account that should be traded; trying again is of no use."""


def latest_executions(fills: list[Fill]) -> tuple[Fill, ...]:
    """Return executions in order, each corrected one replaced by its latest correction."""
    latest: dict[str, Fill] = {}
    for fill in fills:
        family = execution_family(fill.exec_id)
        known = latest.get(family)
        if known is None or fill.exec_id > known.exec_id:
            latest[family] = fill
    return tuple(sorted(latest.values(), key=lambda f: (f.event_ns, f.exec_id)))
