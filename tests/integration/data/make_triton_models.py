"""Write the two small ONNX models that the Triton tests serve: `python make_triton_models.py`.

The models are committed, because onnx is only in the `export` extra.
"""

from pathlib import Path

import onnx
from onnx import TensorProto, helper


def affine() -> onnx.ModelProto:
    """x (batch, 2) float32 -> y = x @ w + b (batch, 3) and total = sum(y) (batch, 1)."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"]),
            helper.make_node("Add", ["product", "b"], ["y"]),
            helper.make_node("ReduceSum", ["y", "axis"], ["total"], keepdims=1),
        ],
        "affine",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3]),
            helper.make_tensor_value_info("total", TensorProto.FLOAT, ["batch", 1]),
        ],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [2, 3], [1, 0, 2, 0, 1, 3]),
            helper.make_tensor("b", TensorProto.FLOAT, [3], [0.5, -0.5, 0]),
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        ],
    )
    return _checked(graph)


def lookup() -> onnx.ModelProto:
    """index (batch, width) int64 -> row (batch, width, 2) float16 and is_first (batch, width) bool.

    An index beyond the three rows fails the whole run.
    """
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "index"], ["row"]),
            helper.make_node("Equal", ["index", "zero"], ["is_first"]),
        ],
        "lookup",
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["batch", "width"])],
        [
            helper.make_tensor_value_info("row", TensorProto.FLOAT16, ["batch", "width", 2]),
            helper.make_tensor_value_info("is_first", TensorProto.BOOL, ["batch", "width"]),
        ],
        [
            helper.make_tensor("table", TensorProto.FLOAT16, [3, 2], [0, 1, 10, 11, 20, 21]),
            helper.make_tensor("zero", TensorProto.INT64, [], [0]),
        ],
    )
    return _checked(graph)


def _checked(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    for make in (affine, lookup):
        onnx.save(make(), Path(__file__).with_name(f"{make.__name__}.onnx"))
