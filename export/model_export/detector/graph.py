"""The graph that is served: resizing before the network, and choosing among what it says behind it.

Every step is an ONNX operator that the CPU and the CUDA provider know, so that no client picks boxes on its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from model_export import onnx_graph
from model_export.contract import DETECTIONS, DETECTOR, MAX_IR_VERSION, OPSET
from model_export.detector.half_precision import halve
from model_export.detector.layout import GRIDS, HEIGHT_PX, WIDTH_PX
from model_export.detector.network import PatternNet, input_shape

CANDIDATES = 192
"""Surest answers of cells that suppression chooses from."""
LEAST_SCORE = 0.05
MOST_OVERLAP = 0.5
"""Of two boxes of one class that overlap more, the surer one stays."""
_APART = 2.0
NET_OUTPUTS = ("outline_logits", "outline_boxes", "gap_logits", "gap_boxes")


def write_graph(net: PatternNet, path: Path) -> None:
    """Write the whole graph with free batch, height and width, and nothing of this machine in it."""
    middle = onnx_graph.traced(net, torch.zeros(input_shape(2)), "image_resized", NET_OUTPUTS)
    graph = compose.merge_models(_before(), middle, [("resized", "image_resized")])
    told = [(name, f"net_{name}") for name in NET_OUTPUTS]
    graph = compose.merge_models(graph, choosing_part(), [*told, ("picture_sides", "sides_of_picture")])
    del graph.opset_import[1:]  # each part brought the same
    halve(graph.graph)
    onnx_graph.write(graph, DETECTOR.name, path)


def _before() -> Any:
    """Return the part that resizes: linear, each pixel an average over what it covers."""
    nodes = [
        helper.make_node("Cast", ["image"], ["as_float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["as_float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Shape", ["planes"], ["first_sides"], start=0, end=2),
        helper.make_node("Concat", ["first_sides", "wanted_sides"], ["sides"], axis=0),
        helper.make_node(
            "Resize",
            ["planes", "", "", "sides"],
            ["resized_free"],
            mode="linear",
            antialias=1,
            exclude_outside=1,
            coordinate_transformation_mode="half_pixel",
        ),
        # For shape inference: what was resized has these sides.
        helper.make_node("Reshape", ["resized_free", "resized_shape"], ["resized"]),
        helper.make_node("Shape", ["image"], ["picture_sides_whole"], start=1, end=3),
        helper.make_node("Cast", ["picture_sides_whole"], ["picture_sides"], to=TensorProto.FLOAT),
    ]
    constants = [
        _constant("wanted_sides", np.array([HEIGHT_PX, WIDTH_PX], np.int64)),
        _constant("resized_shape", np.array([0, 3, HEIGHT_PX, WIDTH_PX], np.int64)),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", "height", "width", 3])
    resized = helper.make_tensor_value_info("resized", TensorProto.FLOAT, ["batch", 3, HEIGHT_PX, WIDTH_PX])
    sides = helper.make_tensor_value_info("picture_sides", TensorProto.FLOAT, [2])
    return _model("before", nodes, [image], [resized, sides], constants)


def choosing_part() -> Any:
    """Return the part that chooses: surest answers, suppression within a class, then rows of a fixed number."""
    nodes = [*_candidates(), *_suppression(), *_rows()]
    box_of, label_of = answer_tables()
    constants = [
        _constant("cell_of_answer", box_of),
        _constant("label_of_answer", label_of),
        _constant("candidates", np.array([CANDIDATES], np.int64)),
        _constant("detections", np.array([DETECTIONS], np.int64)),
        _constant("most_overlap", np.array([MOST_OVERLAP], np.float32)),
        _constant("least_score", np.array([LEAST_SCORE], np.float32)),
        _constant("apart", np.array(_APART, np.float32)),
        _constant("zero", np.array(0.0, np.float32)),
        _constant("one", np.array(1.0, np.float32)),
        _constant("no_label", np.array(-1, np.int32)),
        _constant("last_axis", np.array([-1], np.int64)),
        _constant("axis_1", np.array([1], np.int64)),
        _constant("chart_and_box", np.array([0, 2], np.int64)),
        _constant("first_class", np.array(1, np.int64)),
        _constant("across_and_down", np.array([1, 0, 1, 0], np.int64)),
        _constant("flat", np.array([0, -1], np.int64)),
    ]
    inputs = []
    for grid, kind in zip(GRIDS, ("outline", "gap"), strict=True):
        for what, width in (("logits", grid.classes), ("boxes", 4)):
            inputs.append(
                helper.make_tensor_value_info(
                    f"net_{kind}_{what}", TensorProto.FLOAT, ["batch", grid.cells, width]
                )
            )
    inputs.append(helper.make_tensor_value_info("sides_of_picture", TensorProto.FLOAT, [2]))
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["batch", DETECTIONS, 4]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", DETECTIONS]),
        helper.make_tensor_value_info("labels", TensorProto.INT32, ["batch", DETECTIONS]),
        helper.make_tensor_value_info("count", TensorProto.INT32, ["batch", 1]),
    ]
    return _model("behind", nodes, inputs, outputs, constants)


def _candidates() -> list[Any]:
    make = helper.make_node
    return [
        make("Sigmoid", ["net_outline_logits"], ["outline_scores"]),
        make("Sigmoid", ["net_gap_logits"], ["gap_scores"]),
        make("Reshape", ["outline_scores", "flat"], ["outline_flat"]),
        make("Reshape", ["gap_scores", "flat"], ["gap_flat"]),
        make("Concat", ["outline_flat", "gap_flat"], ["answers"], axis=1),
        make("TopK", ["answers", "candidates"], ["sure", "answer"], axis=1),
        make("Gather", ["cell_of_answer", "answer"], ["cell"], axis=0),
        make("Gather", ["label_of_answer", "answer"], ["label"], axis=0),
        make("Concat", ["net_outline_boxes", "net_gap_boxes"], ["cell_boxes"], axis=1),
        make("Clip", ["cell_boxes", "zero", "one"], ["inside"]),
        make("Unsqueeze", ["cell", "last_axis"], ["cell_index"]),
        make("GatherND", ["inside", "cell_index"], ["candidate_boxes"], batch_dims=1),
    ]


def _suppression() -> list[Any]:
    make = helper.make_node
    return [
        # Classes lie side by side, so that one suppression treats each alone.
        make("Cast", ["label"], ["label_float"], to=TensorProto.FLOAT),
        make("Mul", ["label_float", "apart"], ["shift_flat"]),
        make("Unsqueeze", ["shift_flat", "last_axis"], ["shift"]),
        make("Add", ["candidate_boxes", "shift"], ["shifted"]),
        make("Unsqueeze", ["sure", "axis_1"], ["sure_of_one_class"]),
        make(
            "NonMaxSuppression",
            ["shifted", "sure_of_one_class", "detections", "most_overlap", "least_score"],
            ["kept"],
        ),
        make("Gather", ["kept", "chart_and_box"], ["kept_place"], axis=1),
        # The class that suppression knows is always 0: it makes as many ones as there are boxes.
        make("Gather", ["kept", "first_class"], ["kept_class"], axis=1),
        make("Cast", ["kept_class"], ["kept_class_float"], to=TensorProto.FLOAT),
        make("Add", ["kept_class_float", "one"], ["ones"]),
        make("Mul", ["sure", "zero"], ["none_kept"]),
        make("ScatterND", ["none_kept", "kept_place", "ones"], ["is_kept"]),
        make("Mul", ["sure", "is_kept"], ["kept_scores"]),
    ]


def _rows() -> list[Any]:
    make = helper.make_node
    return [
        make("TopK", ["kept_scores", "detections"], ["scores", "row"], axis=1),
        make("Greater", ["scores", "zero"], ["is_row"]),
        make("GatherElements", ["label", "row"], ["row_label"], axis=1),
        make("Where", ["is_row", "row_label", "no_label"], ["labels"]),
        make("Cast", ["is_row"], ["row_number"], to=TensorProto.INT32),
        make("ReduceSum", ["row_number", "axis_1"], ["count"], keepdims=1),
        make("Unsqueeze", ["row", "last_axis"], ["row_index"]),
        make("GatherND", ["candidate_boxes", "row_index"], ["row_boxes"], batch_dims=1),
        make("Gather", ["sides_of_picture", "across_and_down"], ["scale"], axis=0),
        make("Mul", ["row_boxes", "scale"], ["row_pixels"]),
        make("Unsqueeze", ["is_row", "last_axis"], ["is_row_box"]),
        make("Where", ["is_row_box", "row_pixels", "zero"], ["boxes"]),
    ]


def answer_tables() -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the cell and the class of each answer, in the order of the flattened logits of all grids."""
    cells, labels, before = [], [], 0
    for grid in GRIDS:
        cells.append(np.repeat(np.arange(grid.cells), grid.classes) + before)
        labels.append(np.tile(np.arange(grid.classes), grid.cells) + grid.first_label)
        before += grid.cells
    return np.concatenate(cells).astype(np.int64), np.concatenate(labels).astype(np.int32)


def _constant(name: str, values: NDArray[Any]) -> Any:
    return numpy_helper.from_array(values, name)


def _model(name: str, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any]) -> Any:
    graph = helper.make_graph(nodes, name, inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=MAX_IR_VERSION)
