"""What is lost, and what is not, where weights are kept in 16 bits."""

from __future__ import annotations

import pytest

for _module in ("torch", "onnx", "onnxruntime"):
    pytest.importorskip(
        _module, reason=f"{_module} is not installed: `make test EXTRAS=cpu,dev,export` brings it"
    )

import numpy as np  # noqa: E402
import torch  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402
from torch import nn  # noqa: E402

from model_export.detector.half_precision import halve, rounded  # noqa: E402
from model_export.detector.network import PatternNet, input_shape  # noqa: E402


def trained() -> PatternNet:
    """Return a network whose normalisation is not that of the first step."""
    torch.manual_seed(3)
    net = PatternNet()
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(255 * torch.rand(input_shape(2)))
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.uniform_(0.5, 1.5)
                part.bias.uniform_(-0.5, 0.5)
    return net.eval()


def test_a_rounded_network_says_nearly_the_same_with_weights_that_16_bits_hold() -> None:
    net = trained()
    served = rounded(net)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in served.modules())
    assert all(torch.equal(weights, weights.half().float()) for weights in served.parameters())
    picture = 255 * torch.rand(input_shape(1))
    with torch.no_grad():
        for plain, other in zip(net(picture), served(picture), strict=True):
            assert not torch.equal(plain, other)
            assert float((plain - other).abs().max()) < 0.02


def test_rounding_leaves_the_trained_network_as_it_was() -> None:
    net = trained()
    before = {name: values.clone() for name, values in net.state_dict().items()}
    rounded(net)
    assert all(torch.equal(values, before[name]) for name, values in net.state_dict().items())


def test_only_what_16_bits_hold_exactly_is_kept_in_16_bits() -> None:
    exact = np.arange(300, dtype=np.float32) / 8
    constants = {
        "exact": exact,
        "inexact": exact / 3,
        "large": exact * 1e6,
        "few": exact[:10],
        "whole": np.arange(300),
    }
    outputs = [helper.make_empty_tensor_value_info(f"{name}_out") for name in constants]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in constants]
    tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "constants", [], outputs, tensors)
    halve(graph)
    assert [one.name for one in graph.initializer] == ["exact_half", "inexact", "large", "few", "whole"]
    opsets = [helper.make_opsetid("", 18)]
    said = ReferenceEvaluator(helper.make_model(graph, opset_imports=opsets)).run(None, {})
    for values, wanted in zip(said, constants.values(), strict=True):
        assert values.dtype == wanted.dtype
        assert np.array_equal(values, wanted)
