"""States that were added or deleted outlive the server: Postgres is the source of truth."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc import StatusCode
from grpc.aio import AioRpcError
from grpc_status import rpc_status

from fakes.similarity_index import HOUR_NS, START_NS, state_arrays, unit_vectors, write_index
from fakes.waiting import wait_for_file
from postgres_fixture import OwnServer
from tradeserve.similarity.v1 import similarity_service_pb2 as pb
from tradeserve_client.errors import CallError
from tradeserve_client.similarity import NewState, SearchQuery, SimilarityClient

DIMENSION = 16
DEADLINE_S = 60.0
INDEX = "market_states"
VECTORS = unit_vectors(np.random.default_rng(5), 400, DIMENSION)


def states_of(ids: range) -> list[NewState]:
    return [NewState(i, 42, "NEW", START_NS, START_NS + HOUR_NS, 60, float(i), VECTORS[i % 400]) for i in ids]


class Server:
    """A similarity server of this test's own, in its own process."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.ready = folder / f"ready-{time.monotonic_ns()}.json"
        self.log = self.ready.with_suffix(".log")
        command = [sys.executable, "-m", "similarity_server", "--indexes", folder / "indexes", *arguments]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*map(str, command), "--ready-file", str(self.ready)], stdout=output, stderr=output
            )

    def started(self) -> SimilarityClient:
        wait_for_file(self.ready, self.process, timeout_s=DEADLINE_S)
        return SimilarityClient(json.loads(self.ready.read_text())["address"])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_index(tmp_path / "indexes", state_arrays(200, DIMENSION))
    return tmp_path


@contextlib.asynccontextmanager
async def serving(
    folder: Path, *arguments: object, stop: signal.Signals = signal.SIGTERM
) -> AsyncIterator[tuple[SimilarityClient, Server]]:
    server = Server(folder, *arguments)
    try:
        client = server.started()
        try:
            yield client, server
        finally:
            await client.close()
    finally:
        server.stop(stop)


async def found(client: SimilarityClient, row: int, count: int = 1) -> list[int]:
    answer = await client.search(SearchQuery(INDEX, VECTORS[row % 400], count), timeout_s=DEADLINE_S)
    return [match.state_id for match in answer.value.matches]


async def count_of(client: SimilarityClient) -> int:
    return (await client.get_index(INDEX, timeout_s=DEADLINE_S)).state_count


async def eventually(check: Any) -> None:
    until = time.monotonic() + DEADLINE_S
    while not await check():
        assert time.monotonic() < until
        await asyncio.sleep(0.02)


async def test_what_was_answered_is_there_after_a_kill(folder: Path, postgres_url: str) -> None:
    url = ("--database-url", postgres_url)
    async with serving(folder, *url, stop=signal.SIGKILL) as (client, _):
        assert (await client.get_index(INDEX, timeout_s=DEADLINE_S)).durable
        assert await client.add_states(INDEX, states_of(range(10_000, 10_050)), timeout_s=DEADLINE_S) == 50
        assert await client.add_states(INDEX, states_of(range(10_000, 10_050)), timeout_s=DEADLINE_S) == 0
        # One that was added, one that ships with the index, one that is not there.
        assert await client.delete_states(INDEX, [10_003, 20, 77], timeout_s=DEADLINE_S) == 2
    async with serving(folder, *url) as (client, _):
        assert await count_of(client) == 200 + 50 - 2
        assert await found(client, 10_002) == [10_002]
        assert 10_003 not in await found(client, 10_003, 256)
        assert 20 not in await found(client, 10_003, 256)
        assert await client.add_states(INDEX, states_of(range(10_003, 10_004)), timeout_s=DEADLINE_S) == 0


async def test_a_start_reads_the_snapshot_and_only_what_came_after(folder: Path, postgres_url: str) -> None:
    options = ("--database-url", postgres_url, "--merge-at", "20", "--log-format", "json")
    async with serving(folder, *options, stop=signal.SIGKILL) as (client, _):
        assert await client.delete_states(INDEX, [30], timeout_s=DEADLINE_S) == 1
        for first in range(10_000, 10_100, 25):
            await client.add_states(INDEX, states_of(range(first, first + 25)), timeout_s=DEADLINE_S)

        async def merged() -> bool:
            return (await client.get_index(INDEX, timeout_s=DEADLINE_S)).unmerged_count < 20

        await eventually(merged)
        assert await found(client, 10_007) == [10_007]
        assert await client.delete_states(INDEX, [10_099], timeout_s=DEADLINE_S) == 1

        async def written() -> bool:
            return len(list((folder / "indexes" / INDEX / "1" / "snapshots").glob("0*"))) > 0

        await eventually(written)
    async with serving(folder, *options) as (client, server):
        assert await count_of(client) == 200 + 100 - 2
        assert await found(client, 10_007) == [10_007]
        assert 10_099 not in await found(client, 10_099, 256)
        assert 30 not in await found(client, 10_099, 256)
        events = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    replayed = sum(event["count"] for event in events if event["event"] == "changes read from the database")
    assert 0 < replayed < 100


