"""Which ONNX Runtime providers our backend picks; the CUDA ones can't run on a machine without a GPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

pytest.importorskip("onnxruntime", reason="the backend runs ONNX Runtime: make setup EXTRAS=cpu,dev")

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    # Triton's stub provides this module; choosing providers uses nothing of it.
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", ModuleType("triton_python_backend_utils"))
    spec = importlib.util.find_spec("triton_server.onnxruntime_backend")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _accelerated(**parameters: str) -> dict[str, Any]:
    accelerator = {"name": "tensorrt", "parameters": parameters}
    return {"optimization": {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}}}


def test_a_cpu_group_runs_on_the_cpu_whatever_else_there_is(backend: Any) -> None:
    assert backend._providers(_accelerated(), "CPU", 0, [TENSORRT, CUDA, CPU]) == [CPU]


def test_a_gpu_group_runs_on_its_device_and_falls_back_to_the_cpu_by_operator(backend: Any) -> None:
    assert backend._providers({}, "GPU", 1, [CUDA, CPU]) == [(CUDA, {"device_id": "1"}), CPU]


def test_a_gpu_group_without_cuda_says_what_to_do(backend: Any) -> None:
    with pytest.raises(ValueError, match=r"only CPUExecutionProvider: install onnxruntime-gpu.*cpu\.pbtxt"):
        backend._providers({}, "GPU", 0, [CPU])


def test_tensorrt_comes_first_where_the_config_asks_and_the_runtime_has_it(backend: Any) -> None:
    config = _accelerated(
        precision_mode="FP16", max_workspace_size_bytes="1024", trt_engine_cache_enable="true"
    )
    options = {
        "device_id": "0",
        "trt_engine_cache_enable": "true",
        "trt_fp16_enable": "true",
        "trt_max_workspace_size": "1024",
    }
    cuda = (CUDA, {"device_id": "0"})
    assert backend._providers(config, "GPU", 0, [TENSORRT, CUDA, CPU]) == [(TENSORRT, options), cuda, CPU]
    assert backend._providers(config, "GPU", 0, [CUDA, CPU]) == [cuda, CPU]
    full_precision = backend._providers(_accelerated(precision_mode="FP32"), "GPU", 0, [TENSORRT, CUDA, CPU])
    assert full_precision[0] == (TENSORRT, {"device_id": "0"})


def test_the_written_gpu_config_of_a_model_is_understood(backend: Any) -> None:
    path = Path(__file__).parents[3] / "model_repository" / "lstm_cnn" / "config.pbtxt"
    message = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    config = json_format.MessageToDict(message, preserving_proto_field_name=True)
    (_, options), cuda, cpu = backend._providers(config, "GPU", 0, [TENSORRT, CUDA, CPU])
    assert options["trt_profile_min_shapes"] == "window:1x60x5"
    assert "trt_fp16_enable" not in options
    assert (cuda[0], cpu) == (CUDA, CPU)
