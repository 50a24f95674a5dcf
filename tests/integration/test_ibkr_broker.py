from __future__ import annotations

import time
from dataclasses import replace
from decimal import Decimal

import pytest

from fakes.ibkr_world import CLIENT_ID, World, intent, price
from fakes.waiting import until
from gateway_simulator import messages
from strategy.adapters.errors import BrokerError
from strategy.core.values import Purpose, Side
from strategy.ports import ConnectionState

SLOW = 30.0  # a bar every two seconds


def touch(world: World, con_id: int) -> tuple[float, float]:
    """Best bid and ask at the gateway."""
    assert world.gateway is not None
    bids, asks = world.gateway.replay.lines[con_id].book()
    return bids[0][0], asks[0][0]


async def test_a_market_order_fills_and_everything_about_it_is_told() -> None:
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        order = intent(aapl, Side.BUY, 10)
        before_ns = time.monotonic_ns()
        sent_ns = world.broker.place(order)
        assert before_ns <= sent_ns <= time.monotonic_ns()
        got = world.recorder
        await until(lambda: got.status(order.entry_ref) == "Filled" and bool(got.commissions))
        last = [event for event in got.orders if event.order_ref == order.entry_ref][-1]
        assert (last.filled, last.remaining, last.perm_id > 0, last.error_code) == (
            Decimal(10),
            Decimal(0),
            True,
            0,
        )
        assert sum(fill.quantity for fill in got.fills) == 10
        assert {fill.order_ref for fill in got.fills} == {order.entry_ref}
        assert [fill.exec_id for fill in got.fills] == [c.exec_id for c in got.commissions]
        await until(lambda: bool(got.positions) and got.positions[-1].quantity == 10)
        await until(lambda: bool(got.accounts) and got.accounts[-1].cash < 1_000_000)
        assert got.commissions[0].commission > 0


async def test_a_bracket_fills_in_parts_and_its_stop_guards_what_is_filled() -> None:
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        _, ask = touch(world, aapl.con_id)
        order = intent(
            aapl,
            Side.BUY,
            5_000,  # several levels of the book
            purpose=Purpose.ENTRY,
            limit_price=price(ask + 0.5),
            stop_price=price(ask * 0.9),
            take_profit_price=price(ask * 1.2),
        )
        world.broker.place(order)
        got = world.recorder
        await until(lambda: got.status(order.entry_ref) == "Filled")
        assert len(got.fills) > 1
        assert sum(fill.quantity for fill in got.fills) == order.quantity
        await until(lambda: got.status(order.stop_ref) == "PreSubmitted")
        await until(lambda: got.status(order.take_profit_ref) in ("Submitted", "PreSubmitted"))
        assert world.gateway is not None
        children = {o.order_ref: o for o in world.gateway.exchange.working()}
        assert set(children) == {order.stop_ref, order.take_profit_ref}
        assert {o.tif for o in children.values()} == {"GTC"}
        assert {o.oca_type for o in children.values()} == {2}


async def test_the_stop_of_a_bracket_fires_and_ends_the_take_profit() -> None:
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        bid, ask = touch(world, aapl.con_id)
        order = intent(
            aapl,
            Side.BUY,
            10,
            purpose=Purpose.ENTRY,
            stop_price=price(ask + 5),  # above the market: fires with the next print
            take_profit_price=price(bid * 1.5),
        )
        world.broker.place(order)
        got = world.recorder
        await until(lambda: got.status(order.stop_ref) == "Filled")
        await until(lambda: got.status(order.take_profit_ref) == "Cancelled")
        assert sum(f.quantity if f.side is Side.BUY else -f.quantity for f in got.fills) == 0
        await until(lambda: any(c.realized_pnl is not None for c in got.commissions))


async def test_one_order_and_all_orders_can_be_cancelled() -> None:
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        orders = [intent(aapl, Side.BUY, 10, limit_price=Decimal(n)) for n in (10, 11, 12)]
        for order in orders:
            world.broker.place(order)
        got = world.recorder
        await until(lambda: all(got.status(o.entry_ref) == "Submitted" for o in orders))
        assert world.broker.cancel(orders[0].entry_ref)
        assert not world.broker.cancel("ts/unknown/E")
        await until(lambda: got.status(orders[0].entry_ref) == "Cancelled")
        assert not world.broker.cancel(orders[0].entry_ref)
        assert world.broker.cancel_all() == 2
        await until(lambda: all(got.status(o.entry_ref) == "Cancelled" for o in orders))
        assert world.broker.cancel_all() == 0


async def test_a_refused_order_is_inactive_with_the_gateways_reason() -> None:
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        big = intent(aapl, Side.BUY, 10_000_000)
        off_grid = intent(aapl, Side.BUY, 10, limit_price=Decimal("10.001"))
        world.broker.place(big)
        world.broker.place(off_grid)
        got = world.recorder
        await until(lambda: got.status(big.entry_ref) == "Inactive" == got.status(off_grid.entry_ref))
        codes = {event.order_ref: event.error_code for event in got.orders}
        assert codes == {big.entry_ref: 201, off_grid.entry_ref: 110}
        assert any("min_tick" in event.message for event in got.orders)


