import asyncio
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from server_runtime import errors
from server_runtime.listen import TlsFiles, claim_port, claim_unix_path
from server_runtime.server import GrpcServer, ServerOptions, Transport

NAME = "test.Gate"


class Gate:
    """A service of bytes: Wait answers when the test opens the gate."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting = asyncio.Semaphore(0)

    async def wait(self, request: bytes, context: object) -> bytes:
        self.waiting.release()
        await self.opened.wait()
        return b"open:" + request

    async def crash(self, request: bytes, context: object) -> bytes:
        raise RuntimeError("postgresql://user:hunter2@db is down")

    async def refuse(self, request: bytes, context: object) -> bytes:
        raise errors.RefusedError("not now", field="mode", metadata={"served": "paper"})

    async def echo(self, requests: AsyncIterator[bytes], context: object) -> AsyncIterator[bytes]:
        async for request in requests:
            self.waiting.release()
            if request == b"gate":
                await self.opened.wait()
            yield request

    def register(self, server: grpc.aio.Server) -> None:
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    NAME,
                    {
                        "Wait": grpc.unary_unary_rpc_method_handler(self.wait),
                        "Crash": grpc.unary_unary_rpc_method_handler(self.crash),
                        "Refuse": grpc.unary_unary_rpc_method_handler(self.refuse),
                        "Echo": grpc.stream_stream_rpc_method_handler(self.echo),
                        "Read": grpc.unary_unary_rpc_method_handler(
                            self.refuse, request_deserializer=health_pb2.HealthCheckRequest.FromString
                        ),
                        "ReadEach": grpc.stream_stream_rpc_method_handler(
                            self.echo, request_deserializer=health_pb2.HealthCheckRequest.FromString
                        ),
                    },
                ),
            )
        )


class Running:
    def __init__(self, server: GrpcServer, gate: Gate, channel: grpc.aio.Channel) -> None:
        self.server, self.gate, self.channel = server, gate, channel

    def call(self, method: str, request: bytes = b"x", timeout: float | None = 10.0) -> Any:
        return self.channel.unary_unary(f"/{NAME}/{method}")(request, timeout=timeout)

    def stream(self) -> Any:
        return self.channel.stream_stream(f"/{NAME}/Echo")()

    async def health(self, service: str = NAME) -> int:
        stub = health_pb2_grpc.HealthStub(self.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        return int(answer.status)


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def run(server_transport: Transport) -> AsyncIterator[Start]:
    running: list[Running] = []

    async def start(credentials: grpc.ChannelCredentials | None = None, **options: Any) -> Running:
        gate = Gate()
        server = GrpcServer(ServerOptions(**{"grace_s": 10.0, "transport": server_transport, **options}))
        server.add_service(NAME, gate.register)
        address = await server.start()
        channel = (
            grpc.aio.secure_channel(address, credentials)
            if credentials
            else grpc.aio.insecure_channel(address)
        )
        running.append(Running(server, gate, channel))
        return running[-1]

    yield start
    for one in running:
        one.gate.opened.set()
        await one.channel.close()
        await one.server.stop()


async def failure_of(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def details_of(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    status = rpc_status.from_call(error)
    found = {}
    for packed in status.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo):
            if packed.Is(kind.DESCRIPTOR):
                found[kind.__name__] = kind.FromString(packed.value)
    return found


async def test_health_and_reflection_name_the_services(run: Start) -> None:
    one = await run()
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


async def test_a_full_server_refuses_with_a_time_to_retry_and_its_health_still_answers(run: Start) -> None:
    one = await run(max_in_flight=2)
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


async def test_a_cancelled_call_makes_room(run: Start) -> None:
    one = await run(max_in_flight=1)
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


async def test_streams_are_bounded_apart_from_calls(run: Start) -> None:
    one = await run(max_in_flight=1, max_streams=1)
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


async def test_a_call_that_cannot_be_answered_in_time_is_refused_before_its_deadline(run: Start) -> None:
    one = await run(answer_margin_s=100.0)
    began = time.monotonic()
    error = await failure_of(one.call("Wait", timeout=50.0))
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert details_of(error)["ErrorInfo"].reason == "TOO_LATE"
    assert time.monotonic() - began < 50.0
    assert one.gate.waiting.locked(), "its handler must not have started"


async def test_a_call_without_a_deadline_is_served(run: Start) -> None:
    one = await run(answer_margin_s=100.0)
    one.gate.opened.set()
    assert await one.call("Wait", timeout=None) == b"open:x"


async def test_a_refusal_names_reason_field_and_facts(run: Start) -> None:
    one = await run()
    error = await failure_of(one.call("Refuse"))
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "mode: not now"
    info = details_of(error)["ErrorInfo"]
    assert (info.reason, dict(info.metadata)) == ("REFUSED", {"field": "mode", "served": "paper"})


async def test_bytes_that_are_no_message_are_the_callers_bug(run: Start) -> None:
    one = await run()
    unary = await failure_of(one.call("Read", b"\xff\xff\xff"))
    stream = one.channel.stream_stream(f"/{NAME}/ReadEach")()
    await stream.write(b"\xff\xff\xff")
    streamed = await failure_of(stream.read())
    for error in (unary, streamed):
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details_of(error)["ErrorInfo"].metadata == {"field": "request"}


async def test_a_fault_of_ours_does_not_tell_the_caller_our_secrets(run: Start) -> None:
    one = await run()
    error = await failure_of(one.call("Crash"))
    assert error.code() == grpc.StatusCode.INTERNAL
    assert "hunter2" not in error.details()
    assert details_of(error)["ErrorInfo"].reason == "INTERNAL"


async def test_a_message_above_the_bound_is_refused(run: Start) -> None:
    one = await run(max_message_bytes=1000)
    one.gate.opened.set()
    error = await failure_of(one.call("Wait", b"x" * 2000))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_drain_says_not_serving_finishes_what_is_in_flight_and_refuses_the_rest(
    run: Start, tmp_path: Path
) -> None:
    one = await run()
    watch = health_pb2_grpc.HealthStub(one.channel).Watch(health_pb2.HealthCheckRequest(service=NAME))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    held = one.call("Wait")
    await asyncio.wait_for(one.gate.waiting.acquire(), 10)
    stream = one.stream()
    await stream.write(b"1")
    assert await stream.read() == b"1"
    stopping = asyncio.create_task(one.server.stop())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    error = await failure_of(stream.read())
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in error.details()
    assert not stopping.done()
    one.gate.opened.set()
    assert await held == b"open:x"
    began = time.monotonic()
    await stopping
    assert time.monotonic() - began < 8.0, "the watcher of the health must not hold the server"
    error = await failure_of(one.call("Wait", timeout=5.0))
    assert error.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_drain_finishes_the_message_a_stream_is_working_on(run: Start) -> None:
    one = await run()
    stream = one.stream()
    await stream.write(b"gate")
    await asyncio.wait_for(one.gate.waiting.acquire(), 10)
    stopping = asyncio.create_task(one.server.stop())
    one.gate.opened.set()
    assert await stream.read() == b"gate"
    assert (await failure_of(stream.read())).code() == grpc.StatusCode.UNAVAILABLE
    await stopping


async def test_a_drain_is_bounded_by_its_grace(run: Start) -> None:
    one = await run(grace_s=0.2)
    held = one.call("Wait")
    await asyncio.wait_for(one.gate.waiting.acquire(), 10)
    await asyncio.wait_for(one.server.stop(), 8)
    assert (await failure_of(held)).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


DRAINS = """
import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server_runtime.server import GrpcServer, ServerOptions, Transport


