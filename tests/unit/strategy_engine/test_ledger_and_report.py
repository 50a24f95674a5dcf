from __future__ import annotations

import math
from collections import Counter

import pytest

from strategy.garbage import GarbageKeeper
from strategy.ledger import RunLedger, ShadowTally, StageClock, percentile, shares
from strategy.ports import ShadowVersion, VoterInfo
from strategy.report import Money, Recorded, lines


def text_of(ledger: RunLedger, recorded: Recorded | None = None) -> str:
    return "\n".join(
        lines(
            run_id="r1",
            data_source="generated",
            mode="paper",
            voters=[VoterInfo("lstm_cnn", "host:1", statement="Nothing here has demonstrated skill.")],
            ledger=ledger,
            money=Money("USD", 100_000.0, 12.5, 0.0, 2.0, 0.4),
            recorded=recorded or Recorded({"decisions": 2, "fills": 0}, 0, 0, "make psql"),
            garbage=GarbageKeeper(),
            budget_ms=50,
        )
    )


@pytest.mark.parametrize(("share", "expected"), [(0.5, 5), (0.9, 9), (0.99, 10), (0.0, 1), (1.0, 10)])
def test_a_percentile_is_a_sample_that_was_measured(share: float, expected: float) -> None:
    assert percentile([10, 1, 9, 2, 8, 3, 7, 4, 6, 5], share) == expected


def test_no_samples_have_no_percentile() -> None:
    assert math.isnan(percentile([], 0.5))


def test_the_stages_of_a_decision_add_up_to_its_total() -> None:
    clock = StageClock(start_ns=100)
    for stage, now_ns in (("window", 150), ("forecasts", 400), ("decide", 410)):
        clock.mark(stage, now_ns)
    assert clock.spans == {"window": 50, "forecasts": 250, "decide": 10}
    assert clock.total_ns == sum(clock.spans.values()) == 310
    assert sum(shares(clock.spans).values()) == pytest.approx(1)


def test_the_report_counts_answers_latency_orders_and_money() -> None:
    ledger = RunLedger()
    for total_ns, side in ((10_000_000, "BUY"), (60_000_000, "HOLD")):
        clock = StageClock(start_ns=1)
        clock.mark("window", 1_000_001)
        clock.mark("forecasts", total_ns)
        clock.mark("decide", total_ns + 1)
        ledger.add_decision(side, clock, quorum=side == "BUY", budget_ns=50_000_000)
    ledger.add_answer("lstm_cnn", 4_000_000)
    ledger.add_missing("lstm_cnn", "late", "")
    ledger.service("lstm_cnn").late_reported += 1
    text = text_of(ledger)
    assert "2: 1 BUY, 0 SELL, 1 HOLD; 1 without quorum, 1 over the budget of 50 ms" in text
    assert "lstm_cnn               1        1   50.0%   1 late; 1 came late and were not used" in text
    assert "bar to decision          2    10.00    60.00    60.00" in text
    assert "+10.50 USD after commission" in text
    assert "none demonstrated by lstm_cnn" in text
    assert "2 rows in Postgres: decisions 2" in text


def test_the_report_tells_what_was_sent_to_a_second_server() -> None:
    ledger = RunLedger()
    ledger.add_answer("lstm_cnn", 4_000_000)
    assert "second server" not in text_of(ledger)
    ledger.service("lstm_cnn").again.update(("retry", "hedge", "hedge"))
    assert "sent to a second server: 1 for a lost connection, 2 for a slow answer" in text_of(ledger)


def test_the_report_has_a_line_per_version_that_was_tried() -> None:
    ledger = RunLedger()
    ledger.shadows[ShadowVersion("lstm_cnn", 2, "ab" * 32)] = ShadowTally(
        asked=20, answered=18, dropped=3, missing=Counter(late=2), agreed=17, max_difference=0.12345
    )
    ledger.shadows[ShadowVersion("gaf_resnet", 3)] = ShadowTally(asked=1, missing=Counter(down=1))
    lines = [line for line in text_of(ledger).splitlines() if line.startswith("  Shadow ")]
    assert lines[0] == (
        "  Shadow       lstm_cnn v2 abababababab (never used): asked 20, answered 18, 2 late, 3 not asked under "
        "load; 17 would-be decisions of 18 are the real ones (94.4%), max |difference| of a probability 0.1235"
    )
    assert lines[1:] == ["  Shadow       gaf_resnet v3 (never used): asked 1, answered 0, 1 down"]


def test_the_report_counts_what_was_read_on_charts_and_what_that_did() -> None:
    ledger = RunLedger()
    assert "Vision" not in text_of(ledger)
    tally = ledger.vision
    tally.asked, tally.answered, tally.dropped, tally.contradicted = 6, 3, 2, 1
    tally.missing["late"] = 3
    tally.vetoes, tally.shrinks = 1, 2
    for took_ms in (700, 640, 900):
        tally.round_trip.add(took_ms * 1_000_000)
    assert (
        "Vision       asked 6, answered 3 (median 700 ms), 3 late, 2 replaced by newer charts; 1 contradicted by "
        "their charts; entries vetoed: 1, shrunk: 2" in text_of(ledger)
    )


def test_the_report_says_when_postgres_is_away() -> None:
    text = text_of(RunLedger(), Recorded({}, 17, 3, "make psql"))
    assert "Postgres is away" in text
    assert "17 rows wait in the spool, 3 telemetry rows dropped" in text
