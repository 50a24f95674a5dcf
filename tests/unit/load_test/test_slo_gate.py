import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.ghz_report import ghz_report
from load_test import report, slo
from load_test.errors import ConfigError, ReportError
from load_test.slo import Limits

LIMITS = Limits(min_ok_ratio=0.99, min_achieved_ratio=0.95, max_p99_ms=10.0, max_p999_ms=20.0)
GOOD = [(2.0, "OK")] * 1000


def violations(found: dict[str, Any], limits: Limits = LIMITS) -> list[str]:
    return [check.violation for check in slo.judge(report.parse(found, "r"), limits) if check.violation]


def notes(found: dict[str, Any]) -> list[str]:
    return list(slo.notes(report.parse(found, "r"), LIMITS))


DATA = Path(__file__).parent / "data"


def test_a_report_that_ghz_wrote_is_read_in_full() -> None:
    found = report.read(DATA / "ghz_answered.json")
    assert (found.tool, found.end_reason, found.is_async) == ("ghz", "timeout", True)
    assert found.statuses == {"OK": found.count}
    assert found.schedule.call_count == 20
    assert found.ok_ratio == 1
    assert found.achieved_ratio > 0.95
    assert found.shown_p99_ms == pytest.approx(found.percentile_ms(0.99), abs=1e-6)
    assert found.due_s.max() - found.due_s.min() == pytest.approx(0.95, abs=0.1)


def test_a_report_that_ghz_wrote_with_exit_status_0_and_no_server_fails() -> None:
    checks = slo.judge(report.read(DATA / "ghz_unavailable.json"), LIMITS)
    assert [check.name for check in checks if check.violation] == ["answered OK", "p99", "p99.9"]
    assert "Unavailable; most often: rpc error: code = Unavailable" in checks[1].violation


def test_a_run_within_its_limits_passes_with_one_line_per_limit() -> None:
    checks = slo.judge(report.parse(ghz_report(GOOD, duration_s=10), "r"), LIMITS)
    assert slo.passed(checks)
    assert slo.table(checks).count("kept") == len(checks) == 5
    assert not notes(ghz_report(GOOD, duration_s=10))


def test_a_run_in_which_every_call_failed_fails_though_ghz_exits_with_0() -> None:
    found = ghz_report([(0.3, "Unavailable")] * 1000, duration_s=10)
    ok, p99, p999 = violations(found)
    assert ok == (
        "answered OK: 0.0000% of the calls, the limit is >= 99.0000%: 1,000 Unavailable; "
        "most often: rpc error: code = Unavailable desc = it failed"
    )
    assert p99 == "p99: no answer, the limit is <= 10 ms: 100.00% of the calls failed"
    assert p999.startswith("p99.9: no answer")


def test_timeouts_that_ghz_leaves_out_of_its_percentiles_count_as_infinitely_late() -> None:
    calls = [(2.0, "OK")] * 980 + [(100.0, "DeadlineExceeded")] * 20
    found = ghz_report(calls, duration_s=10)
    assert found["latencyDistribution"][-1] == {"percentage": 99, "latency": 2_000_000}
    assert [line.partition(":")[0] for line in violations(found)] == ["answered OK", "p99", "p99.9"]
    assert notes(found) == ["the report's own p99 of 2.00 ms looks past the failed calls"]


def test_a_fast_refusal_does_not_better_the_percentiles() -> None:
    calls = [(15.0, "OK")] * 500 + [(0.1, "ResourceExhausted")] * 500
    assert report.parse(ghz_report(calls, duration_s=10), "r").percentile_ms(0.5) == 15.0
    assert report.parse(ghz_report(calls, duration_s=10), "r").percentile_ms(0.51) == math.inf


def test_a_closed_loop_that_sent_less_than_asked_fails_and_says_why() -> None:
    found = ghz_report(GOOD[:900], duration_s=10, options_async=False)
    (line,) = violations(found)
    assert line == (
        "rate sent / asked for: 90.1% of 100.0/s, the limit is >= 95.0%: "
        "ghz's workers wait for answers: set async = true, or raise concurrency"
    )
    assert any("count from sending" in note for note in notes(found))


def test_a_total_that_took_longer_than_asked_fails() -> None:
    assert not violations(ghz_report(GOOD))
    (line,) = violations(ghz_report(GOOD, total=12_000_000_000))
    assert line.startswith("rate sent / asked for: 83.3% of 100.0/s, the limit is >= 95.0%: ")


def test_the_call_that_ghz_makes_or_not_as_the_run_ends_is_not_missed() -> None:
    found = ghz_report(GOOD[:8], rps=1, duration_s=9)
    assert not violations(found)
    assert report.parse(found, "r").achieved_ratio == 1
    assert report.parse(ghz_report(GOOD[:7], rps=1, duration_s=9), "r").achieved_ratio < 0.9
    ours = ghz_report(GOOD[:8], rps=1, duration_s=9, generator="ours")
    assert violations(ours)[0].startswith("rate sent / asked for: 94.4% of 1.0/s")


def test_calls_left_out_at_the_start_are_not_missed() -> None:
    assert not violations(ghz_report(GOOD[:800], duration_s=10, options_skipFirst=200))


def test_calls_that_could_not_be_sent_are_errors_and_lower_the_rate() -> None:
    found = ghz_report([(2.0, "OK")] * 900 + [(0.0, report.NOT_SENT)] * 100, duration_s=10, generator="ours")
    ok, rate, *_ = violations(found)
    assert "100 NotSent" in ok
    assert rate.endswith("90.0% of 100.0/s, the limit is >= 95.0%: 100 calls could not be sent in time")


