from __future__ import annotations

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from model_export.contract import DETECTOR, MAX_BATCH_SIZE, MODELS
from model_export.triton_config import config_text, parameters, read_parameters, read_tensors

VALUES = parameters("ab" * 32, "cd" * 20, False, 'Says "nothing" \\ here', {"horizon_bars": "6"})


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_triton_reads_what_is_written(name: str, gpu: bool) -> None:
    config = text_format.Parse(config_text(MODELS[name], VALUES, gpu=gpu), model_config_pb2.ModelConfig())
    assert (config.name, config.platform, config.max_batch_size) == (name, "onnxruntime_onnx", MAX_BATCH_SIZE)
    assert [(t.name, list(t.dims)) for t in config.input] == [("window", [60, 5])]
    assert [(t.name, tuple(t.dims)) for t in config.output] == [
        (t.name, t.dims) for t in MODELS[name].outputs
    ]
    assert config.version_policy.latest.num_versions == 2
    assert config.dynamic_batching.max_queue_delay_microseconds <= 200
    assert config.model_warmup[0].batch_size == 1
    assert {k: v.string_value for k, v in config.parameters.items() if k in VALUES} == VALUES


def test_there_is_no_queue_policy_and_no_graph_level() -> None:
    for gpu in (True, False):
        config = text_format.Parse(
            config_text(MODELS["lstm_cnn"], VALUES, gpu=gpu), model_config_pb2.ModelConfig()
        )
        assert not config.dynamic_batching.HasField("default_queue_policy")
        assert not config.optimization.HasField("graph")


def test_the_gpu_variant_asks_for_tensorrt_in_full_precision_and_the_cpu_variant_for_no_gpu() -> None:
    gpu = text_format.Parse(config_text(MODELS["lstm_cnn"], VALUES, gpu=True), model_config_pb2.ModelConfig())
    cpu = text_format.Parse(
        config_text(MODELS["lstm_cnn"], VALUES, gpu=False), model_config_pb2.ModelConfig()
    )
    group = model_config_pb2.ModelInstanceGroup
    assert (gpu.instance_group[0].kind, cpu.instance_group[0].kind) == (group.KIND_GPU, group.KIND_CPU)
    (accelerator,) = gpu.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters["precision_mode"] == "FP32"
    assert not cpu.HasField("optimization")


def test_the_detector_takes_pictures_of_any_size_and_is_served_without_tensorrt() -> None:
    text = config_text(DETECTOR, VALUES, gpu=True)
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert not config.HasField("optimization")
    (image,) = config.input
    assert (image.data_type, list(image.dims)) == (model_config_pb2.TYPE_UINT8, [-1, -1, 3])
    assert [(w.batch_size, list(w.inputs["image"].dims)) for w in config.model_warmup] == [
        (1, [480, 480, 3]),
        (DETECTOR.max_batch_size, [480, 480, 3]),
    ]
    assert read_tensors(text)["input"] == {"image": (-1, -1, 3)}


def test_parameters_and_tensors_are_read_back() -> None:
    text = config_text(MODELS["gaf_resnet"], VALUES, gpu=False)
    assert {k: read_parameters(text)[k] for k in VALUES} == VALUES
    assert read_tensors(text) == {
        "input": {"window": (60, 5)},
        "output": {"probabilities": (3,), "embedding": (128,)},
    }


def test_a_statement_too_long_for_a_line_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 200"):
        parameters("ab", "cd", False, "x" * 201, {})
