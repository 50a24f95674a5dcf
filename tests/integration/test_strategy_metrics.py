"""What Prometheus reads of a run: scraped over a real socket from an engine whose market is in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fakes.engine_world import World
from fakes.fake_shadow import FakeShadow
from server_runtime.metrics import ServerMetrics
from strategy.adapters.metrics import RunCollector
from strategy.ledger import BUCKETS_S
from tradeserve_client.answers import Reason

Figure = Callable[..., float]
"""Returns the sample of a name and labels."""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path, shadow=FakeShadow(reason=Reason.DOWN))
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def address(world: World) -> AsyncIterator[str]:
    metrics = ServerMetrics()
    metrics.registry.register(RunCollector(world.engine, lambda: (7, 2)))
    yield f"http://127.0.0.1:{metrics.start_http('127.0.0.1', 0)}/metrics"
    await asyncio.to_thread(metrics.stop_http)


@pytest.fixture
def scrape(address: str) -> Callable[[], Figure]:
    def read() -> Figure:
        with urlopen(address, timeout=10) as response:
            text = response.read().decode()
        samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        return lambda name, **labels: samples[name, frozenset(labels.items())]

    return read


async def test_a_scrape_shows_decisions_answers_stages_and_money(
    world: World, scrape: Callable[[], Figure]
) -> None:
    await world.bar()
    figure = await asyncio.to_thread(scrape)
    assert figure("tradeserve_decisions_total", side="buy") == 1
    assert figure("tradeserve_orders_total") == 1
    assert figure("tradeserve_answers_total", service="lstm_cnn", outcome="in_time") == 1
    assert figure("tradeserve_answers_total", service="similarity", outcome="down") == 1
    assert figure("tradeserve_trading_state", state="trading") == 1
    assert figure("tradeserve_trading_state", state="halted") == 0
    assert figure("tradeserve_equity") == pytest.approx(world.engine.portfolio.equity)
    assert (figure("tradeserve_rows_recorded_total"), figure("tradeserve_rows_waiting")) == (7, 2)


async def test_calls_that_were_sent_to_a_second_server_are_counted_by_cause(
    world: World, scrape: Callable[[], Figure]
) -> None:
    await world.bar()
    world.engine.ledger.service("lstm_cnn").again.update(("retry", "hedge", "hedge"))
    figure = await asyncio.to_thread(scrape)
    assert figure("tradeserve_second_attempts_total", service="lstm_cnn", cause="retry") == 1
    assert figure("tradeserve_second_attempts_total", service="lstm_cnn", cause="hedge") == 2


async def test_a_version_that_is_tried_has_figures_of_its_own_and_its_voter_none_of_it(
    world: World, scrape: Callable[[], Figure]
) -> None:
    await world.bar()
    await world.until(lambda: bool(world.engine.ledger.shadows))
    figure = await asyncio.to_thread(scrape)
    assert figure("tradeserve_shadow_answers_total", service="lstm_cnn", version="2", outcome="down") == 1
    assert figure("tradeserve_shadow_agreements_total", service="lstm_cnn", version="2") == 0
    assert figure("tradeserve_answers_total", service="lstm_cnn", outcome="in_time") == 1


async def test_the_buckets_of_a_stage_count_every_decision_once(
    world: World, scrape: Callable[[], Figure]
) -> None:
    for _ in range(3):
        await world.bar()
    figure = await asyncio.to_thread(scrape)
    stage, name = "bar_to_decision", "tradeserve_decision_stage_seconds"
    counts = [figure(f"{name}_bucket", stage=stage, le=str(bound)) for bound in (*BUCKETS_S, "+Inf")]
    assert counts == sorted(counts)
    assert counts[-1] == figure(f"{name}_count", stage=stage) == 3
    spans = world.engine.ledger.stages["bar to decision"].latest
    assert figure(f"{name}_sum", stage=stage) == pytest.approx(sum(spans) / 1e9)
