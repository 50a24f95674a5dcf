"""The committed Triton configs, held to each other, to the ONNX graphs and to the strategy's pins."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

onnxruntime = pytest.importorskip("onnxruntime", reason="reads the graphs: make setup EXTRAS=cpu,dev")

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = ROOT / "model_repository"
MODELS = sorted(path.name for path in REPOSITORY.iterdir() if path.is_dir())
TYPES = {
    "tensor(float)": model_config_pb2.TYPE_FP32,
    "tensor(int32)": model_config_pb2.TYPE_INT32,
    "tensor(uint8)": model_config_pb2.TYPE_UINT8,
}
VOTERS = tomllib.loads((ROOT / "clients" / "strategy" / "strategy.toml").read_text())["voters"]
GROUP = model_config_pb2.ModelInstanceGroup


def _config(model: str, file_name: str) -> Any:
    text = (REPOSITORY / model / file_name).read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gpu(model: str) -> Any:
    return _config(model, "config.pbtxt")


@pytest.fixture
def cpu(model: str) -> Any:
    return _config(model, "configs/cpu.pbtxt")


def test_the_two_configs_differ_in_their_processor_alone(gpu: Any, cpu: Any) -> None:
    assert [group.kind for group in gpu.instance_group] == [GROUP.KIND_GPU]
    assert [group.kind for group in cpu.instance_group] == [GROUP.KIND_CPU]
    assert cpu.parameters.pop("intra_op_thread_count").string_value == "1"
    for config in (gpu, cpu):
        config.ClearField("instance_group")
        config.ClearField("optimization")
    assert cpu == gpu


def test_names_types_and_shapes_are_those_of_the_graph(model: str, gpu: Any) -> None:
    session = onnxruntime.InferenceSession(REPOSITORY / model / "1" / "model.onnx")
    for tensors, nodes in ((gpu.input, session.get_inputs()), (gpu.output, session.get_outputs())):
        configured = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in tensors}
        graph = {
            node.name: (TYPES[node.type], [d if isinstance(d, int) else -1 for d in node.shape[1:]])
            for node in nodes
        }
        assert configured == graph
        assert not any(isinstance(node.shape[0], int) for node in nodes)  # the batch is free


def test_every_version_is_the_file_that_config_and_strategy_pin(model: str, gpu: Any) -> None:
    digest = hashlib.sha256((REPOSITORY / model / "1" / "model.onnx").read_bytes()).hexdigest()
    assert gpu.parameters["artifact_sha256"].string_value == digest
    assert gpu.parameters["promoted_version"].string_value == "1"
    if model in VOTERS:
        assert VOTERS[model]["artifact_sha256"] == digest


def test_every_voter_of_the_strategy_is_shipped() -> None:
    assert {name for name, voter in VOTERS.items() if "artifact_sha256" in voter} <= set(MODELS)


def test_requests_are_batched_without_a_delay_or_a_queue_policy(gpu: Any) -> None:
    assert gpu.HasField("dynamic_batching")
    batching = gpu.dynamic_batching
    assert batching.max_queue_delay_microseconds == 0
    assert not batching.HasField("default_queue_policy")
    assert not batching.priority_queue_policy


def test_the_smallest_and_the_largest_batch_are_warm_before_the_first_request(gpu: Any) -> None:
    assert sorted(sample.batch_size for sample in gpu.model_warmup) == [1, gpu.max_batch_size]
    for sample in gpu.model_warmup:
        warm = {name: list(tensor.dims) for name, tensor in sample.inputs.items()}
        assert set(warm) == {tensor.name for tensor in gpu.input}
        for tensor in gpu.input:
            assert all(
                w == d or (d == -1 and w > 0) for w, d in zip(warm[tensor.name], tensor.dims, strict=True)
            )


def test_an_old_version_stays_loaded_beside_a_new_one(gpu: Any) -> None:
    assert gpu.version_policy.latest.num_versions == 2


def test_tensorrt_keeps_full_precision_and_covers_every_batch(gpu: Any) -> None:
    if any(-1 in tensor.dims for tensor in gpu.input):
        # Each size of picture would be an engine of its own: CUDA serves it.
        assert not gpu.HasField("optimization")
        return
    (accelerator,) = gpu.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters["precision_mode"] == "FP32"
    for bound, rows in (("min", 1), ("max", gpu.max_batch_size)):
        shapes = [f"{tensor.name}:{'x'.join(map(str, [rows, *tensor.dims]))}" for tensor in gpu.input]
        assert accelerator.parameters[f"trt_profile_{bound}_shapes"] == ",".join(shapes)