async def test_two_processes_never_write_one_index(folder: Path, postgres_url: str) -> None:
    url = ("--database-url", postgres_url)
    async with serving(folder, *url):
        for more in ([], ["--snapshots", folder / "elsewhere"]):
            second = Server(folder, *url, *more, "--log-level", "error")
            assert second.process.wait(DEADLINE_S) == 1
            text = second.log.read_text().splitlines()[-1]
            assert text.startswith("error: another process writes ")
            assert "--read-only" in text


async def test_a_replica_refuses_changes_and_follows_the_writer(folder: Path, postgres_url: str) -> None:
    url = ("--database-url", postgres_url)
    async with serving(folder, *url) as (writer, _), serving(folder, *url, "--read-only") as (replica, _):
        with pytest.raises(CallError, match="replica"):
            await replica.add_states(INDEX, states_of(range(10_000, 10_001)), timeout_s=DEADLINE_S)
        await writer.add_states(INDEX, states_of(range(10_000, 10_010)), timeout_s=DEADLINE_S)
        await writer.delete_states(INDEX, [10_000, 40], timeout_s=DEADLINE_S)

        async def followed() -> bool:
            return await count_of(replica) == 200 + 10 - 2

        await eventually(followed)
        assert await found(replica, 10_005) == [10_005]
        assert 40 not in await found(replica, 10_000, 256)


async def test_while_the_database_is_away_searches_go_on_and_nothing_is_half_added(
    folder: Path, own_postgres: OwnServer
) -> None:
    async with serving(folder, "--database-url", own_postgres.url) as (client, _):
        await client.add_states(INDEX, states_of(range(10_000, 10_010)), timeout_s=DEADLINE_S)
        own_postgres.kill()
        for _ in range(2):
            with pytest.raises(AioRpcError) as caught:
                await client.stub.AddStates(_request(states_of(range(10_010, 10_020))), timeout=DEADLINE_S)
            assert caught.value.code() is StatusCode.UNAVAILABLE
            status = rpc_status.from_call(caught.value)
            retry = error_details_pb2.RetryInfo.FromString(status.details[1].value)
            assert retry.retry_delay.ToMilliseconds() > 0
        assert await found(client, 10_005) == [10_005]
        assert 10_015 not in await found(client, 10_015)
        own_postgres.start()

        async def added() -> bool:
            with contextlib.suppress(CallError):
                await client.add_states(INDEX, states_of(range(10_010, 10_020)), timeout_s=DEADLINE_S)
                return True
            return False

        await eventually(added)
        assert await count_of(client) == 220
        assert await found(client, 10_015) == [10_015]


def _request(states: list[NewState]) -> Any:
    request = pb.AddStatesRequest(request_id="r", index_name=INDEX)
    for state in states:
        message = request.states.add(state_id=state.state_id, embedding_f32=state.embedding.tobytes())
        message.instrument.con_id = 1
        message.event_time.FromNanoseconds(state.event_ns)
        message.outcome_time.FromNanoseconds(state.outcome_ns)
        message.bar_duration.FromSeconds(60)
    return request


def test_a_database_that_is_not_there_is_one_clear_line(folder: Path) -> None:
    url = "postgresql://nobody:secret@127.0.0.1:1/none"
    server = Server(folder, "--database-url", url, "--log-level", "error")
    assert server.process.wait(DEADLINE_S) == 1
    (line,) = server.log.read_text().splitlines()
    assert line.startswith("error: nothing listens at 127.0.0.1:1/none: start Postgres there")
    assert "secret" not in line


def test_a_replica_without_a_database_is_one_clear_line(folder: Path) -> None:
    server = Server(folder, "--read-only")
    assert server.process.wait(DEADLINE_S) == 2
    assert "error: --read-only follows a database: give --database-url too" in server.log.read_text()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    write_index(tmp_path / "indexes", state_arrays(3_000, DIMENSION))
    return tmp_path


async def test_an_index_that_was_built_ahead_is_served_and_says_how_it_searches(
    large: Path, postgres_url: str
) -> None:
    async with serving(large, "--database-url", postgres_url) as (client, _):
        await client.add_states(INDEX, states_of(range(100_000, 100_030)), timeout_s=DEADLINE_S)
        await client.delete_states(INDEX, [10, 100_001], timeout_s=DEADLINE_S)
    command = [sys.executable, "-m", "similarity_server", "build", "--indexes", str(large / "indexes")]
    command += ["--kind", "ivf", "--database-url", postgres_url]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stderr
    assert "3028 states, IVF64,PQ8x4fs,RFlat, recall@10 " in done.stdout
    async with serving(large, "--database-url", postgres_url) as (client, _):
        info = await client.get_index(INDEX, timeout_s=DEADLINE_S)
        assert (info.index_kind, info.state_count) == ("IVF64,PQ8x4fs,RFlat", 3_028)
        assert (info.unmerged_count, info.deleted_count) == (0, 2)
        assert 0.5 < info.recall_at_10 <= 1.0
        assert info.recall_query_count == 500
        assert await found(client, 100_005) == [100_005]
        assert 100_001 not in await found(client, 100_001, 256)


def test_a_build_of_a_kind_that_does_not_fit_is_one_clear_line(tmp_path: Path) -> None:
    write_index(tmp_path, state_arrays(50, 15))
    command = [sys.executable, "-m", "similarity_server", "build", "--indexes", str(tmp_path), "--kind", "pq"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "error: --kind: 'pq' needs an even dimension, not 15: choose 'flat'"
    )
