"""The figures of a run for Prometheus: read from the ledger when they are asked for, so a decision pays nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from strategy.ledger import BUCKETS_S, RunLedger, Spans
from strategy.status import StatusView
from strategy.trading_state import TradingState

_READ_TIMEOUT_S = 2.0


class Run(Protocol):
    """What is read of a run; the engine offers it."""

    ledger: RunLedger

    def status(self) -> StatusView:
        """Return the state of the run."""


class RunCollector(Collector):
    """Answers a scrape. The figures are read on the strategy's loop, between two steps of its work."""

    def __init__(self, run: Run, rows: Callable[[], tuple[int, int]]) -> None:
        """Collect the figures of one run.

        Args:
            run: The engine.
            rows: Tells how many rows are recorded and how many wait.

        Raises:
            RuntimeError: No loop runs here.
        """
        self._run = run
        self._rows = rows
        self._loop = asyncio.get_running_loop()

    def describe(self) -> Iterable[Metric]:
        """Describe nothing: a registry would otherwise collect when this is registered."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Read the figures; from any thread but the loop's own.

        Raises:
            TimeoutError: The loop was busy for two seconds.
        """
        return asyncio.run_coroutine_threadsafe(self._read(), self._loop).result(_READ_TIMEOUT_S)

    async def _read(self) -> Sequence[Metric]:
        return [*self._of_decisions(), *self._of_services(), *self._of_shadows(), *self._of_money()]

    def _of_decisions(self) -> Iterator[Metric]:
        ledger = self._run.ledger
        decisions = CounterMetricFamily("tradeserve_decisions", "Decisions by side.", labels=["side"])
        for side, count in ledger.decisions.items():
            decisions.add_metric([side.lower()], count)
        yield decisions
        yield CounterMetricFamily(
            "tradeserve_decisions_without_quorum", "HOLD: too few answers.", ledger.without_quorum
        )
        yield CounterMetricFamily(
            "tradeserve_decisions_over_budget", "Took longer than the budget.", ledger.over_budget
        )
        yield CounterMetricFamily("tradeserve_orders", "Orders sent.", ledger.orders)
        yield CounterMetricFamily("tradeserve_fills", "Fills.", ledger.fills)
        stages = HistogramMetricFamily(
            "tradeserve_decision_stage_seconds", "Time of a stage of a decision.", labels=["stage"]
        )
        for stage, spans in ledger.stages.items():
            _add(stages, stage.replace(" ", "_"), spans)
        yield stages

    def _of_services(self) -> Iterator[Metric]:
        answers = CounterMetricFamily(
            "tradeserve_answers",
            "Answers in time, and why others are missing.",
            labels=["service", "outcome"],
        )
        late = CounterMetricFamily(
            "tradeserve_late_answers", "Came after their deadline and were not used.", labels=["service"]
        )
        round_trips = HistogramMetricFamily(
            "tradeserve_answer_seconds", "Round trip of the answers in time.", labels=["service"]
        )
        again = CounterMetricFamily(
            "tradeserve_second_attempts",
            "Calls sent to a second server: retry for a lost connection, hedge for a slow answer.",
            labels=["service", "cause"],
        )
        for name, tally in self._run.ledger.services.items():
            answers.add_metric([name, "in_time"], tally.in_time)
            for reason, count in tally.missing.items():
                answers.add_metric([name, reason], count)
            late.add_metric([name], tally.late_reported)
            for cause, count in tally.again.items():
                again.add_metric([name, cause], count)
            _add(round_trips, name, tally.round_trip)
        yield from (answers, late, again, round_trips)

    def _of_shadows(self) -> Iterator[Metric]:
        answers = CounterMetricFamily(
            "tradeserve_shadow_answers",
            "Answers of versions that are tried and never used, and why others are missing.",
            labels=["service", "version", "outcome"],
        )
        agreed = CounterMetricFamily(
            "tradeserve_shadow_agreements",
            "Answers of such versions that lead to the decision that was made.",
            labels=["service", "version"],
        )
        for shadow, tally in self._run.ledger.shadows.items():
            who = [shadow.voter, str(shadow.version)]
            answers.add_metric([*who, "in_time"], tally.answered)
            answers.add_metric([*who, "dropped"], tally.dropped)
            for reason, count in tally.missing.items():
                answers.add_metric([*who, reason], count)
            agreed.add_metric(who, tally.agreed)
        yield from (answers, agreed)

    def _of_money(self) -> Iterator[Metric]:
        status = self._run.status()
        states = GaugeMetricFamily("tradeserve_trading_state", "1 for the present state.", labels=["state"])
        for state in TradingState:
            states.add_metric([state.value], float(state is status.state))
        yield states
        yield GaugeMetricFamily("tradeserve_equity", "Of the account, in its currency.", status.equity)
        yield GaugeMetricFamily(
            "tradeserve_pnl", "Of the run after commission, in the account's currency.", status.pnl
        )
        yield GaugeMetricFamily(
            "tradeserve_drawdown_ratio", "Decline of the equity from its highest, 0 to 1.",
            status.drawdown_bps / 10_000,
        )  # fmt: skip
        recorded, waiting = self._rows()
        yield CounterMetricFamily("tradeserve_rows_recorded", "Rows in Postgres.", recorded)
        yield GaugeMetricFamily("tradeserve_rows_waiting", "Rows queued or spooled.", waiting)


def _add(family: HistogramMetricFamily, label: str, spans: Spans) -> None:
    total = 0
    buckets = []
    for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), spans.counts, strict=True):
        total += count
        buckets.append((bound, total))
    family.add_metric([label], buckets, spans.sum_ns / 1e9)