@pytest.mark.parametrize(
    ("code", "status"),
    [(10349, "Submitted"), (399, "Submitted"), (404, "Submitted"), (2109, "Submitted")],
)
async def test_a_note_about_a_live_order_leaves_it_live(code: int, status: str) -> None:
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        order = intent(aapl, Side.BUY, 10, limit_price=Decimal(10))
        world.broker.place(order)
        got = world.recorder
        await until(lambda: got.status(order.entry_ref) == "Submitted")
        world.server_side().error(got.orders[-1].order_id, code, "a note")
        await until(lambda: got.orders[-1].error_code == code)
        assert got.orders[-1].status == status
        assert world.broker.cancel(order.entry_ref)
        await until(lambda: got.status(order.entry_ref) == "Cancelled")


@pytest.mark.parametrize("code", [202, 321, 10147, 10999])
async def test_an_error_without_an_order_status_leaves_an_order_unconfirmed(code: int) -> None:
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        order = intent(aapl, Side.BUY, 10, limit_price=Decimal(10))
        world.broker.place(order)
        got = world.recorder
        await until(lambda: got.status(order.entry_ref) == "Submitted")
        world.server_side().error(got.orders[-1].order_id, code, "something")
        await until(lambda: got.status(order.entry_ref) == "Unconfirmed")
        assert got.orders[-1].message.startswith(f"{code}: something")
        assert world.broker.cancel(order.entry_ref)
        await until(lambda: got.status(order.entry_ref) == "Cancelled")


async def test_nothing_is_sent_while_the_connection_is_not_ready() -> None:
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        assert world.gateway is not None
        world.gateway.connections[CLIENT_ID].error(-1, 1100, "Connectivity has been lost")
        await until(lambda: world.broker.state is ConnectionState.DISCONNECTED)
        order = intent(aapl, Side.BUY, 10)
        with pytest.raises(
            BrokerError, match=r"nothing was sent, because the connection is disconnected \(1100"
        ):
            world.broker.place(order)
        world.gateway.connections[CLIENT_ID].error(-1, 1102, "Connectivity restored")
        await until(lambda: world.broker.state is ConnectionState.READY)
        assert world.gateway.exchange.orders == {}
        world.broker.place(order)
        await until(lambda: world.recorder.status(order.entry_ref) == "Filled")


async def test_an_order_is_never_sent_twice() -> None:
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        order = intent(aapl, Side.BUY, 10)
        world.broker.place(order)
        with pytest.raises(BrokerError, match="never sent twice"):
            world.broker.place(order)
        await until(lambda: world.recorder.status(order.entry_ref) == "Filled")
        assert world.gateway is not None
        assert len(world.gateway.exchange.orders) == 1


async def test_an_order_beyond_the_message_rate_is_refused_and_a_cancel_still_goes() -> None:
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        placed = []
        with pytest.raises(BrokerError, match="messages were sent within a second"):
            for _ in range(60):
                order = intent(aapl, Side.BUY, 1, limit_price=Decimal(10))
                world.broker.place(order)
                placed.append(order)
        assert world.broker.cancel_all() == len(placed) > 5
        got = world.recorder
        # The account allows twenty working orders per contract and side.
        await until(lambda: all(got.status(o.entry_ref) in ("Cancelled", "Inactive") for o in placed))
        assert not any("100:" in reason for _, reason in got.connections)


async def test_an_order_goes_at_once_while_subscriptions_wait() -> None:
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        session = world.connection.session
        assert session is not None
        while session.pacer.room() > 15:
            assert session.pacer.try_take(1)
        order = intent(aapl, Side.BUY, 1)
        before_ns = time.monotonic_ns()
        world.broker.place(order)
        await until(lambda: world.recorder.status(order.entry_ref) == "Filled", 0.9)
        assert time.monotonic_ns() - before_ns < 900_000_000


async def test_a_corrected_execution_is_no_second_fill_but_asks_for_the_truth() -> None:
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        order = intent(aapl, Side.BUY, 1)
        world.broker.place(order)
        got = world.recorder
        await until(lambda: got.status(order.entry_ref) == "Filled" and len(got.commissions) == 1)
        assert world.gateway is not None
        gateway, server = world.gateway, world.server_side()
        corrected = replace(
            gateway.exchange.executions[0], exec_id=got.fills[0].exec_id[:-2] + "02", price=1.0
        )
        gateway.exchange.executions.append(corrected)
        listing, account = gateway.listings[aapl.con_id], gateway.account.number
        server.send(messages.execution_details(server.version, -1, corrected, listing, account))
        await until(lambda: len(got.snapshots) == 2 and world.broker.state is ConnectionState.READY)
        assert len(got.fills) == 1
        assert [(f.exec_id, f.price) for f in got.snapshots[-1].fills] == [(corrected.exec_id, Decimal(1))]


async def test_a_listener_that_fails_does_not_break_the_next_one() -> None:
    import asyncio

    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context["exception"]))
    async with World(SLOW) as world:
        (aapl,) = await world.start("AAPL")
        world.recorder.on_fill = lambda fill: 1 / 0  # type: ignore[assignment, method-assign]
        order = intent(aapl, Side.BUY, 1)
        world.broker.place(order)
        await until(
            lambda: world.recorder.status(order.entry_ref) == "Filled" and bool(world.recorder.commissions)
        )
        assert any(isinstance(problem, ZeroDivisionError) for problem in problems)
