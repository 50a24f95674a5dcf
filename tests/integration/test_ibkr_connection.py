from __future__ import annotations

import asyncio
import socket
from decimal import Decimal

import pytest

from fakes.ibkr_world import Recorder, World, intent
from fakes.mute_gateway import Manner, MuteGateway
from fakes.waiting import until
from strategy.adapters.errors import BrokerError, FeedError
from strategy.adapters.ibkr_broker import IbkrBroker
from strategy.adapters.ibkr_connection import IbkrConnection
from strategy.adapters.ibkr_feed import IbkrFeed
from strategy.core.values import Side
from strategy.ports import ConnectionState

SLOW = 30.0


async def test_the_snapshot_comes_before_ready_and_the_account_number_is_never_shown() -> None:
    async with World(SLOW) as world:
        await world.start("AAPL")
        got = world.recorder
        assert [entry for entry in got.log if entry != "fill"][:4] == [
            "connecting",
            "reconciling",
            "snapshot",
            "ready",
        ]
        assert got.snapshots[0].account.equity == 1_000_000.0
        assert got.snapshots[0].account.currency == "USD"
        assert world.gateway is not None
        assert not any(world.gateway.account.number in reason for _, reason in got.connections)


async def test_after_a_drop_positions_orders_and_executions_are_reconciled_without_a_duplicate_fill() -> None:
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        got = world.recorder
        bought, resting = intent(aapl, Side.BUY, 10), intent(aapl, Side.BUY, 5, limit_price=Decimal(10))
        world.broker.place(bought)
        world.broker.place(resting)
        await until(
            lambda: got.status(bought.entry_ref) == "Filled" and got.status(resting.entry_ref) == "Submitted"
        )
        await until(lambda: len(got.commissions) == len(got.fills))
        fills = list(got.fills)
        world.drop()
        await until(lambda: len(got.snapshots) == 2 and world.broker.state is ConnectionState.READY)
        snapshot = got.snapshots[-1]
        assert [(p.con_id, p.quantity) for p in snapshot.positions] == [(aapl.con_id, Decimal(10))]
        assert [o.order_ref for o in snapshot.working_orders] == [resting.entry_ref]
        assert {f.exec_id for f in snapshot.fills} == {f.exec_id for f in fills}
        assert {c.exec_id for c in snapshot.commissions} == {f.exec_id for f in fills}
        assert got.fills == fills
        assert got.status(resting.entry_ref) == "Submitted"
        assert world.broker.cancel(resting.entry_ref)
        await until(lambda: got.status(resting.entry_ref) == "Cancelled")


async def test_a_fill_of_while_away_is_delivered_once_and_before_the_snapshot() -> None:
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        got = world.recorder
        order = intent(aapl, Side.BUY, 10, limit_price=Decimal(10))
        world.broker.place(order)
        await until(lambda: got.status(order.entry_ref) == "Submitted")
        assert world.gateway is not None
        exchange = world.gateway.exchange
        world.drop()
        await until(lambda: not world.gateway.connections)  # type: ignore[union-attr]
        ((_, held),) = exchange.orders.items()
        held.limit_price = 10_000.0  # the market came to it
        exchange.match([world.gateway.replay.lines[aapl.con_id]])
        await until(lambda: len(got.snapshots) == 2 and world.broker.state is ConnectionState.READY)
        assert sum(fill.quantity for fill in got.fills) == 10
        tail = got.log[got.log.index("disconnected") :]
        assert tail.index("fill") < tail.index("snapshot")
        assert got.status(order.entry_ref) == "Filled"


async def test_an_order_that_vanished_while_away_is_unconfirmed_not_cancelled() -> None:
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        got = world.recorder
        order = intent(aapl, Side.BUY, 10, limit_price=Decimal(10))
        world.broker.place(order)
        await until(lambda: got.status(order.entry_ref) == "Submitted")
        assert world.gateway is not None
        world.drop()
        world.gateway.exchange.orders.clear()
        await until(lambda: len(got.snapshots) == 2)
        assert got.status(order.entry_ref) == "Unconfirmed"
        assert "not among the open orders" in got.orders[-1].message


async def test_a_new_process_learns_the_orders_and_fills_of_the_one_before() -> None:
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        got = world.recorder
        bought, resting = intent(aapl, Side.BUY, 10), intent(aapl, Side.BUY, 5, limit_price=Decimal(10))
        world.broker.place(bought)
        world.broker.place(resting)
        await until(
            lambda: got.status(bought.entry_ref) == "Filled" and got.status(resting.entry_ref) == "Submitted"
        )
        await world.feed.close()
        await world.broker.close()
        later = Recorder()
        broker = IbkrBroker(world.new_connection())
        await broker.connect(later)
        assert {f.exec_id for f in later.fills} == {f.exec_id for f in got.fills}
        assert later.log.index("snapshot") < later.log.index("fill")
        assert later.status(resting.entry_ref) == "Submitted"
        with pytest.raises(BrokerError, match="never sent twice"):
            broker.place(resting)
        assert broker.cancel(resting.entry_ref)
        await until(lambda: later.status(resting.entry_ref) == "Cancelled")


