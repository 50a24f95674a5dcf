from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

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