async def drain(grace_s: float) -> None:
    server = GrpcServer(ServerOptions(transport=Transport.GRPC, grace_s=grace_s))
    async with grpc.aio.insecure_channel(await server.start()) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        await server.stop()


async def main() -> None:
    for number in range(150):
        await drain(number * 1e-5)


asyncio.run(main())
"""


async def test_the_process_outlives_a_drain_whose_grace_ends_as_its_last_calls_do() -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DRAINS), stderr=asyncio.subprocess.DEVNULL
    )
    assert await child.wait() == 0


async def test_a_port_in_use_is_named_with_what_to_do(run: Start) -> None:
    one = await run()
    port = int(one.server.address.rpartition(":")[2])
    with pytest.raises(
        errors.StartError, match=rf"port {port} on 127.0.0.1 is in use: stop .* --port"
    ) as caught:
        await run(port=port)
    assert caught.value.exit_code == 2


def test_an_unknown_host_and_a_foreign_address_are_told_apart() -> None:
    with pytest.raises(errors.StartError, match="is unknown"):
        claim_port("no-such-host.invalid", 0)
    with pytest.raises(errors.StartError, match="not an address of this machine"):
        claim_port("192.0.2.1", 0)


def test_an_ipv6_address_gets_brackets() -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        assert claim_port("::1", 0) == "[::1]:0"
    except errors.StartError:
        pytest.skip("this machine has no IPv6 loopback address")


async def test_a_unix_socket_serves_and_is_removed(run: Start, tmp_path: Path) -> None:
    path = tmp_path / "s"
    one = await run(unix_path=path)
    one.gate.opened.set()
    assert one.server.address == f"unix:{path}"
    assert await one.call("Wait") == b"open:x"
    with pytest.raises(errors.StartError, match="is in use: stop the server"):
        await run(unix_path=path)
    assert await one.call("Wait") == b"open:x"
    await one.server.stop()
    assert not path.exists()


def test_a_unix_path_nobody_listens_on_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    assert claim_unix_path(path) == f"unix:{path}"
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "message"), [("file", "is no socket"), ("x" * 120, "longer than"), ("no/s", "does not exist")]
)
def test_an_unusable_unix_path_says_why(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(errors.StartError, match=message):
        claim_unix_path(tmp_path / name)
    assert (tmp_path / "file").read_text() == "precious"


async def test_metrics_count_calls_by_method_and_code(run: Start) -> None:
    one = await run(metrics_port=0)
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
        await run(metrics_port=port)


async def test_the_ready_file_is_there_while_the_server_serves(
    tmp_path: Path, server_transport: Transport
) -> None:
    ready = tmp_path / "ready.json"
    ready.write_text("of an earlier run")
    server = GrpcServer(ServerOptions(ready_file=ready, transport=server_transport))
    server.add_service(NAME, Gate().register)
    serving = asyncio.create_task(server.serve({"index": {"name": "x"}}))
    until = time.monotonic() + 10
    while not ready.exists() or not ready.read_text().startswith("{"):
        assert time.monotonic() < until
        await asyncio.sleep(0.01)
    content = json.loads(ready.read_text())
    assert content["address"] == server.address
    assert content["index"] == {"name": "x"}
    server.request_stop()
    await asyncio.wait_for(serving, 10)
    assert not ready.exists()


async def test_a_ready_file_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    server = GrpcServer(ServerOptions(ready_file=tmp_path / "missing" / "ready.json"))
    with pytest.raises(errors.StartError, match=r"--ready-file .* cannot be written"):
        await asyncio.wait_for(server.serve(), 10)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificates of this test and is not installed")
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server", "client"):
        command = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        files = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem")]
        subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run([*command.split(), *files, *subject], check=True, capture_output=True)
    return folder


async def test_mutual_tls_lets_only_known_clients_in(run: Start, certificates: Path) -> None:
    tls = TlsFiles(certificates / "server.pem", certificates / "server.key", certificates / "client.pem")
    root = (certificates / "server.pem").read_bytes()
    known = grpc.ssl_channel_credentials(
        root, (certificates / "client.key").read_bytes(), (certificates / "client.pem").read_bytes()
    )
    one = await run(credentials=known, tls=tls)
    one.gate.opened.set()
    assert await one.call("Wait") == b"open:x"
    async with grpc.aio.secure_channel(one.server.address, grpc.ssl_channel_credentials(root)) as unknown:
        error = await failure_of(unknown.unary_unary(f"/{NAME}/Wait")(b"x", timeout=5.0))
    assert error.code() == grpc.StatusCode.UNAVAILABLE


async def test_a_missing_certificate_is_named(run: Start, tmp_path: Path) -> None:
    with pytest.raises(errors.StartError, match=r"TLS key .*gone.key cannot be read"):
        await run(tls=TlsFiles(tmp_path / "gone.pem", tmp_path / "gone.key"))


async def test_certificates_that_are_none_stop_the_start(
    run: Start, certificates: Path, tmp_path: Path
) -> None:
    (tmp_path / "no.pem").write_text("nothing")
    for tls in (
        TlsFiles(tmp_path / "no.pem", certificates / "server.key"),
        TlsFiles(certificates / "server.pem", certificates / "client.key"),
    ):
        with pytest.raises(errors.StartError, match="TLS files"):
            await run(tls=tls, transport=Transport.HTTP2)
