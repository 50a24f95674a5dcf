"""The forecaster over two servers of each kind: who is asked, asked again, and never used."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from unittest.mock import ANY

import grpc
import numpy as np
import pytest

from fakes.fake_similarity import FakeSimilarity
from fakes.fake_triton import SHA, FakeTriton
from fakes.waiting import client_tasks, until
from strategy import recording
from strategy.adapters.forecaster_specs import ForecasterSpec, IndexSpec, VoterSpec
from strategy.adapters.grpc_forecaster import GrpcForecaster
from strategy.ports import ForecastReply, ForecastRequest, LateAnswer
from tradeserve_client.answers import Cause, NoAnswer, Reason
from tradeserve_client.breaker import BreakerState
from tradeserve_client.channel import Transport
from tradeserve_client.errors import ContractError
from tradeserve_client.hedging import MIN_SAMPLES

MS = 1_000_000
EVENT_NS = 1_700_000_000_000_000_000
WINDOW = np.full((60, 5), 100.0, np.float32)
LSTM = VoterSpec("lstm_cnn", 1, SHA["lstm_cnn"])
GAF = VoterSpec("gaf_resnet", 1, SHA["gaf_resnet"], embedding_dimension=128)
LOST = (grpc.StatusCode.UNAVAILABLE, "the connection went away")
FULL = (grpc.StatusCode.UNAVAILABLE, "in ensemble 'x', Exceeds maximum queue size")


class World:
    """Two Tritons, two similarity servers, and forecasters that ask them."""

    def __init__(self) -> None:
        self.tritons = [FakeTriton(), FakeTriton()]
        self.similarities = [FakeSimilarity(), FakeSimilarity()]
        self.late: list[LateAnswer] = []
        self.started: list[GrpcForecaster] = []
        self.number = 0

    @property
    def servers(self) -> list[FakeTriton | FakeSimilarity]:
        return [*self.tritons, *self.similarities]

    async def forecaster(self, **changes: object) -> GrpcForecaster:
        settings: dict[str, object] = {
            "triton_target": ", ".join(server.address for server in self.tritons),
            "voters": (LSTM, GAF),
            "index": IndexSpec(
                ",".join(server.address for server in self.similarities), version=1, neighbor_count=5
            ),
            "forecast_share_ns": 2_000 * MS,
            "search_share_ns": 2_000 * MS,
            "total_ns": 4_000 * MS,
            "connect_timeout_s": 5.0,
            "recheck_s": 0.1,
        }
        forecaster = GrpcForecaster(ForecasterSpec(**(settings | changes)), on_late=self.late.append)  # type: ignore[arg-type]
        self.started.append(forecaster)
        await forecaster.start()
        await until(lambda: all(stream.is_open for stream in forecaster._search._streams))  # type: ignore[union-attr]
        return forecaster

    async def ask(self, forecaster: GrpcForecaster) -> ForecastReply:
        self.number += 1
        return await forecaster.forecast(request(f"d{self.number}"))

    async def ask_at(self, forecaster: GrpcForecaster, service: str, target: str) -> ForecastReply:
        """Ask until a call starts at one server; they take turns, unless a hedge comes between."""
        for _ in range(10):
            reply = await self.ask(forecaster)
            if reply.attempts[service][0].target == target:
                return reply
        raise AssertionError(f"no call of {service} started at {target}")

    @property
    def late_ids(self) -> list[str]:
        return [late.request_id for late in self.late]

    def calls(self, model: str) -> list[int]:
        return [server.models[model].calls for server in self.tritons]

    def searches(self) -> list[int]:
        return [len(server.searches) for server in self.similarities]


def request(decision_id: str) -> ForecastRequest:
    return ForecastRequest(decision_id, 1, WINDOW, EVENT_NS, time.monotonic_ns())


def reasons(reply: ForecastReply) -> list[Reason | None]:
    outcomes = [*reply.forecasts.values(), reply.neighbors]
    return [outcome.reason if isinstance(outcome, NoAnswer) else None for outcome in outcomes]


def told(reply: ForecastReply, service: str) -> Sequence[tuple[str, Cause, str]]:
    """Return what the reply says on the attempts of one call."""
    return [
        (
            attempt.target,
            attempt.cause,
            "overtaken"
            if attempt.outcome is None
            else attempt.outcome.reason.value
            if isinstance(attempt.outcome, NoAnswer)
            else "in time",
        )
        for attempt in reply.attempts[service]
    ]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    before = client_tasks()
    found = World()
    for server in found.servers:
        await server.start()
    yield found
    for forecaster in found.started:
        await forecaster.close()
    for server in found.servers:
        await server.stop()
    await until(lambda: not client_tasks() - before)


async def test_all_servers_take_part_and_the_reply_names_who_was_asked(
    world: World, transport: Transport
) -> None:
    forecaster = await world.forecaster(transport=transport)
    at_start = world.calls("lstm_cnn")
    for _ in range(20):
        reply = await world.ask(forecaster)
        assert reasons(reply) == [None, None, None]
        for service in ("lstm_cnn", "gaf_resnet", "similarity"):
            ((target, cause, outcome),) = told(reply, service)
            assert target in f"{forecaster.spec.triton_target}, {forecaster.spec.index.target}"
            assert (cause, outcome) == (Cause.FIRST, "in time")
    assert all(now > before for now, before in zip(world.calls("lstm_cnn"), at_start, strict=True))
    assert sum(world.calls("lstm_cnn")) - sum(at_start) == 20
    assert all(world.searches())
    assert sum(world.searches()) == 20
    voters = [*forecaster.voters, forecaster.similarity]
    assert [voter.problem for voter in voters] == ["", "", ""]
    assert voters[0].target == ", ".join(server.address for server in world.tritons)


async def test_with_one_server_each_the_reply_has_no_attempts(world: World) -> None:
    forecaster = await world.forecaster(
        triton_target=world.tritons[0].address, index=IndexSpec(world.similarities[0].address, version=1)
    )
    reply = await world.ask(forecaster)
    assert reasons(reply) == [None, None, None]
    assert reply.attempts == {}
    assert all(row.attempts is None for row in recording.call_rows(request("d"), reply))


async def test_a_lost_connection_costs_no_answer_and_the_journal_tells_both_attempts(
    world: World, transport: Transport
) -> None:
    forecaster = await world.forecaster(transport=transport, recheck_s=60.0)
    world.tritons[0].models["lstm_cnn"].error = LOST
    retried = None
    for _ in range(4):
        asked = request("d")
        reply = await forecaster.forecast(asked)
        assert reasons(reply) == [None, None, None]
        if len(reply.attempts["lstm_cnn"]) == 2:
            retried = asked, reply
    assert retried is not None
    asked, reply = retried
    addresses = [server.address for server in world.tritons]
    assert told(reply, "lstm_cnn") == [
        (addresses[0], Cause.FIRST, "down"),
        (addresses[1], Cause.RETRY, "in time"),
    ]
    row = next(row for row in recording.call_rows(asked, reply) if row.service == "lstm_cnn")
    assert row.attempts is not None
    first, second = row.attempts
    assert (first["target"], first["cause"], first["outcome"]) == (addresses[0], "first", "down")
    assert first["detail"] == "UNAVAILABLE: the connection went away"
    assert (second["target"], second["cause"], second["outcome"]) == (addresses[1], "retry", "in time")
    assert 0 < first["sent_after_ns"] < first["received_after_ns"] <= second["sent_after_ns"]
    assert second["sent_after_ns"] == row.sent_after_ns


async def test_the_only_server_left_is_asked_again_when_its_connection_stands(world: World) -> None:
    forecaster = await world.forecaster()
    await world.tritons[1].stop()
    await until(lambda: forecaster._voters[0].checks[1].refusal() is not None)
    model = world.tritons[0].models["lstm_cnn"]
    errors = itertools.chain([LOST], itertools.repeat(None))

    def next_error() -> float:
        model.error = next(errors)
        return 0.0

    model.delay_s = next_error
    reply = await world.ask(forecaster)
    assert reasons(reply) == [None, None, None]
    only = world.tritons[0].address
    assert told(reply, "lstm_cnn") == [(only, Cause.FIRST, "down"), (only, Cause.RETRY, "in time")]


async def test_a_server_whose_contract_is_in_doubt_is_not_asked_until_it_was_checked(world: World) -> None:
    forecaster = await world.forecaster(recheck_s=60.0)
    broken = world.tritons[0].models["lstm_cnn"]
    broken.error = LOST
    while len((await world.ask(forecaster)).attempts["lstm_cnn"]) == 1:
        pass
    await until(lambda: forecaster._voters[0].checks[0].reason is not None)  # its trial inference failed
    calls = broken.calls
    for _ in range(6):
        reply = await world.ask(forecaster)
        assert reasons(reply) == [None, None, None]
        assert len(reply.attempts["lstm_cnn"]) == 1
    assert broken.calls == calls
    assert forecaster.voters[0].problem == ""  # the other one votes


async def test_a_full_queue_of_triton_is_never_answered_with_another_call(world: World) -> None:
    forecaster = await world.forecaster()
    for server in world.tritons:
        server.models["lstm_cnn"].error = FULL
    before = sum(world.calls("lstm_cnn"))
    for _ in range(4):
        reply = await world.ask(forecaster)
        assert reasons(reply) == [Reason.BUSY, None, None]
        assert len(reply.attempts["lstm_cnn"]) == 1
    assert sum(world.calls("lstm_cnn")) - before == 4


async def test_retries_can_be_switched_off(world: World) -> None:
    forecaster = await world.forecaster(retry=False, hedge_share=0.0, recheck_s=60.0)
    for server in world.tritons:
        server.models["lstm_cnn"].error = LOST
    reply = await world.ask(forecaster)
    assert reasons(reply) == [Reason.DOWN, None, None]
    assert len(reply.attempts["lstm_cnn"]) == 1


async def test_a_slow_answer_is_overtaken_reported_and_never_used(world: World, transport: Transport) -> None:
    forecaster = await world.forecaster(transport=transport, hedge_share=0.5)
    for _ in range(MIN_SAMPLES + 1):
        await world.ask(forecaster)
    world.tritons[0].models["lstm_cnn"].delay_s = lambda: 1.0
    overtaken = await world.ask_at(forecaster, "lstm_cnn", world.tritons[0].address)
    assert reasons(overtaken) == [None, None, None]
    assert told(overtaken, "lstm_cnn") == [
        (world.tritons[0].address, Cause.FIRST, "overtaken"),
        (world.tritons[1].address, Cause.HEDGE, "in time"),
    ]
    request_id = overtaken.forecasts["lstm_cnn"].call.request_id
    await until(lambda: request_id in world.late_ids)
    late = world.late[world.late_ids.index(request_id)]
    assert late.service == "lstm_cnn"
    assert late.decision_id.startswith("d")
    assert late.late_ns == 0
    assert "another server had answered" in recording.late_row(late).detail


async def test_hedges_stay_within_their_share_of_the_calls(world: World) -> None:
    forecaster = await world.forecaster(hedge_share=0.05, forecast_share_ns=200 * MS)
    for _ in range(MIN_SAMPLES + 8):
        await world.ask(forecaster)
    world.tritons[0].models["lstm_cnn"].delay_s = lambda: 30.0
    world.tritons[1].models["lstm_cnn"].delay_s = lambda: 30.0
    for _ in range(4):
        assert reasons(await world.ask(forecaster))[0] is Reason.LATE
    counts = forecaster._caller.counts
    assert 1 <= counts.hedges <= 0.05 * counts.calls


async def test_a_server_with_another_model_stops_the_start_and_is_named(world: World) -> None:
    world.tritons[1].models["lstm_cnn"].parameters["artifact_sha256"] = "ee" * 32
    with pytest.raises(ContractError, match=rf"{world.tritons[1].address}: lstm_cnn: expected artifact"):
        await world.forecaster()


async def test_a_server_that_comes_back_with_another_model_leaves_the_calls_to_the_other(
    world: World,
) -> None:
    forecaster = await world.forecaster()
    other = world.tritons[1]
    await other.stop()
    other.models["lstm_cnn"].parameters["artifact_sha256"] = "ee" * 32
    await other.start()
    check = forecaster._voters[0].checks[1]
    await until(lambda: check.reason is Reason.CONTRACT_MISMATCH)
    calls = other.models["lstm_cnn"].calls
    for _ in range(6):
        assert reasons(await world.ask(forecaster)) == [None, None, None]
    assert other.models["lstm_cnn"].calls == calls
    assert forecaster.voters[0].problem == ""


async def test_two_versions_of_a_model_never_stand_in_for_each_other(world: World) -> None:
    world.tritons[1].models["lstm_cnn"].parameters["artifact_sha256"] = "ee" * 32
    forecaster = await world.forecaster(voters=(VoterSpec("lstm_cnn"), GAF), recheck_s=60.0)
    used = set()
    for _ in range(6):
        reply = await world.ask(forecaster)
        used.add(reply.forecasts["lstm_cnn"].call.artifact_sha256)
    assert used == {SHA["lstm_cnn"]}
    world.tritons[0].models["lstm_cnn"].error = LOST
    reply = await world.ask(forecaster)
    assert reasons(reply) == [Reason.DOWN, None, None]


async def test_with_all_servers_away_each_is_named(world: World) -> None:
    forecaster = await world.forecaster()
    for server in world.servers:
        await server.stop()
    await until(lambda: bool(forecaster.voters[0].problem) and bool(forecaster.similarity.problem))
    assert all(server.address in forecaster.voters[0].problem for server in world.tritons)
    assert all(server.address in forecaster.similarity.problem for server in world.similarities)
    assert reasons(await world.ask(forecaster)) == [Reason.DOWN, Reason.DOWN, Reason.NO_INPUT]


async def test_where_no_server_may_be_asked_a_contract_that_differs_says_most(world: World) -> None:
    forecaster = await world.forecaster()
    for server in world.tritons:
        await server.stop()
    away, changed = world.tritons
    changed.models["lstm_cnn"].parameters["artifact_sha256"] = "ee" * 32
    await changed.start()
    await until(lambda: forecaster._voters[0].checks[1].refusal() == (Reason.CONTRACT_MISMATCH, ANY))
    outcome = (await world.ask(forecaster)).forecasts["lstm_cnn"]
    assert isinstance(outcome, NoAnswer)
    assert outcome.reason is Reason.CONTRACT_MISMATCH
    assert f"{away.address}: no connection" in outcome.detail
    assert f"{changed.address}: lstm_cnn: expected artifact" in outcome.detail


async def test_a_search_whose_stream_breaks_goes_to_the_other_server_at_once(
    world: World, transport: Transport
) -> None:
    forecaster = await world.forecaster(transport=transport, hedge_share=0.0)
    for server in world.similarities:
        server.delay_s = lambda: 0.3
    asked = asyncio.create_task(world.ask(forecaster))
    await until(lambda: any(world.searches()))
    first = 0 if world.searches()[0] else 1
    began_ns = time.monotonic_ns()
    await world.similarities[first].stop()
    reply = await asked
    assert reasons(reply) == [None, None, None]
    assert time.monotonic_ns() - began_ns < 1_500 * MS
    assert told(reply, "similarity") == [
        (world.similarities[first].address, Cause.FIRST, "down"),
        (world.similarities[1 - first].address, Cause.RETRY, "in time"),
    ]


async def test_a_slow_search_is_overtaken_reported_and_never_used(world: World) -> None:
    forecaster = await world.forecaster(hedge_share=0.5)
    for _ in range(MIN_SAMPLES + 1):
        await world.ask(forecaster)
    world.similarities[0].delay_s = lambda: 1.0
    slow = world.similarities[0].address
    overtaken = await world.ask_at(forecaster, "similarity", slow)
    assert reasons(overtaken) == [None, None, None]
    assert told(overtaken, "similarity") == [
        (slow, Cause.FIRST, "overtaken"),
        (world.similarities[1].address, Cause.HEDGE, "in time"),
    ]
    await until(lambda: overtaken.neighbors.call.request_id in world.late_ids)


async def test_an_index_of_other_embeddings_is_not_searched_while_the_other_server_is(world: World) -> None:
    forecaster = await world.forecaster()
    changed = world.similarities[1]
    await changed.stop()
    changed.embedding_sha256 = "99" * 32
    await changed.start()
    await until(lambda: all(stream.is_open for stream in forecaster._search._streams))  # type: ignore[union-attr]
    await until(lambda: forecaster._search._checks[1].holds)  # type: ignore[union-attr]
    searches = len(changed.searches)
    for _ in range(6):
        assert reasons(await world.ask(forecaster)) == [None, None, None]
    assert len(changed.searches) == searches
    assert forecaster.similarity.problem == ""


async def test_a_search_server_that_does_not_answer_is_left_alone_and_taken_back(world: World) -> None:
    forecaster = await world.forecaster(
        breaker_failure_count=2, hedge_share=0.0, forecast_share_ns=300 * MS, search_share_ns=50 * MS
    )
    world.similarities[0].delay_s = lambda: 0.5
    stream = forecaster._search._streams[0]  # type: ignore[union-attr]
    seen: list[Reason | None] = []
    async with asyncio.timeout(20):
        while stream.breaker.state is BreakerState.CLOSED:
            seen.append(reasons(await world.ask(forecaster))[2])
    assert set(seen) == {None, Reason.LATE}
    assert seen.count(Reason.LATE) == 2
    world.similarities[0].delay_s = lambda: 0.0
    async with asyncio.timeout(20):
        while not stream.is_well:  # a copy of a search finds out, and no decision
            assert reasons(await world.ask(forecaster)) == [None, None, None]
            await asyncio.sleep(0.02)
    counts = forecaster._search._replicas.counts  # type: ignore[union-attr]
    assert counts.probes >= 1


async def test_a_cancelled_decision_leaves_no_task_behind(world: World) -> None:
    forecaster = await world.forecaster(forecast_share_ns=30_000 * MS, total_ns=30_000 * MS)
    before = client_tasks()
    for server in world.tritons:
        server.models["lstm_cnn"].delay_s = lambda: 5.0
    for similarity in world.similarities:
        similarity.delay_s = lambda: 5.0
    asked = asyncio.create_task(forecaster.forecast(request("d")))
    await until(lambda: any(world.searches()))
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await until(lambda: not client_tasks() - before)
