import asyncio
import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from load_test import capacity, chart
from load_test.capacity import MAX_RATE, Capacity, Probe
from load_test.slo import Limits

LIMITS = Limits(0.99, 0.95, 10.0, 20.0)


async def search(limit: int, first: int = 50, resolution: float = 0.1) -> tuple[int, list[int]]:
    tried: list[int] = []

    async def passes(rate: int) -> bool:
        tried.append(rate)
        return rate <= limit

    return await capacity.highest(passes, first, resolution), tried


@pytest.mark.parametrize("limit", [1, 2, 3, 49, 50, 51, 777, 12_345])
async def test_the_search_ends_just_below_the_limit(limit: int) -> None:
    found, tried = await search(limit)
    assert found <= limit
    assert limit < found * 1.1 + 1
    assert len(tried) <= 20
    assert len(tried) <= len(set(tried)) + 1  # the lowest that failed is tried once more


async def test_a_bad_second_of_the_machine_does_not_end_the_search() -> None:
    tried: list[int] = []

    async def passes(rate: int) -> bool:
        tried.append(rate)
        return rate <= 1000 and len(tried) != 3  # the third try fails whatever it is

    found = await capacity.highest(passes, 50, 0.1)
    assert 900 < found <= 1000


async def test_a_server_that_passes_by_luck_only_does_not_keep_the_search_going() -> None:
    tried: list[int] = []

    async def passes(rate: int) -> bool:
        tried.append(rate)
        return len(tried) % 2 == 0

    await asyncio.wait_for(capacity.highest(passes, 50, 0.1), 5)
    assert len(tried) < 60


async def test_a_server_that_holds_nothing_and_one_that_holds_everything_end_the_search() -> None:
    assert (await search(0))[0] == 0
    assert (await search(10**9))[0] == MAX_RATE


@pytest.mark.parametrize(
    ("need", "rate", "count"), [(100, 1000, 2), (1000, 1000, 2), (700, 1000, 2), (5000, 1000, 8), (1, 1, 2)]
)
def test_replicas_leave_room_and_survive_the_loss_of_one(need: int, rate: int, count: int) -> None:
    assert capacity.replicas(need, rate) == count
    assert need <= (count - 1) * rate
    assert need <= count * rate * capacity.UTILISATION + 1e-9


def test_a_server_without_capacity_needs_no_number_of_replicas() -> None:
    assert capacity.replicas(10, 0) is None


def probe(rate: int, ms: float, *violations: str, lag_ms: float | None = 0.1) -> Probe:
    return Probe(rate, 1.0, 1.0, {"p50": ms / 2, "p99": ms, "p99.9": ms * 2}, lag_ms, violations)


def measured() -> Capacity:
    probes = [probe(50, 2.0), probe(100, 4.0), probe(100, 6.0), probe(200, math.inf, "p99: no answer")]
    return Capacity("similarity", LIMITS, 100, probes)


def test_the_table_tells_rate_latency_replicas_and_what_was_in_the_way() -> None:
    nothing = Capacity("strategy", LIMITS, 0, [probe(1, 50.0, "p99: 50 ms")])
    head, first, second = capacity.table([measured(), nothing], 500).splitlines()
    assert "for 500/s" in head
    words = " ".join(first.split())
    assert words == "similarity 100/s 2.50 ms 5.00 ms 10.00 ms 8 replicas at 200/s: p99: no answer"
    assert "not possible" in second


def test_a_limit_of_the_generator_is_not_told_as_the_servers() -> None:
    found = Capacity("t", LIMITS, 100, [probe(100, 2.0), probe(200, 90.0, "p99: 90 ms", lag_ms=80.0)])
    assert found.limited_by == "the load generator at 200/s: 80 ms late"


def test_figures_and_plot_are_written_with_missing_answers_as_null(tmp_path: Path) -> None:
    data, plot = tmp_path / "c.json", tmp_path / "c.svg"
    capacity.write([measured()], 500, "ghz", data, plot)
    found = json.loads(data.read_text())
    assert found["targets"]["similarity"]["capacity_per_s"] == 100
    assert found["targets"]["similarity"]["replicas"] == 8
    assert found["targets"]["similarity"]["probes"][-1]["latency_ms"]["p99"] is None
    texts = [element.text for element in ET.parse(plot).iter() if element.text]
    assert {"similarity", "p99 limit 10 ms", "100/s", "calls per second"} <= set(texts)


def test_the_plot_of_a_server_that_never_answered_says_so() -> None:
    silent = chart.Panel(
        "t", [chart.Point(5, {"p50": math.inf, "p99": math.inf, "p99.9": math.inf}, False)], 10, 0
    )
    assert "no run was answered" in chart.svg([silent], "a < b")
    ET.fromstring(chart.svg([silent, silent, silent], "a < b"))
