"""What the engine does with bars, answers and orders; the outside world is in memory."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from fakes.engine_world import World
from fakes.fake_world import ACME, position, working_order
from journal.rows import DecisionRow, ModelCallRow, OrderEventRow, OrderIntentRow, RiskEventRow
from strategy.core.decision import remake
from strategy.core.values import Account, Probabilities, Purpose, Side
from strategy.ports import BrokerSnapshot, ConnectionState
from strategy.trading_state import TradingState
from tradeserve_client.answers import Reason


def decisions(world: World) -> list[DecisionRow]:
    return [row for row in world.journal.rows if isinstance(row, DecisionRow)]


async def test_a_bar_becomes_a_recorded_decision_and_a_protected_entry(world: World) -> None:
    await world.start()
    await world.bar()

    (entry,) = world.broker.placed
    assert entry.purpose is Purpose.ENTRY
    assert entry.side is Side.BUY
    assert entry.stop_price is not None
    assert entry.stop_price < Decimal("99.99")
    assert entry.quantity * Decimal(100) <= Decimal(2000) * Decimal("1.01")
    (decision,) = decisions(world)
    assert (decision.side, decision.purpose) == ("BUY", "entry")
    assert decision.decision_id == entry.decision_id
    assert set(decision.ledger) == {"window", "forecasts", "decide", "intent", "order"}
    assert len(decision.window) == 60 * 5 * 4
    assert world.held == entry.quantity


async def test_a_recorded_decision_is_made_again_bit_for_bit(world: World) -> None:
    engine = await world.start()
    await world.bar()
    from strategy import config
    from strategy.core.decision import rules_to_json

    rules = rules_to_json(config.load(None, {"strategy.symbols": "ACME", "strategy.bar_size_s": 300}).rules)
    (decision,) = decisions(world)
    again = remake(decision.state, rules)
    assert again.consensus.probabilities is not None
    assert again.consensus.probabilities.up == decision.up_probability
    assert again.verdict is not None
    assert again.verdict.plan is not None
    assert again.verdict.plan.quantity == world.broker.placed[0].quantity
    assert engine.ledger.orders == 1


async def test_below_the_quorum_it_holds_and_names_what_is_missing(world: World) -> None:
    world.forecaster.missing = {"gaf_resnet": Reason.DOWN}
    await world.start()
    await world.bar()

    assert not world.broker.placed
    (decision,) = decisions(world)
    assert decision.side == "HOLD"
    assert decision.up_probability is None
    assert "gaf_resnet" in decision.reason
    assert "gaf_resnet MISSING (down)" in world.text.getvalue()
    calls = {row.service: row for row in world.journal.rows if isinstance(row, ModelCallRow)}
    assert calls["gaf_resnet"].outcome == "down"
    assert not calls["gaf_resnet"].used
    assert calls["lstm_cnn"].used


async def test_an_entry_past_its_budget_is_not_sent(world: World) -> None:
    world.forecaster.takes_ns = 51_000_000
    await world.start()
    await world.bar()

    assert not world.broker.placed
    (decision,) = decisions(world)
    assert decision.side == "HOLD"
    assert "budget was over" in decision.reason


async def test_an_entry_whose_intent_took_too_long_to_write_is_not_sent(world: World) -> None:
    def slow_disk() -> None:
        world.clock.now_ns += 60_000_000

    world.journal.on_durable = slow_disk
    await world.start()
    await world.bar()
    assert not world.broker.placed
    assert "budget was over" in decisions(world)[0].reason


async def test_without_a_durable_intent_no_order_is_sent(world: World) -> None:
    world.journal.disk_full = True
    await world.start()
    await world.bar()

    assert not world.broker.placed
    assert "disk is full" in decisions(world)[0].reason
    assert any(
        row.kind == "intent not durable" for row in world.journal.rows if isinstance(row, RiskEventRow)
    )


async def test_an_opposite_signal_cancels_the_protection_and_then_exits(world: World) -> None:
    await world.start()
    await world.bar()
    entry = world.broker.placed[0]
    world.forecaster.probabilities = Probabilities(0.7, 0.2, 0.1)
    await world.bar()

    assert {entry.stop_ref, entry.take_profit_ref} <= set(world.broker.cancelled)
    exit_order = world.broker.placed[1]
    assert exit_order.purpose is Purpose.EXIT
    assert exit_order.side is Side.SELL
    assert exit_order.quantity == entry.quantity
    assert world.held == 0
    assert decisions(world)[1].side == "SELL"


async def test_while_a_cancel_is_not_confirmed_no_exit_is_sent(world: World) -> None:
    await world.start()
    await world.bar()
    world.forecaster.probabilities = Probabilities(0.7, 0.2, 0.1)
    world.broker.confirm_cancels = False
    world.feed.quote()
    world.feed.bar()
    await world.until(lambda: len(world.broker.cancelled) >= 2)
    stop_ref = world.broker.placed[0].stop_ref
    world.broker.fill(stop_ref)  # the stop fills while its cancel is on the way
    world.broker.confirm_cancels = True
    world.broker.cancel(world.broker.placed[0].take_profit_ref)
    await world.settled()

    assert len(world.broker.placed) == 1, "an exit on top of the filled stop would open a short position"
    assert world.held == 0


async def test_a_position_without_a_stop_is_closed(world: World) -> None:
    world.broker.snapshot = BrokerSnapshot([position(10)], (), (), (), Account(100_000, 0, 0, "USD"))
    await world.start()
    world.forecaster.missing = {"gaf_resnet": Reason.DOWN, "lstm_cnn": Reason.DOWN}
    await world.bar()

    (flatten,) = world.broker.placed
    assert (flatten.purpose, flatten.side, flatten.quantity) == (Purpose.FLATTEN, Side.SELL, Decimal(10))
    assert "unprotected" in world.text.getvalue()


async def test_a_restarted_strategy_keeps_a_position_whose_stop_still_works(world: World) -> None:
    stop = working_order(f"ts/{'a' * 32}/S", Side.SELL, 10, stop_price=98.0)
    world.broker.snapshot = BrokerSnapshot([position(10)], [stop], (), (), Account(100_000, 0, 0, "USD"))
    engine = await world.start()
    await world.bar()

    assert not world.broker.placed
    ((held, stop_price),) = engine.open_positions()
    assert (held.quantity, stop_price) == (Decimal(10), 98.0)


async def test_an_entry_that_does_not_fill_within_a_bar_is_cancelled(world: World) -> None:
    world.broker.fill_entries = False
    await world.start()
    await world.bar()
    entry = world.broker.placed[0]
    await world.bar()
    assert entry.entry_ref in world.broker.cancelled
    await world.bar()
    assert entry.stop_ref in world.broker.cancelled


async def test_disconnected_it_decides_but_sends_nothing(world: World) -> None:
    await world.start()
    world.broker.become(ConnectionState.DISCONNECTED, "1100 connectivity lost")
    await world.bar()

    assert not world.broker.placed
    assert "connection_ready" in decisions(world)[0].reason
    world.broker.listener.on_reconciled(world.broker.snapshot)
    world.broker.become(ConnectionState.READY, "")
    await world.bar()
    assert len(world.broker.placed) == 1


async def test_the_kill_switch_cancels_everything_and_survives_a_restart(world: World) -> None:
    engine = await world.start()
    await world.bar()
    assert engine.kill("drill") == 2
    await world.bar()

    assert world.gate.state is TradingState.KILLED
    assert len(world.broker.placed) == 1, "after a kill nothing is sent, not even an exit"
    assert not world.broker.working()
    from strategy.trading_state import TradingGate

    assert TradingGate(world.folder / "killed.json", lambda *_: None).killed


async def test_a_kill_file_kills(world: World) -> None:
    await world.start()
    (world.folder / "KILL").touch()
    await world.until(lambda: world.gate.killed)


async def test_a_paused_strategy_sends_no_entries_but_keeps_deciding(world: World) -> None:
    engine = await world.start()
    engine.pause("lunch")
    await world.bar()
    assert not world.broker.placed
    assert engine.resume("back") is TradingState.TRADING
    await world.bar()
    assert len(world.broker.placed) == 1


async def test_a_drawdown_beyond_its_limit_halts_and_flattens(world: World) -> None:
    world.overrides = {"risk.max_drawdown_pct": 0.01}
    await world.start()
    await world.bar()
    held = world.held
    assert held
    world.feed.level = 90.0
    await world.bar()

    assert world.gate.state is TradingState.HALTED
    assert "drawdown_pct" in world.gate.reason
    assert world.held == 0


async def test_bars_of_a_gaps_history_fill_the_window_and_are_not_traded(world: World) -> None:
    await world.start()
    world.feed.quote()
    world.feed.bar(old=True)
    await world.settled()
    assert not world.forecaster.requests


async def test_a_bar_that_comes_while_the_last_is_decided_is_skipped_and_told(world: World) -> None:
    world.forecaster.gate = asyncio.Event()
    await world.start()
    world.feed.quote()
    world.feed.bar()
    await world.until(lambda: bool(world.forecaster.requests))
    world.feed.bar()
    world.forecaster.gate.set()
    await world.settled()
    assert len(decisions(world)) == 1
    assert "overrun" in world.text.getvalue()


async def test_before_enough_bars_there_is_no_decision(world: World) -> None:
    world.feed.history_bars = 10
    await world.start()
    await world.bar()
    assert not decisions(world)
    assert "11 of 60 bars" in world.text.getvalue()


async def test_the_run_ends_flat_at_its_end(world: World) -> None:
    world.until_bars = 12
    world.overrides = {"policy.flatten_last_bars": 0, "policy.no_entry_last_bars": 0}
    await world.start()
    for _ in range(12):
        await world.bar()
    assert world.task is not None
    await asyncio.wait_for(world.task, 5)
    assert world.held == 0
    assert world.broker.placed[-1].purpose in (Purpose.FLATTEN, Purpose.EXIT)


async def test_stopped_by_a_person_it_leaves_a_protected_position_and_says_so(world: World) -> None:
    await world.start()
    await world.bar()
    await world.stop()
    assert world.held
    assert "is left open, its stop at" in world.text.getvalue()


async def test_an_entry_that_fills_while_it_leaves_is_seen_and_told(world: World) -> None:
    world.broker.fill_entries = world.broker.confirm_cancels = False
    engine = await world.start()
    await world.bar()
    (entry,) = world.broker.placed
    engine.stop()
    await world.until(lambda: entry.entry_ref in world.broker.cancelled)
    await world.bar()
    world.broker.fill(entry.entry_ref)
    await world.stop()
    assert len(decisions(world)) == 1, "a bar after the end of the run was decided"
    assert f"ACME +{entry.quantity} is left open, its stop at" in world.text.getvalue()


async def test_every_sent_order_has_its_intent_recorded_before(world: World) -> None:
    await world.start()
    for turn in range(6):
        up = 0.7 if turn % 2 == 0 else 0.1
        world.forecaster.probabilities = Probabilities(0.8 - up, 0.2, up)
        await world.bar()
    intents = {row.intent_id for row in world.journal.durable if isinstance(row, OrderIntentRow)}
    sent = {
        row.intent_id for row in world.journal.rows if isinstance(row, OrderEventRow) and row.status == "sent"
    }
    assert sent
    assert sent <= intents


async def test_a_refused_order_leaves_no_trace_of_being_open(world: World) -> None:
    world.broker.refuse = "the gateway is busy"
    engine = await world.start()
    await world.bar()
    assert "the gateway is busy" in decisions(world)[0].reason
    assert not engine.status().orders
    world.broker.refuse = ""
    await world.bar()
    assert world.held == int(world.broker.placed[0].quantity)


async def test_a_broken_decision_is_told_and_the_next_bar_is_decided(world: World) -> None:
    await world.start()
    world.forecaster.probabilities = None  # type: ignore[assignment] # a bug of ours
    await world.bar()
    assert "decision failed" in world.text.getvalue()
    world.forecaster.probabilities = Probabilities(0.2, 0.2, 0.6)
    await world.bar()
    assert len(decisions(world)) == 1


async def test_a_late_answer_is_written_down(world: World) -> None:
    from strategy.ports import LateAnswer

    engine = await world.start()
    engine.on_late(LateAnswer("decision", "lstm_cnn", "id", 3_000_000))
    (row,) = [row for row in world.journal.rows if isinstance(row, ModelCallRow)]
    assert not row.used
    assert "3.00 ms after its deadline" in row.detail
    assert engine.ledger.service("lstm_cnn").late_reported == 1


async def test_delayed_data_are_not_traded(world: World) -> None:
    engine = await world.start()
    engine.on_data_type(ACME.con_id, live=False)
    await world.bar()
    assert not world.broker.placed
    assert "data_live" in decisions(world)[0].reason


async def test_foreign_orders_are_reported_and_left_alone(world: World) -> None:
    foreign = working_order("", Side.SELL, 5)
    world.broker.snapshot = BrokerSnapshot((), [foreign], (), (), Account(100_000, 0, 0, "USD"))
    await world.start()
    await world.bar()
    assert "1 open orders are not ours" in world.text.getvalue()