async def test_a_taken_client_id_is_tried_again_until_it_is_free() -> None:
    async with World(SLOW) as world:
        await world.start()
        late = Recorder()
        second = IbkrBroker(world.new_connection())
        connecting = asyncio.create_task(second.connect(late))
        await until(lambda: any("connecting" in r for _, r in late.connections))
        await until(lambda: sum(s is ConnectionState.CONNECTING for s, _ in late.connections) >= 1)
        await world.broker.close()
        await connecting
        assert second.state is ConnectionState.READY


async def test_a_client_id_that_stays_taken_is_a_clear_error() -> None:
    async with World(SLOW) as world:
        await world.start()
        second = IbkrBroker(world.new_connection(connect_timeout_s=0.5))
        with pytest.raises(
            BrokerError, match=r"client id 7 is in use at the gateway.*326.*stop the other program"
        ):
            await second.connect(Recorder())
        assert world.broker.state is ConnectionState.READY


async def test_without_a_gateway_the_error_names_the_address_and_what_to_do() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    broker = IbkrBroker(IbkrConnection("127.0.0.1", port, 7, connect_timeout_s=0.3))
    with pytest.raises(BrokerError, match=rf"nothing answers at 127.0.0.1:{port}.*start IB Gateway"):
        await broker.connect(Recorder())
    feed = IbkrFeed(IbkrConnection("127.0.0.1", port, 7, connect_timeout_s=0.3), 60, 60)
    with pytest.raises(FeedError, match=f"nothing answers at 127.0.0.1:{port}"):
        await feed.resolve(["AAPL"])


@pytest.mark.parametrize(
    ("manner", "message"),
    [
        (Manner.SILENT, "did not finish the handshake within"),
        (Manner.CLOSING, "closed the connection before the handshake was over"),
        (Manner.GREETING, "did not answer the request for positions"),
        (Manner.OFFLINE, "1100: Connectivity has been lost"),
    ],
)
async def test_a_gateway_that_does_not_say_everything_is_not_ready(manner: Manner, message: str) -> None:
    async with MuteGateway(manner) as gateway:
        got = Recorder()
        broker = IbkrBroker(IbkrConnection("127.0.0.1", gateway.port, 7, connect_timeout_s=0.4))
        with pytest.raises(BrokerError, match=message):
            await broker.connect(got)
        assert got.ready_count() == 0
        assert got.snapshots == []
        assert broker.state is ConnectionState.DISCONNECTED


async def test_an_account_that_is_not_managed_is_refused_without_being_shown() -> None:
    async with World(SLOW) as world:
        broker = IbkrBroker(world.new_connection(account="U7654321"))
        with pytest.raises(BrokerError, match=r"account \*\*\*321 is not managed") as refused:
            await broker.connect(Recorder())
        assert "U7654321" not in str(refused.value)


async def test_on_paper_an_account_with_real_money_is_refused() -> None:
    async with World(SLOW) as world:
        assert world.gateway is not None
        world.gateway.account.number = "U7654321"
        broker = IbkrBroker(world.new_connection())
        with pytest.raises(
            BrokerError, match=r"account \*\*\*321 trades real money and this run is on paper"
        ):
            await broker.connect(Recorder())
        live = IbkrBroker(world.new_connection(paper_only=False))
        await live.connect(Recorder())
        assert live.state is ConnectionState.READY


async def test_a_global_cancel_while_away_is_sent_before_the_connection_is_ready_again() -> None:
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        got = world.recorder
        order = intent(aapl, Side.BUY, 10, limit_price=Decimal(10))
        world.broker.place(order)
        await until(lambda: got.status(order.entry_ref) == "Submitted")
        world.drop()
        await until(lambda: world.broker.state is ConnectionState.DISCONNECTED)
        assert world.broker.cancel_all() == 1
        await until(lambda: got.status(order.entry_ref) == "Cancelled")


async def test_close_ends_the_reconnecting() -> None:
    async with World(SLOW) as world:
        await world.start()
        await world.stop_gateway()
        await until(lambda: any("attempt 2 failed" in r for _, r in world.recorder.connections))
        await world.broker.close()
        assert world.recorder.connections[-1] == (ConnectionState.DISCONNECTED, "closed")
        assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("ibkr connection")]


def test_a_client_id_must_be_fixed() -> None:
    with pytest.raises(BrokerError, match="client_id is 0"):
        IbkrConnection("127.0.0.1", 4002, 0)
