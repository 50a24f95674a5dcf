"""Kill -9 of one of two replicas under load: nearly every call has its answer, and none is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from fakes.charts_to_read import chart_query
from fakes.fake_vllm import MODEL, fake_vllm, words_for
from fakes.similarity_index import state_arrays, unit_vectors, write_index
from fakes.waiting import until
from replica_processes import servers
from served_models import ROOT
from tradeserve_client.answers import Answer, NoAnswer, Outcome
from tradeserve_client.channel import Transport
from tradeserve_client.chart_reading import ChartQuery, ChartReadingClient
from tradeserve_client.resilience import Resilience
from tradeserve_client.similarity import SearchQuery
from tradeserve_client.similarity_replicas import SimilarityReplicas
from tradeserve_client.triton import TritonClient

T = TypeVar("T")

CALLS = 3_000
WORKERS = 8
BUDGET_S = 2.0
VENV_TRITON = ROOT / "build" / "venv-triton"


async def under_load(
    ask: Callable[[int], Awaitable[Outcome[T]]], is_right: Callable[[int, T], bool], kill: Callable[[], None]
) -> tuple[list[NoAnswer], int]:
    """Make CALLS calls, kill in the middle; return what had no answer, and how many were wrong."""
    numbers = iter(range(CALLS))
    missing: list[NoAnswer] = []
    wrong = 0

    async def work() -> None:
        nonlocal wrong
        for number in numbers:
            if number == CALLS // 3:
                kill()
            outcome = await ask(number)
            if isinstance(outcome, NoAnswer):
                missing.append(outcome)
            elif not is_right(number, outcome.value):
                wrong += 1

    await asyncio.gather(*(work() for _ in range(WORKERS)))
    return missing, wrong


async def test_one_of_two_similarity_servers_killed_costs_no_search(
    tmp_path: Path, transport: Transport
) -> None:
    if importlib.util.find_spec("faiss") is None:
        pytest.skip("FAISS is not installed here: `make setup EXTRAS=cpu,dev` installs it")
    write_index(tmp_path / "indexes", state_arrays(500, 32))
    queries = unit_vectors(np.random.default_rng(5), 16, 32)
    command = ["similarity_server", "--indexes", str(tmp_path / "indexes")]
    with servers(tmp_path, command, command) as started:
        client = SimilarityReplicas(
            [address for address, _ in started], resilience=Resilience(hedge=True), transport=transport
        )
        try:
            assert await client.ready(20)
            await until(lambda: all(replica.link.is_ready for replica in client.replicas.replicas))

            def query(number: int) -> SearchQuery:
                return SearchQuery("market_states", queries[number % 16], 5)

            right: list[list[int]] = []
            for number in range(16):
                outcome = await client.search(query(number), budget=BUDGET_S)
                assert isinstance(outcome, Answer), outcome
                right.append([match.state_id for match in outcome.value.matches])
            missing, wrong = await under_load(
                lambda number: client.search(query(number), budget=BUDGET_S),
                lambda number, found: [match.state_id for match in found.matches] == right[number % 16],
                lambda: os.kill(started[0][1]["pid"], signal.SIGKILL),
            )
            print(f"missing {len(missing)} of {CALLS}, {client.counts}")
            assert wrong == 0
            assert len(missing) < CALLS / 1_000, missing
            assert not client.replicas.replicas[0].link.is_ready  # it was killed in the middle of it
        finally:
            await client.close()


async def test_one_of_two_vision_servers_killed_costs_no_reading(
    tmp_path: Path, transport: Transport
) -> None:
    queries = [chart_query(seed, told=False) for seed in range(16)]

    def query(number: int) -> ChartQuery:
        # Each an instrument of its own: of one, only the newest chart counts.
        return replace(queries[number % 16], con_id=number + 1)

    with contextlib.ExitStack() as stack:
        async with fake_vllm() as url:
            command = ["vision_server", "--api-url", url, "--api-model", MODEL, "--metrics-port", "0"]
            # On a thread: the API that they wait for is served by this loop.
            started = await asyncio.to_thread(stack.enter_context, servers(tmp_path, command, command))
            # One retry and no hedge, which would have a chart read twice.
            client = ChartReadingClient([address for address, _ in started], transport=transport)
            try:
                assert await client.ready(20)
                await until(lambda: all(replica.link.is_ready for replica in client.replicas.replicas))
                missing, wrong = await under_load(
                    lambda number: client.read_chart(query(number), budget=BUDGET_S),
                    lambda number, found: found.reasoning == words_for(queries[number % 16].chart_png),
                    lambda: os.kill(started[0][1]["pid"], signal.SIGKILL),
                )
                print(f"missing {len(missing)} of {CALLS}, {client.counts}")
                assert wrong == 0
                assert len(missing) < CALLS / 1_000, missing
                assert not client.replicas.replicas[0].link.is_ready  # it was killed in the middle of it
            finally:
                await client.close()


@pytest.mark.slow
async def test_one_of_two_tritons_killed_costs_no_inference(tmp_path: Path) -> None:
    if not (VENV_TRITON / "bin" / "python").exists():
        pytest.skip("the local Triton is not installed here: `make setup` builds build/venv-triton")
    repository = ROOT / "model_repository"
    command = ["triton_server", "--model-repository", str(repository), "--venv", str(VENV_TRITON)]
    windows = np.random.default_rng(7).uniform(90, 110, (8, 1, 60, 5)).astype(np.float32)
    with servers(tmp_path, command, command) as started:
        client = TritonClient([address for address, _ in started], resilience=Resilience(hedge=True))
        try:
            assert await client.ready(20)
            await until(lambda: all(replica.link.is_ready for replica in client.replicas.replicas))

            async def ask(number: int) -> Outcome[Any]:
                return await client.infer("lstm_cnn", {"window": windows[number % 8]}, budget=BUDGET_S)

            right: list[Any] = []
            for number in range(8):
                outcome = await client.infer("lstm_cnn", {"window": windows[number]}, budget=20.0)
                assert isinstance(outcome, Answer), outcome
                right.append(outcome.value.outputs["probabilities"])

            missing, wrong = await under_load(
                ask,
                # Batched with others, a row can differ in the last bits.
                lambda number, found: bool(
                    np.allclose(found.outputs["probabilities"], right[number % 8], atol=1e-5)
                ),
                lambda: os.kill(started[0][1]["server_pid"], signal.SIGKILL),
            )
            print(f"missing {len(missing)} of {CALLS}, {client.counts}")
            assert wrong == 0
            assert len(missing) < CALLS / 1_000, missing
            # Its launcher starts it again; once its contract is checked it is asked again.
            returned = client.replicas.replicas[0]
            assert returned.link.epoch >= 1
            await until(lambda: client._watch.may_ask("lstm_cnn", 0, returned), timeout_s=60)
        finally:
            await client.close()
