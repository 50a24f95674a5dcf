"""Write the small ONNX models that the Triton tests serve: `python make_triton_models.py`.

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


def running_total() -> onnx.ModelProto:
    """Add x (batch, 1) to the total of its sequence and count its steps; both are state.

    Beside them it gives the controls of the sequence as they came, and how many rows ran together. An x
    that is no index of a table of eight fails the whole run.
    """
    kinds = {"start": TensorProto.FLOAT, "end": TensorProto.INT32, "ready": TensorProto.BOOL}
    kinds["corrid"] = TensorProto.UINT64

    def tensor(name: str, kind: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, ["batch", 1])

    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["value"]),
            helper.make_node("Add", ["total_before", "value"], ["total_after"]),
            helper.make_node("Add", ["steps_before", "one"], ["steps_after"]),
            helper.make_node("Identity", ["total_after"], ["total"]),
            helper.make_node("Identity", ["steps_after"], ["steps"]),
            helper.make_node("Shape", ["x"], ["shape"]),
            helper.make_node("Slice", ["shape", "zero", "one"], ["batch"]),
            helper.make_node("Expand", ["batch", "shape"], ["rows"]),
            *(helper.make_node("Identity", [name], [f"{name}_seen"]) for name in kinds),
        ],
        "running_total",
        [
            tensor("x", TensorProto.FLOAT),
            tensor("total_before", TensorProto.FLOAT),
            tensor("steps_before", TensorProto.INT64),
            *(tensor(name, kind) for name, kind in kinds.items()),
        ],
        [
            tensor("total", TensorProto.FLOAT),
            tensor("steps", TensorProto.INT64),
            tensor("rows", TensorProto.INT64),
            *(tensor(f"{name}_seen", kind) for name, kind in kinds.items()),
            tensor("total_after", TensorProto.FLOAT),
            tensor("steps_after", TensorProto.INT64),
        ],
        [
            helper.make_tensor("table", TensorProto.FLOAT, [8], range(8)),
            helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
            helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        ],
    )
    return _checked(graph)


def _checked(graph: onnx.GraphProto) -> onnx.ModelProto:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    for make in (affine, lookup, running_total):
        onnx.save(make(), Path(__file__).with_name(f"{make.__name__}.onnx"))
