"""The LSTMs of STAC-ML Markets (Inference), with seeded random weights, as a Triton model repository.

Only their shapes are public; the benchmark times shapes, not forecasts.

Source: STAC-ML Markets (Inference), the shapes of LSTM_A and LSTM_B.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.context import UnavailableError

_OPSET = 18
_IR_VERSION = 10
_SEED = 5
_CONFIG = """name: "{name}"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ {{ name: "window" data_type: TYPE_FP32 dims: [ {steps}, {features} ] }} ]
output [ {{ name: "forecast" data_type: TYPE_FP32 dims: [ 1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
parameters {{ key: "intra_op_thread_count" value {{ string_value: "1" }} }}
"""


@dataclass(frozen=True, slots=True)
class StacModel:
    """One model's shape.

    Attributes:
        name: In Triton and of its figures.
        title: As STAC calls it.
        steps: Time steps of a window.
        features: Numbers per step.
        layers: LSTM layers, then one dense output.
        units: Of each layer.
        cost: How many times fewer calls are measured than of a small model.
    """

    name: str
    title: str
    steps: int
    features: int
    layers: int
    units: int
    cost: int

    @property
    def parameter_count(self) -> int:
        """Weights and biases of the graph, one bias per gate."""
        sizes = [self.features] + [self.units] * (self.layers - 1)
        return sum(4 * self.units * (size + self.units + 1) for size in sizes) + self.units + 1


STAC_MODELS = (
    StacModel("stac_lstm_a", "LSTM_A", steps=50, features=100, layers=2, units=100, cost=1),
    StacModel("stac_lstm_b", "LSTM_B", steps=100, features=250, layers=3, units=200, cost=2),
)


def write_repository(folder: Path) -> Path:
    """Write graphs and configs; return the folder.

    Raises:
        UnavailableError: onnx is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        raise UnavailableError("the graphs are built with onnx: make setup EXTRAS=cpu,dev") from None
    for model in STAC_MODELS:
        version = folder / model.name / "1"
        version.mkdir(parents=True)
        onnx.save(_graph(onnx, model), version / "model.onnx")
        text = _CONFIG.format(name=model.name, steps=model.steps, features=model.features)
        (version.parent / "config.pbtxt").write_text(text)
    return folder


def _graph(onnx: Any, model: StacModel) -> Any:
    """Stack the layers: window (n, steps, features) -> forecast (n, 1)."""
    make, dice = onnx.helper.make_node, np.random.default_rng(_SEED)
    nodes = [make("Transpose", ["window"], ["steps_0"], perm=[1, 0, 2])]
    weights: dict[str, Any] = {"axis_1": np.array([1]), "axis_0": np.array([0])}
    bound, gates = model.units**-0.5, 4 * model.units
    for layer in range(model.layers):
        size = model.features if layer == 0 else model.units
        names = [f"{kind}_{layer}" for kind in ("W", "R", "B")]
        shapes = ((1, gates, size), (1, gates, model.units), (1, 2 * gates))
        for name, shape in zip(names, shapes, strict=True):
            weights[name] = dice.uniform(-bound, bound, shape).astype(np.float32)
        weights[f"B_{layer}"][:, gates:] = 0  # one bias per gate
        outputs = [f"all_{layer}", f"last_{layer}"]
        nodes.append(make("LSTM", [f"steps_{layer}", *names], outputs, hidden_size=model.units))
        nodes.append(make("Squeeze", [f"all_{layer}", "axis_1"], [f"steps_{layer + 1}"]))
    weights["dense"] = dice.uniform(-bound, bound, (model.units, 1)).astype(np.float32)
    weights["dense_bias"] = np.zeros(1, np.float32)
    nodes[-1] = make("Squeeze", [f"last_{model.layers - 1}", "axis_0"], ["hidden"])
    nodes.append(make("Gemm", ["hidden", "dense", "dense_bias"], ["forecast"]))
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        model.name,
        [onnx.helper.make_tensor_value_info("window", floats, ("n", model.steps, model.features))],
        [onnx.helper.make_tensor_value_info("forecast", floats, ("n", 1))],
        [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    operators = [onnx.helper.make_opsetid("", _OPSET)]
    made = onnx.helper.make_model(graph, opset_imports=operators, ir_version=_IR_VERSION)
    onnx.checker.check_model(made)
    return made
