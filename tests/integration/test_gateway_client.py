"""The unmodified client library against the simulator over a real socket.

`TRADESERVE_IB_LIBRARY` names the library; test_gateway_ib_async.py runs this file again under
ib_async, which can't be installed beside ib_insync.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import time
import warnings
from collections.abc import AsyncIterator, Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from gateway_simulator.faults import Fault
from gateway_simulator.generated import generate
from gateway_simulator.server import Gateway, Options
from gateway_simulator.session import NS_PER_S, Session

LIBRARY = os.environ.get("TRADESERVE_IB_LIBRARY", "ib_insync")
with warnings.catch_warnings():
    # Python 3.12 and later: eventkit asks for the current event loop while it is imported, before there is one.
    warnings.filterwarnings("ignore", "There is no current event loop", DeprecationWarning)
    api = importlib.import_module(LIBRARY)
SYMBOLS = ("ALFA", "BRVO")
SESSION: Session = generate(SYMBOLS)


class Bench:
    """A gateway and a client of it."""

    def __init__(self, gateway: Gateway, address: str) -> None:
        self.gateway = gateway
        self.port = int(address.rsplit(":", 1)[1])
        self.ib: Any = api.IB()
        self.errors: list[tuple[int, int]] = []
        self.ib.errorEvent += lambda request_id, code, *_: self.errors.append((request_id, code))
        self.stocks: list[Any] = []

    async def connect(self, client_id: int = 7) -> None:
        await self.ib.connectAsync("127.0.0.1", self.port, clientId=client_id, timeout=10)
        self.stocks = [api.Stock(symbol, "SMART", "USD") for symbol in SYMBOLS]
        await self.ib.qualifyContractsAsync(*self.stocks)

    async def follow_bars(self) -> list[Any]:
        return [
            await self.ib.reqHistoricalDataAsync(stock, "", "2 D", "5 mins", "TRADES", True, 2, True)
            for stock in self.stocks
        ]

    def codes(self) -> set[int]:
        return {code for _, code in self.errors}


async def until(condition: Callable[[], object], what: str, timeout_s: float = 15.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.01)


@pytest.fixture
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    options = getattr(request, "param", Options(speed=1500.0))
    gateway = Gateway(SESSION, options)
    one = Bench(gateway, await gateway.start("127.0.0.1", 0))
    yield one
    one.ib.disconnect()
    await gateway.stop()


async def test_it_connects_and_describes_contracts(bench: Bench) -> None:
    await bench.connect()
    ib = bench.ib
    assert ib.client.serverVersion() == (176 if LIBRARY == "ib_insync" else 178)
    assert ib.managedAccounts() == ["DU0000001"]
    assert bench.stocks[0].conId == SESSION.series[0].instrument.con_id
    details = (await ib.reqContractDetailsAsync(bench.stocks[0]))[0]
    assert details.minTick == 0.01
    hours = details.liquidSessions()
    assert int(hours[0].start.timestamp()) * NS_PER_S == SESSION.start_ns
    assert int(hours[-1].end.timestamp()) * NS_PER_S == SESSION.end_ns
    assert int((await ib.reqCurrentTimeAsync()).timestamp()) * NS_PER_S == SESSION.start_ns
    assert await ib.reqContractDetailsAsync(api.Stock("NOPE", "SMART", "USD")) == []
    assert 200 in bench.codes()
    assert {2104, 2106, 2158} <= bench.codes()


async def test_bars_close_live_exactly_as_the_session_has_them(bench: Bench) -> None:
    await bench.connect()
    bar_lists = await bench.follow_bars()
    closed: dict[str, list[Any]] = {symbol: [] for symbol in SYMBOLS}
    for bars in bar_lists:
        assert len(bars) == 2 * 78 + 1
        assert int(bars[-1].date.timestamp()) * NS_PER_S == SESSION.start_ns
        symbol = bars.contract.symbol
        bars.updateEvent += lambda b, new, s=symbol: closed[s].append(b[-2]) if new else None
    await until(lambda: all(len(bars) >= 3 for bars in closed.values()), "three closed bars of each symbol")
    for series in SESSION.series:
        for number, bar in enumerate(closed[series.instrument.symbol]):
            index = series.first + number
            assert int(bar.date.timestamp()) * NS_PER_S == series.start_ns[index]
            expected = [
                float(c[index]) for c in (series.open, series.high, series.low, series.close, series.volume)
            ]
            assert [bar.open, bar.high, bar.low, bar.close, bar.volume] == expected


async def test_bad_history_requests_get_ibs_codes(bench: Bench) -> None:
    await bench.connect()
    # ib_async takes 321 for a warning and waits for an answer that never comes.
    ask = partial(bench.ib.reqHistoricalDataAsync, timeout=1.5)
    assert not await ask(bench.stocks[0], "", "1 D", "1 min", "TRADES", True, 1)
    assert not await ask(bench.stocks[0], "", "1 D", "7 mins", "TRADES", True, 1)
    assert not await ask(bench.stocks[0], "", "1 D", "5 mins", "BID_ASK", True, 1)
    codes = [code for request_id, code in bench.errors if request_id > 0]
    assert codes == [162, 321, 162]
    plain = await ask(bench.stocks[0], "", "1 D", "5 mins", "TRADES", True, 1)
    assert len(plain) == 78
    assert plain[0].date.tzinfo is not None


async def test_quotes_depth_ticks_and_five_second_bars_stream(bench: Bench) -> None:
    await bench.connect()
    ib, stock = bench.ib, bench.stocks[0]
    ticker = ib.reqMktData(stock, "233")
    ib.reqMktDepth(stock, 10, True)
    other = ib.reqTickByTickData(bench.stocks[1], "AllLast")
    prints: list[Any] = []
    other.updateEvent += lambda one: prints.extend(one.tickByTicks)
    five_seconds = ib.reqRealTimeBars(stock, 5, "TRADES", True)
    await bench.follow_bars()
    await until(lambda: len(five_seconds) > 70 and len(prints) > 20 and ticker.rtVolume > 0, "streams")
    assert 0 < ticker.bid < ticker.ask
    assert ticker.last > 0
    assert ticker.volume > 0
    assert ticker.minTick == 0.01
    assert ticker.marketDataType == 1
    assert len(ticker.domBids) == len(ticker.domAsks) == 10
    assert all(one.price > two.price for one, two in pairwise(ticker.domBids))
    first = [
        bar for bar in five_seconds if bar.time.timestamp() * NS_PER_S < SESSION.start_ns + 300 * NS_PER_S
    ]
    series = SESSION.series[0]
    assert sum(bar.volume for bar in first) == series.volume[series.first]
    ib.cancelMktDepth(stock, True)
    ib.cancelMktData(stock)


async def test_a_bracket_fills_in_parts_and_its_first_exit_cancels_the_other(bench: Bench) -> None:
    await bench.connect()
    ib, stock = bench.ib, bench.stocks[0]
    ticker = ib.reqMktData(stock)
    await bench.follow_bars()
    await until(lambda: ticker.volume > 0, "a first print")
    entry, profit, stop = ib.bracketOrder(
        "BUY", 2500, round(ticker.ask + 1, 2), round(ticker.ask + 20, 2), round(ticker.bid - 0.5, 2)
    )
    trades = []
    for leg, name in ((entry, "E"), (profit, "T"), (stop, "S")):
        leg.tif, leg.orderRef = "DAY", f"ts/1/{name}"
        trades.append(ib.placeOrder(stock, leg))
    await until(lambda: trades[0].orderStatus.status == "Filled", "the entry")
    assert len(trades[0].fills) > 1
    assert sum(fill.execution.shares for fill in trades[0].fills) == 2500
    assert {fill.execution.orderRef for fill in trades[0].fills} == {"ts/1/E"}
    await until(lambda: all(fill.commissionReport.execId for fill in trades[0].fills), "commissions")
    assert sum(fill.commissionReport.commission for fill in trades[0].fills) == pytest.approx(12.5)
    statuses = [entry.status for entry in trades[0].log]
    assert statuses[0] == "PendingSubmit"
    assert statuses[-1] == "Filled"
    profit.lmtPrice = 0.01
    ib.placeOrder(stock, profit)
    await until(lambda: trades[1].orderStatus.status == "Filled", "the profit")
    await until(lambda: trades[2].orderStatus.status == "Cancelled", "the stop's cancellation")
    assert len({trade.order.permId for trade in trades}) == 3
    await until(lambda: not ib.positions(), "a flat position")


async def test_orders_are_refused_cancelled_and_listed(bench: Bench) -> None:
    await bench.connect()
    ib, stock = bench.ib, bench.stocks[0]
    resting = [ib.placeOrder(stock, api.LimitOrder("BUY", 10, 1.0 + n, tif="DAY")) for n in range(3)]
    await until(lambda: all(one.orderStatus.status == "Submitted" for one in resting), "three resting orders")
    ib.cancelOrder(resting[0].order)
    await until(lambda: resting[0].orderStatus.status == "Cancelled", "a cancellation")
    assert 202 in bench.codes()
    ib.client.cancelOrder(99_999)
    await until(lambda: 10147 in bench.codes(), "error 10147")
    ib.placeOrder(stock, api.LimitOrder("BUY", 10, 50.001, tif="DAY"))
    await until(lambda: 110 in bench.codes(), "error 110")
    rejected = ib.placeOrder(stock, api.LimitOrder("BUY", 10**7, 100, tif="DAY"))
    await until(lambda: 201 in bench.codes(), "error 201")
    assert rejected.isDone()
    assert len(await ib.reqAllOpenOrdersAsync()) == 2
    ib.reqGlobalCancel()
    await until(lambda: all(one.orderStatus.status == "Cancelled" for one in resting), "the global cancel")
    assert len(await ib.reqCompletedOrdersAsync(False)) == 3
    state = await ib.whatIfOrderAsync(stock, api.MarketOrder("BUY", 100, tif="DAY"))
    assert float(state.initMarginChange) > 0
    assert state.commission == 1.0


async def test_a_reconnected_client_finds_orders_fills_positions_and_account(bench: Bench) -> None:
    await bench.connect()
    ib, stock = bench.ib, bench.stocks[0]
    filled = ib.placeOrder(stock, api.MarketOrder("BUY", 100, tif="DAY", orderRef="one"))
    resting = ib.placeOrder(stock, api.LimitOrder("BUY", 10, 5.0, tif="GTC", orderRef="two"))
    await until(lambda: filled.isDone() and resting.order.permId, "both orders")
    perm_id, order_id = resting.order.permId, resting.order.orderId
    ib.disconnect()
    await until(lambda: not bench.gateway.connections, "the gateway noticing")
    await bench.connect()
    opened = [trade for trade in ib.openTrades() if trade.order.orderRef == "two"]
    assert [(trade.order.permId, trade.order.orderId) for trade in opened] == [(perm_id, order_id)]
    assert {fill.execution.orderRef for fill in ib.fills()} == {"one"}
    assert [(one.contract.conId, one.position) for one in ib.positions()] == [(stock.conId, 100)]
    values = {value.tag: value.value for value in ib.accountValues() if value.currency == "USD"}
    assert float(values["TotalCashValue"]) < 1_000_000
    assert float(values["NetLiquidation"]) == pytest.approx(1_000_000, abs=200)
    summary = {value.tag for value in await ib.accountSummaryAsync()}
    assert {"NetLiquidation", "BuyingPower", "GrossPositionValue"} <= summary
    assert ib.client.getReqId() > order_id


async def test_a_client_id_in_use_is_refused_with_326(bench: Bench) -> None:
    await bench.connect()
    second = api.IB()
    codes: list[int] = []
    second.errorEvent += lambda _, code, *rest: codes.append(code)
    with pytest.raises((TimeoutError, ConnectionError)):
        await second.connectAsync("127.0.0.1", bench.port, clientId=7, timeout=2)
    assert 326 in codes
    assert bench.ib.isConnected()


FAULTS = (
    Fault(0, "1100"),
    Fault(1, "1102"),
    Fault(2, "reject_orders", 1),
    Fault(3, "halt", symbol="ALFA"),
    Fault(4, "resume", symbol="ALFA"),
    Fault(5, "disconnect"),
)


@pytest.mark.parametrize("bench", [Options(speed=600.0, faults=FAULTS)], indirect=True)
async def test_faults_reach_the_client_after_their_bar(bench: Bench) -> None:
    await bench.connect()
    ib = bench.ib
    ticker = ib.reqMktData(bench.stocks[0])
    bars = (await bench.follow_bars())[0]
    closes: list[int] = []
    bars.updateEvent += lambda b, new: closes.append(int(b[-2].date.timestamp())) if new else None
    await until(lambda: 1100 in bench.codes(), "1100")
    await until(lambda: 1102 in bench.codes(), "1102")
    # What closed meanwhile is made up for: data were maintained.
    await until(lambda: len(closes) >= 3, "bars after 1102")
    assert gaps(closes) == {300}
    await until(lambda: bench.gateway.exchange.refuse_next, "the refusal")
    refused = ib.placeOrder(bench.stocks[1], api.MarketOrder("BUY", 1, tif="DAY"))
    await until(refused.isDone, "the refused order")
    assert 201 in bench.codes()
    await until(lambda: ticker.halted == 1, "the halt")
    await until(lambda: ticker.halted == 0, "the resumption")
    await until(lambda: not ib.isConnected(), "the disconnect")


def gaps(values: list[int]) -> set[int]:
    return {two - one for one, two in pairwise(values)}
