"""The report at the end of a run, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from strategy.garbage import GarbageKeeper
from strategy.ledger import RunLedger, VisionTally, percentile
from strategy.ports import VoterInfo


@dataclass(frozen=True, slots=True)
class Money:
    """What the run did to the account, in its currency.

    Attributes:
        currency: ISO 4217.
        start_equity: When the run began.
        realized: Profit or loss of what was closed, before commission.
        unrealized: Of what is still open, at the last price.
        commission: Paid, as a positive number.
        max_drawdown_pct: Largest decline from a highest point.
    """

    currency: str
    start_equity: float
    realized: float
    unrealized: float
    commission: float
    max_drawdown_pct: float

    @property
    def net(self) -> float:
        """Profit or loss after commission."""
        return self.realized + self.unrealized - self.commission


@dataclass(frozen=True, slots=True)
class Recorded:
    """What is in the database, and what is not yet.

    Attributes:
        tables: Table -> rows of this run, counted in Postgres; empty when it is away.
        waiting: Rows queued or spooled.
        dropped: Telemetry rows given up for lack of room.
        look: Command line to look for oneself.
    """

    tables: Mapping[str, int]
    waiting: int
    dropped: int
    look: str


def lines(
    *,
    run_id: str,
    data_source: str,
    mode: str,
    voters: Sequence[VoterInfo],
    ledger: RunLedger,
    money: Money,
    recorded: Recorded,
    garbage: GarbageKeeper,
    budget_ms: float,
) -> Iterator[str]:
    """Yield the lines of the report."""
    yield ""
    yield f"Report of run {run_id} ({mode}, data: {data_source})"
    decisions = ledger.decisions
    yield (
        f"  Decisions    {decisions.total()}: {decisions['BUY']} BUY, {decisions['SELL']} SELL, "
        f"{decisions['HOLD']} HOLD; {ledger.without_quorum} without quorum, "
        f"{ledger.over_budget} over the budget of {budget_ms:g} ms"
    )
    yield from _services(ledger)
    yield from _stages(ledger)
    yield (
        f"  Garbage      {garbage.collections} collections, the longest {garbage.longest_ns / 1e6:.2f} ms; "
        f"on the path of a decision {garbage.longest_on_path_ns / 1e6:.2f} ms at most"
    )
    yield from _shadows(ledger)
    yield from _vision(ledger.vision)
    yield f"  Orders       {ledger.orders} sent, {ledger.fills} fills"
    yield (
        f"  PnL          {money.net:+.2f} {money.currency} after commission "
        f"(realised {money.realized:+.2f}, open {money.unrealized:+.2f}, commission {money.commission:.2f}) "
        f"on {money.start_equity:,.0f}; largest drawdown {money.max_drawdown_pct:.2f}%"
    )
    yield from _skill(voters)
    yield from _recorded(recorded)


def _services(ledger: RunLedger) -> Iterator[str]:
    yield "  Answers      service          in time  missing   share   why missing"
    for name, tally in sorted(ledger.services.items()):
        missing = tally.missing.total()
        share = tally.in_time / (tally.in_time + missing) if tally.in_time + missing else float("nan")
        why = ", ".join(f"{count} {reason}" for reason, count in tally.missing.most_common())
        late = f"; {tally.late_reported} came late and were not used" if tally.late_reported else ""
        yield f"               {name:<16} {tally.in_time:>7}  {missing:>7}  {share:>6.1%}   {why}{late}".rstrip()
        if tally.again:
            yield (
                f"               {'':<16} sent to a second server: {tally.again['retry']} for a lost connection, "
                f"{tally.again['hedge']} for a slow answer"
            )


def _shadows(ledger: RunLedger) -> Iterator[str]:
    for shadow, tally in ledger.shadows.items():
        why = "".join(f", {count} {reason}" for reason, count in tally.missing.most_common())
        dropped = f", {tally.dropped} not asked under load" if tally.dropped else ""
        line = f"asked {tally.asked}, answered {tally.answered}{why}{dropped}"
        if tally.answered:
            share = tally.agreed / tally.answered
            line += f"; {tally.agreed} would-be decisions of {tally.answered} are the real ones ({share:.1%})"
        if tally.max_difference >= 0:
            line += f", max |difference| of a probability {tally.max_difference:.4f}"
        who = f"{shadow.voter} v{shadow.version} {shadow.artifact_sha256[:12]}".rstrip()
        yield f"  Shadow       {who} (never used): {line}"


def _vision(tally: VisionTally) -> Iterator[str]:
    if not tally.asked:
        return
    why = "".join(f", {count} {reason}" for reason, count in tally.missing.most_common())
    dropped = f", {tally.dropped} replaced by newer charts" if tally.dropped else ""
    median_ms = percentile(tally.round_trip.latest, 0.5) / 1e6
    answered = f"answered {tally.answered}{f' (median {median_ms:.0f} ms)' if tally.answered else ''}"
    yield (
        f"  Vision       asked {tally.asked}, {answered}{why}{dropped}; {tally.contradicted} contradicted by "
        f"their charts; entries vetoed: {tally.vetoes}, shrunk: {tally.shrinks}"
    )


def _stages(ledger: RunLedger) -> Iterator[str]:
    yield "  Latency, ms  stage              samples      p50      p90      p99"
    for stage, count, p50, p90, p99 in ledger.stage_rows():
        yield f"               {stage:<18} {count:>7} {p50:>8.2f} {p90:>8.2f} {p99:>8.2f}"


def _skill(voters: Sequence[VoterInfo]) -> Iterator[str]:
    without = [voter.name for voter in voters if not voter.demonstrated_skill]
    if without:
        yield (
            f"  Skill        none demonstrated by {', '.join(without)} (see their card.json): "
            "the PnL above is not evidence of any"
        )


def _recorded(recorded: Recorded) -> Iterator[str]:
    if recorded.tables:
        counts = ", ".join(f"{table} {count}" for table, count in sorted(recorded.tables.items()) if count)
        yield f"  Recorded     {sum(recorded.tables.values())} rows in Postgres: {counts}"
    else:
        yield "  Recorded     Postgres is away; the rows wait in the spool and are stored at the next start"
    if recorded.waiting or recorded.dropped:
        yield f"               {recorded.waiting} rows wait in the spool, {recorded.dropped} telemetry rows dropped"
    yield f"  Look         {recorded.look}"
