"""A Triton that speaks the real KServe v2 protocol and does what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

WINDOW = (60, 5)
SHA = {"lstm_cnn": "a1" * 32, "gaf_resnet": "b2" * 32}


@dataclass(slots=True)
class FakeModel:
    """One served model and how it behaves; change it at any time."""

    name: str
    versions: tuple[int, ...] = (1,)
    embedding_dimension: int = 0
    parameters: dict[str, str] = field(default_factory=dict)
    input_shape: tuple[int, ...] = (-1, *WINDOW)
    probabilities: tuple[float, float, float] = (0.2, 0.3, 0.5)
    delay_s: Callable[[], float] = lambda: 0.0
    error: tuple[grpc.StatusCode, str] | None = None
    mangle: Callable[[Any], None] | None = None
    calls: int = 0
    request_ids: list[str] = field(default_factory=list)
    has_sequences: bool = False
    sequence_ids: list[int | str] = field(default_factory=list)
    cancelled: int = 0
    time_left_s: list[float] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    others: dict[int, FakeModel] = field(default_factory=dict)  # versions that behave otherwise

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        outputs: dict[str, tuple[int, ...]] = {"probabilities": (-1, 3)}
        if self.embedding_dimension:
            outputs["embedding"] = (-1, self.embedding_dimension)
        return outputs

    def compute(self, batch: int) -> dict[str, np.ndarray[Any, Any]]:
        arrays = {"probabilities": np.tile(np.array(self.probabilities, "<f4"), (batch, 1))}
        if self.embedding_dimension:
            embedding = np.zeros((batch, self.embedding_dimension), "<f4")
            embedding[:, 0] = 1.0
            arrays["embedding"] = embedding
        return arrays


def default_models() -> dict[str, FakeModel]:
    """The two models of the project as their exporter configures them."""
    common = {"export_commit": "c" * 40, "bar_sizes_s": "60,300,3600,86400", "horizon_bars": "6"}
    return {
        name: FakeModel(
            name,
            embedding_dimension=128 if name == "gaf_resnet" else 0,
            parameters={**common, "artifact_sha256": SHA[name], "statement": "no skill demonstrated"},
        )
        for name in ("lstm_cnn", "gaf_resnet")
    }


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Serve `models` on `address`; `stop()` and `start()` again on the same address at will."""

    def __init__(
        self,
        models: Mapping[str, FakeModel] | None = None,
        address: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.models = dict(models if models is not None else default_models())
        self.address = address
        self.credentials = credentials
        self.metadata_calls = 0
        self.metadata_delay_s = 0.0
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> FakeTriton:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, server)
        if self.credentials is None:
            port = server.add_insecure_port(self.address)
        else:
            port = server.add_secure_port(self.address, self.credentials)
        if not self.address.startswith("unix:"):
            self.address = f"127.0.0.1:{port}"
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Go away at once, as after SIGKILL."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    # --- KServe v2 -------------------------------------------------------------------------------

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerReadyResponse(ready=True)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        model = self.models.get(request.name)
        return service_pb2.ModelReadyResponse(ready=model is not None and _serves(model, request.version))

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        self.metadata_calls += 1
        if self.metadata_delay_s > 0:
            await asyncio.sleep(self.metadata_delay_s)
        model = await self._model(request.name, request.version, context)
        versions = self.models[request.name].versions
        response = service_pb2.ModelMetadataResponse(
            name=model.name, versions=[str(v) for v in versions], platform="onnxruntime_onnx"
        )
        _add(response.inputs, "window", model.input_shape)
        for name, shape in model.outputs.items():
            _add(response.outputs, name, shape)
        return response

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        model = await self._model(request.name, request.version, context)
        response = service_pb2.ModelConfigResponse()
        response.config.name = model.name
        if model.has_sequences:
            response.config.sequence_batching.direct.SetInParent()
        for key, value in self.models[request.name].parameters.items():
            response.config.parameters[key].string_value = value
        return response

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        model = await self._model(request.model_name, request.model_version, context)
        model.calls += 1
        model.request_ids.append(request.id)
        if "sequence_id" in request.parameters:
            sequence_id = request.parameters["sequence_id"]
            model.sequence_ids.append(sequence_id.string_param or sequence_id.int64_param)
        model.headers.append(dict(context.invocation_metadata() or ()))
        wanted_bytes = 4 * int(np.prod(request.inputs[0].shape))
        shape = tuple(request.inputs[0].shape)
        if shape[1:] != model.input_shape[1:]:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"unexpected shape for input: {shape}")
        if len(request.raw_input_contents) != 1 or len(request.raw_input_contents[0]) != wanted_bytes:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "unexpected size of input 'window'")
        model.time_left_s.append(context.time_remaining())
        delay_s = model.delay_s()
        if delay_s > 0:
            try:
                await asyncio.sleep(delay_s)
            except asyncio.CancelledError:
                model.cancelled += 1
                raise
        if model.error is not None:
            await context.abort(*model.error)
        response = service_pb2.ModelInferResponse(
            model_name=model.name,
            model_version=request.model_version or str(max(model.versions)),
            id=request.id,
        )
        arrays = model.compute(request.inputs[0].shape[0])
        for output in request.outputs:
            array = arrays[output.name]
            tensor = response.outputs.add(name=output.name, datatype="FP32")
            tensor.shape.extend(array.shape)
            response.raw_output_contents.append(array.tobytes())
        if model.mangle is not None:
            model.mangle(response)
        return response

    async def _model(self, name: str, version: str, context: Any) -> FakeModel:
        model = self.models.get(name)
        if model is None:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{name}' is not found"
            )
            raise AssertionError
        if not _serves(model, version):
            await context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"Request for unknown model: '{name}' version {version} is not found",
            )
        return model.others.get(int(version or 0), model)


def _serves(model: FakeModel, version: str) -> bool:
    return not version or int(version) in model.versions


def _add(tensors: Any, name: str, shape: tuple[int, ...]) -> None:
    tensor = tensors.add(name=name, datatype="FP32")
    tensor.shape.extend(shape)
