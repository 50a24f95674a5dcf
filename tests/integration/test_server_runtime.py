"""What every server of ours does with calls: health, bounds, deadlines, refusals, metrics."""

from __future__ import annotations

import asyncio
import time
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from fakes.gate import NAME, Start, details_of, failure_of
from server_runtime import errors


async def test_health_and_reflection_name_the_services(start_gate: Start) -> None:
    one = await start_gate()
    assert await one.health() == health_pb2.HealthCheckResponse.SERVING
    assert await one.health("") == health_pb2.HealthCheckResponse.SERVING
    await one.server.set_serving(NAME, False)
    assert await one.health() == health_pb2.HealthCheckResponse.NOT_SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(one.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    response = await call.read()
    call.cancel()
    names = {service.name for service in response.list_services_response.service}
    assert {NAME, "grpc.health.v1.Health"} <= names


async def test_a_full_server_refuses_with_a_time_to_retry_and_its_health_still_answers(
    start_gate: Start,
) -> None:
    one = await start_gate(max_in_flight=2)
    held = [one.call("Wait"), one.call("Wait")]
    for _ in held:
        await asyncio.wait_for(one.gate.waiting.acquire(), 10)
    error = await failure_of(one.call("Wait"))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    details = details_of(error)
    assert details["ErrorInfo"].reason == "OVERLOADED"
    assert details["ErrorInfo"].domain == "tradeserve"
    assert details["ErrorInfo"].metadata["limit"] == "2"
    assert details["RetryInfo"].retry_delay.ToMilliseconds() == 50
    assert await one.health() == health_pb2.HealthCheckResponse.SERVING
    one.gate.opened.set()
    assert [await call for call in held] == [b"open:x", b"open:x"]
    assert await one.call("Wait") == b"open:x"


async def test_a_cancelled_call_makes_room(start_gate: Start) -> None:
    one = await start_gate(max_in_flight=1)
    held = one.call("Wait")
    await asyncio.wait_for(one.gate.waiting.acquire(), 10)
    held.cancel()
    one.gate.opened.set()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            assert await one.call("Wait") == b"open:x"
            return
        except grpc.aio.AioRpcError as e:
            assert e.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            await asyncio.sleep(0.01)
    pytest.fail("the slot of the cancelled call was never free again")


async def test_streams_are_bounded_apart_from_calls(start_gate: Start) -> None:
    one = await start_gate(max_in_flight=1, max_streams=1)
    first = one.stream()
    await first.write(b"1")
    assert await first.read() == b"1"
    second = one.stream()
    error = await failure_of(second.read())
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "streams are in flight" in error.details()
    one.gate.opened.set()
    assert await one.call("Wait") == b"open:x"
    await first.done_writing()


async def test_a_call_that_cannot_be_answered_in_time_is_refused_before_its_deadline(
    start_gate: Start,
) -> None:
    one = await start_gate(answer_margin_s=100.0)
    began = time.monotonic()
    error = await failure_of(one.call("Wait", timeout=50.0))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert details_of(error)["ErrorInfo"].reason == "TOO_LATE"
    assert time.monotonic() - began < 50.0
    assert one.gate.waiting.locked(), "its handler must not have started"


async def test_a_call_without_a_deadline_is_served(start_gate: Start) -> None:
    one = await start_gate(answer_margin_s=100.0)
    one.gate.opened.set()
    assert await one.call("Wait", timeout=None) == b"open:x"


async def test_a_refusal_names_reason_field_and_facts(start_gate: Start) -> None:
    one = await start_gate()
    error = await failure_of(one.call("Refuse"))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "mode: not now"
    info = details_of(error)["ErrorInfo"]
    assert (info.reason, dict(info.metadata)) == ("REFUSED", {"field": "mode", "served": "paper"})


async def test_bytes_that_are_no_message_are_the_callers_bug(start_gate: Start) -> None:
    one = await start_gate()
    unary = await failure_of(one.call("Read", b"\xff\xff\xff"))
    stream = one.channel.stream_stream(f"/{NAME}/ReadEach")()
    await stream.write(b"\xff\xff\xff")
    streamed = await failure_of(stream.read())
    for error in (unary, streamed):
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details_of(error)["ErrorInfo"].metadata == {"field": "request"}


async def test_a_fault_of_ours_does_not_tell_the_caller_our_secrets(start_gate: Start) -> None:
    one = await start_gate()
    error = await failure_of(one.call("Crash"))
    assert error.code() == grpc.StatusCode.INTERNAL
    assert "hunter2" not in error.details()
    assert details_of(error)["ErrorInfo"].reason == "INTERNAL"


async def test_a_message_above_the_bound_is_refused(start_gate: Start) -> None:
    one = await start_gate(max_message_bytes=1000)
    one.gate.opened.set()
    error = await failure_of(one.call("Wait", b"x" * 2000))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_metrics_count_calls_by_method_and_code(start_gate: Start) -> None:
    one = await start_gate(metrics_port=0)
    one.gate.opened.set()
    await one.call("Wait")
    await failure_of(one.call("Refuse"))
    url = f"http://{one.server.metrics_address}/metrics"
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
    assert f'tradeserve_calls_total{{code="OK",method="/{NAME}/Wait"}} 1.0' in page
    assert f'tradeserve_calls_total{{code="FAILED_PRECONDITION",method="/{NAME}/Refuse"}} 1.0' in page
    assert f'tradeserve_stage_seconds_count{{method="/{NAME}/Wait",stage="total"}} 1.0' in page
    port = int(one.server.metrics_address.rpartition(":")[2])
    with pytest.raises(errors.StartError, match="choose another --metrics-port"):
        await start_gate(metrics_port=port)