def test_a_run_that_asked_for_no_rate_cannot_pass() -> None:
    assert "the report names no rate" in violations(ghz_report(GOOD, options_rps=0))[0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"endReason": "cancel"}, "the run was interrupted"),
        ({"details": None}, "only 0 of 1,000 calls have details"),
        ({"count": 0, "details": None, "statusCodeDistribution": {}}, "no call was made"),
        ({"statusCodeDistribution": {"OK": 999}}, "statusCodeDistribution does not add up"),
    ],
)
def test_half_a_report_cannot_pass(changes: dict[str, Any], says: str) -> None:
    assert violations(ghz_report(GOOD, duration_s=10) | changes)[0].startswith(says)


def test_the_slowest_in_a_thousand_decide_p999_and_few_calls_are_pointed_out() -> None:
    calls = [(2.0, "OK")] * 998 + [(30.0, "OK")] * 2
    assert violations(ghz_report(calls, duration_s=10)) == ["p99.9: 30.00 ms, the limit is <= 20 ms"]
    calls = [(2.0, "OK")] * 999 + [(30.0, "OK")]
    assert not violations(ghz_report(calls, duration_s=10))
    assert notes(ghz_report(GOOD[:100], duration_s=1)) == [
        "100 calls are few: their p99.9 is the slowest of them"
    ]


def test_calls_cut_off_at_the_end_are_explained() -> None:
    found = ghz_report(GOOD, duration_s=10)
    found["errorDistribution"] = {
        "rpc error: code = Canceled desc = grpc: the client connection is closing": 3
    }
    assert any("duration-stop" in note for note in notes(found))


def test_a_generator_that_was_late_itself_is_pointed_out() -> None:
    found = ghz_report(GOOD, duration_s=10, generator="ours", sendLag={"p50": 0, "p99": 3_000_000})
    assert "our generator itself was late by 3.0 ms (p99)" in notes(found)[0]


def test_a_ghz_that_was_late_itself_is_pointed_out_though_its_latencies_do_not_show_it() -> None:
    stalled = {number: 10.0 * (330 - number) for number in range(300, 330)}  # then it sends all that were due
    found = ghz_report(GOOD, duration_s=10, late_ms=stalled)
    assert not violations(found)
    (note,) = notes(found)
    assert note == (
        "ghz itself was late by 200.0 ms (p99), which its latencies leave out, as they count from sending: "
        "this machine is too busy for this rate"
    )
    assert report.parse(ghz_report(GOOD, duration_s=10), "r").send_lag_p99_ms == pytest.approx(0, abs=0.01)
    changing = ghz_report(GOOD, late_ms=stalled, options_load_schedule="step")
    assert report.parse(changing, "r").send_lag_p99_ms is None


def test_percentiles_are_nearest_rank_as_in_ghz() -> None:
    values = np.arange(1.0, 101.0)
    assert [report.nearest_rank(values, share) for share in (0.5, 0.99, 0.999, 1.0)] == [50, 99, 100, 100]
    assert report.nearest_rank(np.array([7.0]), 0.01) == 7


def test_a_step_schedule_is_told_by_stage() -> None:
    found = ghz_report(
        [(2.0, "OK")] * 100 + [(50.0, "OK")] * 100,
        duration_s=2,
        options_load_schedule="step",
        options_load_start=100,
        options_load_step=100,
        options_load_end=200,
        options_load_step_duration=10**9,
    )
    lines = report.by_stage(report.parse(found, "r")).splitlines()
    assert [line.split()[4] for line in lines] == ["100/s", "200/s"]
    assert "p99 2.00 ms" in lines[0]
    assert "p99 50.00 ms" in lines[1]


@pytest.mark.parametrize("skipped", [0, 3])
def test_stages_begin_one_interval_before_the_first_call_of_ghz_and_calls_left_out_took_their_time(
    skipped: int,
) -> None:
    # 10 calls in the first second, of which ghz makes the last as the second begins.
    calls = ([(2.0, "OK")] * 9 + [(50.0, "OK")] * 11)[skipped:]
    found = ghz_report(
        calls,
        rps=10,
        duration_s=2,
        late_ms={9 - skipped: 1.0},
        options_load_schedule="step",
        options_load_start=10,
        options_load_step=1,
        options_load_end=11,
        options_load_step_duration=10**9,
        options_skipFirst=skipped,
    )
    first, second = report.by_stage(report.parse(found, "r")).splitlines()
    assert "p99 2.00 ms" in first
    assert "p50 50.00 ms" in second


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("Summary:\n  Count: 200", "no JSON"),
        ("[]", "no object"),
        ("{}", "options is missing"),
        (json.dumps({"options": {}}), "count is missing"),
        (json.dumps(ghz_report(GOOD) | {"count": "1"}), "count: '1' is no int"),
        (json.dumps(ghz_report(GOOD) | {"details": [{"latency": 1}]}), "details: an entry lacks"),
        (json.dumps(ghz_report(GOOD, options_load_schedule="sine")), "load-schedule: 'sine' is none of"),
    ],
)
def test_a_file_that_is_no_report_is_named_with_its_field(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(ReportError, match=says) as caught:
        report.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[other]", r"no limits for t: add a table \[t\]"),
        ("[t]\nmin_ok_ratio = 0.9", r"\[t\] min_achieved_ratio: None is no number above 0 and up to 1"),
        ("[t]\np99 = 1", r"\[t\] p99 is unknown; known are min_ok_ratio"),
        ("[t]\nmin_ok_ratio = 2", r"\[t\] min_ok_ratio: 2 is no number above 0 and up to 1"),
        ("[t", "slo.toml: "),
    ],
)
def test_limits_that_cannot_be_used_are_named(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "slo.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=says):
        slo.load(path, "t")
