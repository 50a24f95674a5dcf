"""Traces: spans of servers and strategy reach a collector over a real socket and hang together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from fakes.engine_world import World
from fakes.otlp_collector import OtlpCollector
from journal.rows import DecisionRow
from server_runtime.server import GrpcServer, ServerOptions, Transport
from server_runtime.tracing import Span, SpanSender, TraceParent, parse_traceparent
from strategy.adapters.tracing import DecisionTracer

TRACE = 0x0AF7651916CD43DD8448EB211C80319C
PARENT = 0xB7AD6B7169203331
NAME = "test.Echo"


@pytest.fixture
async def collector() -> AsyncIterator[OtlpCollector]:
    made = OtlpCollector()
    yield made
    await made.stop()


async def serve(endpoint: str, transport: Transport = Transport.GRPC) -> GrpcServer:
    async def echo(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        if request == b"refuse":
            await context.abort(grpc.StatusCode.NOT_FOUND, "nothing")
        return request

    server = GrpcServer(ServerOptions(otlp_endpoint=endpoint, transport=transport), name="echo")
    handlers = {"Say": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_service(
        NAME,
        lambda target: target.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(NAME, handlers),)
        ),
    )
    await server.start()
    return server


async def test_a_traced_call_becomes_a_span_of_its_callers_trace(
    collector: OtlpCollector, server_transport: Transport
) -> None:
    server = await serve(await collector.start(), server_transport)
    async with grpc.aio.insecure_channel(server.address) as channel:
        say = channel.unary_unary(f"/{NAME}/Say")
        header = (("traceparent", TraceParent(TRACE, PARENT).header),)
        await say(b"x", metadata=header, timeout=10)
        with pytest.raises(grpc.aio.AioRpcError):
            await say(b"refuse", metadata=header, timeout=10)
        await say(b"x", timeout=10)
        unsampled = (("traceparent", TraceParent(TRACE, PARENT, sampled=False).header),)
        await say(b"x", metadata=unsampled, timeout=10)
    await server.stop()
    (service, good), (_, bad) = await collector.wait_for(2)
    assert len(collector.spans) == 2, "calls that nobody traces make no span"
    assert service == "tradeserve.echo"
    assert good.name == f"{NAME}/Say"
    assert int.from_bytes(good.trace_id) == int.from_bytes(bad.trace_id) == TRACE
    assert int.from_bytes(good.parent_span_id) == PARENT
    assert good.span_id != bad.span_id
    assert good.start_time_unix_nano <= good.end_time_unix_nano <= time.time_ns()
    assert bad.status.message == "NOT_FOUND"


async def test_a_collector_that_is_away_disturbs_nothing() -> None:
    server = await serve("127.0.0.1:1")
    async with grpc.aio.insecure_channel(server.address) as channel:
        header = (("traceparent", TraceParent(TRACE, PARENT).header),)
        assert await channel.unary_unary(f"/{NAME}/Say")(b"x", metadata=header, timeout=10) == b"x"
    await server.stop()


async def test_spans_keep_the_ids_and_times_they_are_given(collector: OtlpCollector) -> None:
    sender = SpanSender("strategy", await collector.start())
    now_ns = time.monotonic_ns()
    sender.send(Span("decision", now_ns - 5_000_000, now_ns, TRACE, PARENT, attributes={"symbol": "ACME"}))
    ((_, span),) = await collector.wait_for(1)
    sender.close()
    assert int.from_bytes(span.span_id) == PARENT
    assert span.end_time_unix_nano - span.start_time_unix_nano == 5_000_000
    assert not span.parent_span_id


async def test_a_decision_is_one_trace_with_its_stages_and_calls(
    collector: OtlpCollector, tmp_path: Path
) -> None:
    sender = SpanSender("strategy", await collector.start())
    world = World(tmp_path, trace=DecisionTracer(sender))
    await world.start()
    await world.bar()
    await world.stop()
    await asyncio.to_thread(sender.close)
    spans = {span.name: span for _, span in collector.spans}
    assert spans.keys() == {
        "decision",
        "window",
        "forecasts",
        "decide",
        "intent",
        "order",
        "lstm_cnn",
        "gaf_resnet",
        "similarity",
    }
    assert spans["similarity"].status.message.startswith("down: ")
    assert not spans["lstm_cnn"].status.message
    (row,) = world.journal.of(DecisionRow)
    assert isinstance(row, DecisionRow)
    root = spans.pop("decision")
    assert {int.from_bytes(span.trace_id) for span in (root, *spans.values())} == {int(row.decision_id, 16)}
    assert {span.parent_span_id for span in spans.values()} == {root.span_id}
    assert spans["order"].end_time_unix_nano == pytest.approx(root.end_time_unix_nano, abs=1_000_000)
    assert {item.key: item.value.string_value for item in root.attributes}["side"] == "BUY"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00-abc",
        f"ff-{TRACE:032x}-{PARENT:016x}-01",
        f"00-{0:032x}-{PARENT:016x}-01",
        f"00-{TRACE:032x}-{0:016x}-01",
        f"00-{TRACE:032x}-{PARENT:016x}-01-more",
        f"00-{TRACE:032X}-{PARENT:016x}-01".replace("a", "A"),
    ],
)
def test_a_header_that_the_specification_calls_invalid_traces_nothing(header: str) -> None:
    assert parse_traceparent(header) is None


def test_a_header_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert parse_traceparent(f"01-{TRACE:032x}-{PARENT:016x}-01-more") == TraceParent(TRACE, PARENT)
