"""Speak to a running tritonserver: is it up, what does it serve, does each model really answer.

Only the message classes of tritonclient are used, over a grpc.aio channel of our own.
"""

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self

import grpc
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

_ELEMENT_BYTES = {
    "BOOL": 1, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2, "FP16": 2, "BF16": 2,
    "UINT32": 4, "INT32": 4, "FP32": 4, "UINT64": 8, "INT64": 8, "FP64": 8,
    "BYTES": 4,  # the length, 0, of an empty string
}  # fmt: skip
_CALL_TIMEOUT_S = 5.0
_READY_POLL_S = 0.02
_METRIC = b"nv_"
_LONGEST_PAGE_BYTES = 1_000_000
_CHANNEL_OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    # Ours alone: a channel to an earlier server on the same port must not be reused.
    ("grpc.use_local_subchannel_pool", 1),
]


class Health(Enum):
    """What became of one probe."""

    ANSWERED = "answered"
    STUB_DEAD = "the stub process is dead"
    NOT_LOADED = "the model is not loaded"
    LATE = "no answer in time"
    WAITS = "as many sequences run as the model takes"
    UNREACHABLE = "the server is unreachable"
    FAILED = "the inference failed"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One version of a model that the server has loaded, and a request of zeros for it.

    Attributes:
        name: Of the model.
        version: Its number.
        request: The ModelInferRequest.
        new_sequence: Makes the id that a request of a model with sequences needs; None for other models.
    """

    name: str
    version: str
    request: Any
    new_sequence: Callable[[], Any] | None = None


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """How a model answered; `detail` is Triton's own text when it did not."""

    health: Health
    detail: str = ""


class TritonProbe:
    """A channel to one tritonserver."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._waiting: dict[tuple[str, str], asyncio.Task[ProbeResult]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._channel.close()
        await asyncio.gather(*self._waiting.values(), return_exceptions=True)

    async def is_live(self) -> bool:
        """Say whether the server answers at all."""
        try:
            answer = await self._stub.ServerLive(service_pb2.ServerLiveRequest(), timeout=_CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.live)

    async def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the server has loaded its models; False when that took too long."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            try:
                answer = await self._stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=1.0)
            except grpc.aio.AioRpcError:
                answer = None
            if answer is not None and answer.ready:
                return True
            await asyncio.sleep(_READY_POLL_S)
        return False

    async def served_models(self, timeout_s: float = _CALL_TIMEOUT_S) -> list[ServedModel]:
        """List every loaded version, with a request for each.

        Raises:
            grpc.aio.AioRpcError: The server didn't answer.
        """
        index = await self._stub.RepositoryIndex(
            service_pb2.RepositoryIndexRequest(ready=True), timeout=timeout_s
        )
        models = []
        for entry in index.models:
            metadata = await self._stub.ModelMetadata(
                service_pb2.ModelMetadataRequest(name=entry.name, version=entry.version),
                timeout=timeout_s,
            )
            answer = await self._stub.ModelConfig(
                service_pb2.ModelConfigRequest(name=entry.name, version=entry.version), timeout=timeout_s
            )
            request = _zeros(entry.name, entry.version, metadata.inputs)
            models.append(ServedModel(entry.name, entry.version, request, _new_sequence(answer.config)))
        return sorted(models, key=lambda model: (model.name, int(model.version)))

    async def infer(self, model: ServedModel, timeout_s: float) -> ProbeResult:
        """Have the model compute one row of zeros."""
        if model.new_sequence is not None:
            return await self._infer_sequence(model, model.new_sequence(), timeout_s)
        return await self._answer(model.request, timeout_s)

    async def _answer(self, request: Any, timeout_s: float | None) -> ProbeResult:
        try:
            await self._stub.ModelInfer(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as e:
            return ProbeResult(_health(e), e.details() or e.code().name)
        return ProbeResult(Health.ANSWERED)

    async def _infer_sequence(self, model: ServedModel, sequence_id: Any, timeout_s: float) -> ProbeResult:
        """Have the model compute a sequence of one request.

        While the sequences of others take every slot, it waits for one as long as they like, and is the only one.
        """
        key = (model.name, model.version)
        if key not in self._waiting:
            request = service_pb2.ModelInferRequest()
            request.CopyFrom(model.request)
            request.parameters["sequence_id"].CopyFrom(sequence_id)
            request.parameters["sequence_start"].bool_param = True
            request.parameters["sequence_end"].bool_param = True
            self._waiting[key] = asyncio.create_task(self._answer(request, None))
        done, _ = await asyncio.wait({self._waiting[key]}, timeout=timeout_s)
        if done:
            return self._waiting.pop(key).result()
        return ProbeResult(Health.WAITS if await self.is_live() else Health.LATE)

    async def reload(self, name: str, timeout_s: float) -> None:
        """Unload a model and load it again, which gives it a new stub process.

        Raises:
            grpc.aio.AioRpcError: Triton couldn't.
        """
        await self._stub.RepositoryModelUnload(
            service_pb2.RepositoryModelUnloadRequest(model_name=name), timeout=timeout_s
        )
        await self._stub.RepositoryModelLoad(
            service_pb2.RepositoryModelLoadRequest(model_name=name), timeout=timeout_s
        )


async def wait_metrics(host: str, port: int, timeout_s: float) -> bool:
    """Wait until Triton's metrics answer; False when that took too long.

    It is the last port that Triton opens, after gRPC already says ready; until then it may yet
    find the port taken and exit.
    """
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                if _METRIC in await _get(host, port, "/metrics"):
                    return True
        await asyncio.sleep(_READY_POLL_S)
    return False


async def _get(host: str, port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        return await reader.read(_LONGEST_PAGE_BYTES)
    finally:
        writer.close()


def _zeros(name: str, version: str, inputs: Any) -> Any:
    request = service_pb2.ModelInferRequest(model_name=name, model_version=version)
    for tensor in inputs:
        shape = [size if size >= 0 else 1 for size in tensor.shape]
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=shape)
        request.raw_input_contents.append(bytes(_ELEMENT_BYTES[tensor.datatype] * math.prod(shape)))
    return request


def _new_sequence(config: Any) -> Callable[[], Any] | None:
    """Give what makes ids that no client has, of the type that the model's config wants.

    Triton 2.51 copies the text of an id into the 8 bytes of a number.
    """
    if not config.HasField("sequence_batching"):
        return None
    corrid = model_config_pb2.ModelSequenceBatching.Control.CONTROL_SEQUENCE_CORRID
    controls = [control for entry in config.sequence_batching.control_input for control in entry.control]
    if any(
        control.kind == corrid and control.data_type != model_config_pb2.TYPE_STRING for control in controls
    ):
        return lambda: service_pb2.InferParameter(int64_param=2**62 + secrets.randbits(61))
    return lambda: service_pb2.InferParameter(string_param=f"probe-{secrets.token_hex(8)}")


def _health(error: grpc.aio.AioRpcError) -> Health:
    details = (error.details() or "").lower()
    if "stub process" in details:
        return Health.STUB_DEAD
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return Health.LATE
    if "unknown model" in details or "no available versions" in details or "not ready" in details:
        return Health.NOT_LOADED
    if error.code() == grpc.StatusCode.UNAVAILABLE:
        return Health.UNREACHABLE
    return Health.FAILED
