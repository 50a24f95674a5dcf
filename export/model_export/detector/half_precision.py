"""The detector in half the bytes: weights of 16 bits, arithmetic of 32 as before.

The network itself is rounded, before it is compared with its graph and examined: the graph loses nothing after that.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model_export.detector.network import PatternNet

_LEAST_VALUES = 256
"""Fewer are not worth a step of their own."""


def rounded(net: PatternNet) -> PatternNet:
    """Return the network as it is served: normalisation within the convolutions, and weights that 16 bits hold."""
    served = copy.deepcopy(net).eval()
    for part in list(served.modules()):
        if isinstance(part, nn.Sequential):
            _fold(part)
    with torch.no_grad():
        for weights in served.parameters():
            weights.copy_(weights.half())
    return served


def _fold(layers: nn.Sequential) -> None:
    for place in range(len(layers) - 1):
        convolution, norm = layers[place], layers[place + 1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            layers[place], layers[place + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()


def halve(graph: Any) -> None:
    """Keep in 16 bits the constants that they hold exactly; ONNX Runtime widens them once, when it loads the graph."""
    constants, casts = [], []
    for constant in graph.initializer:
        values = numpy_helper.to_array(constant)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.dtype != np.float32 or values.size < _LEAST_VALUES or not np.array_equal(half, values):
            constants.append(constant)
            continue
        name = f"{constant.name}_half"
        constants.append(numpy_helper.from_array(half, name))
        casts.append(helper.make_node("Cast", [name], [constant.name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(constants)
    graph.node.extend(nodes)
