from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tradeserve_client.answers import Answer, CallRecord, NoAnswer, Reason
from tradeserve_client.metrics import CallMetrics

MS = 1_000_000


def test_the_stages_of_an_answer_add_up() -> None:
    registry = CollectorRegistry()
    call = CallRecord("similarity", "id", 1 * MS, 20 * MS, 9 * MS, queue_ns=1 * MS, compute_ns=4 * MS)
    CallMetrics(registry).observe(Answer("found", call))
    found = {
        stage: registry.get_sample_value(
            "tradeserve_client_call_seconds_sum", {"service": "similarity", "stage": stage}
        )
        for stage in ("round trip", "queue", "compute", "network")
    }
    assert found == pytest.approx({"round trip": 0.008, "queue": 0.001, "compute": 0.004, "network": 0.003})


def test_names_that_callers_make_up_do_not_make_a_scrape_grow() -> None:
    registry = CollectorRegistry()
    metrics = CallMetrics(registry)
    for number in range(2_000):
        metrics.observe(NoAnswer(Reason.DOWN, "", CallRecord(f"model {number}", "", 0, 1, 0)))
    services = {
        sample.labels["service"]
        for family in registry.collect()
        for sample in family.samples
        if "service" in sample.labels
    }
    assert len(services) == 257
    assert registry.get_sample_value(
        "tradeserve_client_calls_total", {"service": "other", "outcome": "down"}
    ) == (2_000 - 256)


def test_the_figures_read_as_prometheus_own_counters_and_histograms_do() -> None:
    registry = CollectorRegistry()
    metrics = CallMetrics(registry)
    for round_trip_ms in (0.5, 0.6, 7_000.0):  # a bucket's bound is part of it
        call = CallRecord("lstm_cnn", "id", 1 * MS, 20 * MS, 1 * MS + round(round_trip_ms * MS))
        metrics.observe(Answer("found", call))
    metrics.observe(NoAnswer(Reason.NO_BUDGET, "", CallRecord("lstm_cnn", "", 0, 1, 0)))
    lines = generate_latest(registry).decode().splitlines()
    assert {line for line in lines if line.startswith("tradeserve_client_calls_total")} == {
        'tradeserve_client_calls_total{outcome="answer",service="lstm_cnn"} 3.0',
        'tradeserve_client_calls_total{outcome="no budget",service="lstm_cnn"} 1.0',
    }
    labels = 'service="lstm_cnn",stage="round trip"'
    assert [line for line in lines if line.startswith("tradeserve_client_call_seconds")] == [
        f'tradeserve_client_call_seconds_bucket{{le="{le}",{labels}}} {count}.0'
        for le, count in (
            *(("0.0005", 1), ("0.001", 2), ("0.002", 2), ("0.003", 2), ("0.005", 2), ("0.0075", 2)),
            *(("0.01", 2), ("0.015", 2), ("0.02", 2), ("0.03", 2), ("0.05", 2), ("0.1", 2)),
            *(("0.25", 2), ("1.0", 2), ("5.0", 2), ("+Inf", 3)),
        )
    ] + [
        f"tradeserve_client_call_seconds_count{{{labels}}} 3.0",
        f"tradeserve_client_call_seconds_sum{{{labels}}} 7.0011",
    ]


def test_one_registry_takes_the_figures_only_once() -> None:
    registry = CollectorRegistry()
    CallMetrics(registry)
    with pytest.raises(ValueError, match="tradeserve_client_calls"):
        CallMetrics(registry)
