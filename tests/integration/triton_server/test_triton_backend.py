"""What our onnxruntime backend promises, on ONNX graphs built here, inside a real tritonserver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest

onnx = pytest.importorskip("onnx", reason="graphs are built with onnx: make setup EXTRAS=cpu,dev")

pytestmark = pytest.mark.xdist_group("triton")

DTYPES = ("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
FLOATS = ("float16", "float32", "float64")
_TRITON_NAMES = {"float16": "FP16", "float32": "FP32", "float64": "FP64"}


def _tensor(name: str, dtype: str, shape: Sequence[int | str]) -> Any:
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return onnx.helper.make_tensor_value_info(name, element, shape)


def _add_model(repository: Path, name: str, nodes: Any, inputs: Any, outputs: Any, config: str) -> None:
    graph = onnx.helper.make_graph(nodes, name, inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    text = f'backend: "onnxruntime"\ninstance_group [ {{ kind: KIND_CPU count: 1 }} ]\n{config}'
    (repository / name / "config.pbtxt").write_text(text)


def _config_tensor(name: str, dtype: str, dims: str) -> str:
    return (
        f'[ {{ name: "{name}" data_type: TYPE_{_TRITON_NAMES.get(dtype, dtype.upper())} dims: [ {dims} ] }} ]'
    )


def _add_identity(repository: Path, dtype: str) -> None:
    """Echo rows of any length."""
    _add_model(
        repository,
        f"echo_{dtype}",
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        [_tensor("x", dtype, ("n", "m"))],
        [_tensor("y", dtype, ("n", "m"))],
        f"max_batch_size: 16\ninput {_config_tensor('x', dtype, '-1')}\noutput {_config_tensor('y', dtype, '-1')}\n"
        "dynamic_batching { max_queue_delay_microseconds: 50000 }\n",
    )


def _add_pair(repository: Path) -> None:
    """Give a + b and a - b."""
    make = onnx.helper.make_node
    _add_model(
        repository,
        "pair",
        [make("Add", ["a", "b"], ["plus"]), make("Sub", ["a", "b"], ["minus"])],
        [_tensor("a", "float32", ("n", 2)), _tensor("b", "float32", ("n", 2))],
        [_tensor("plus", "float32", ("n", 2)), _tensor("minus", "float32", ("n", 2))],
        """max_batch_size: 16
input [ { name: "a" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "b" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "plus" data_type: TYPE_FP32 dims: [ 2 ] }, { name: "minus" data_type: TYPE_FP32 dims: [ 2 ] } ]
dynamic_batching { max_queue_delay_microseconds: 50000 }
parameters { key: "intra_op_thread_count" value { string_value: "4" } }
""",
    )


def _add_slow(repository: Path) -> None:
    """Multiply a matrix with itself as often as told; then give a random number, whose seed never changes."""
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    floats = onnx.TensorProto.FLOAT
    body = onnx.helper.make_graph(
        [make("MatMul", ["held", "held"], ["next"]), make("Identity", ["go"], ["go_on"])],
        "body",
        [
            info("step", onnx.TensorProto.INT64, ()),
            info("go", onnx.TensorProto.BOOL, ()),
            info("held", floats, (200, 200)),
        ],
        [info("go_on", onnx.TensorProto.BOOL, ()), info("next", floats, (200, 200))],
    )
    start = onnx.numpy_helper.from_array(np.zeros((200, 200), np.float32))
    _add_model(
        repository,
        "slow",
        [
            make("Squeeze", ["steps"], ["count"]),
            make("Constant", [], ["start"], value=start),
            make("Loop", ["count", "", "start"], ["end"], body=body),
            make("ReduceSum", ["end"], ["zero"], keepdims=0),
            make("RandomUniform", [], ["number"], shape=[1], seed=7.0),
            make("Add", ["number", "zero"], ["y"]),
        ],
        [_tensor("steps", "int64", (1,))],
        [_tensor("y", "float32", (1,))],
        """max_batch_size: 0
input [ { name: "steps" data_type: TYPE_INT64 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
""",
    )


@pytest.fixture(scope="module")
def graphs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("graphs")
    for dtype in (*DTYPES, *FLOATS):
        _add_identity(repository, dtype)
    _add_pair(repository)
    _add_slow(repository)
    return repository


@pytest.fixture(scope="module")
def graphs(serve: Callable[..., Any], graphs_folder: Path) -> Any:
    launcher = serve(graphs_folder, "--probe-interval-s", "600")  # probes would be counted
    launcher.wait_ready()
    return launcher


def _values(dtype: str, shape: tuple[int, ...], seed: int) -> Any:
    dice = np.random.default_rng(seed)
    if dtype == "bool":
        return dice.random(shape) < 0.5
    if dtype in FLOATS:
        return dice.normal(size=shape).astype(dtype)
    bounds = np.iinfo(dtype)
    return dice.integers(bounds.min, bounds.max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("dtype", [*DTYPES, *FLOATS])
def test_every_numeric_type_passes_through_alone_and_in_a_batch(graphs: Any, dtype: str) -> None:
    sent = [_values(dtype, (rows, 3), rows) for rows in (1, 2, 3)]
    calls = [graphs.send(f"echo_{dtype}", {"x": values}) for values in sent]
    for values, call in zip(sent, calls, strict=True):
        response = call.result()
        (output,) = response.outputs
        assert list(output.shape) == list(values.shape)
        assert response.raw_output_contents[0] == values.tobytes()
    alone = graphs.infer(f"echo_{dtype}", {"x": sent[1]})["y"]
    assert alone.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(alone, sent[1])


def test_requests_of_different_lengths_that_arrive_together_get_their_own_answers(graphs: Any) -> None:
    sent = [_values("float32", (1, 1 + number % 3), number) for number in range(12)]
    calls = [graphs.send("echo_float32", {"x": values}) for values in sent]
    for values, call in zip(sent, calls, strict=True):
        assert call.result().raw_output_contents[0] == values.tobytes()


def test_an_empty_tensor_is_refused_alone(graphs: Any) -> None:
    full = np.ones((1, 3), np.float32)
    good, empty, other = (
        graphs.send("echo_float32", {"x": values}) for values in (full, np.zeros((2, 0), np.float32), full)
    )
    with pytest.raises(grpc.RpcError, match="the output"):
        empty.result()
    for call in (good, other):
        assert call.result().raw_output_contents[0] == full.tobytes()


def test_inputs_may_come_in_any_order_and_outputs_in_the_order_asked_for(graphs: Any) -> None:
    a, b = (np.array([[value, 2 * value]], np.float32) for value in (1, 10))
    calls = [
        graphs.send("pair", {"a": a, "b": b}, ["plus"]),
        graphs.send("pair", {"b": b, "a": a}, ["minus"]),
        graphs.send("pair", {"b": b, "a": a}),
    ]
    found = [
        {
            output.name: np.frombuffer(raw, np.float32).tolist()
            for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
        }
        for response in (call.result() for call in calls)
    ]
    assert found == [{"plus": [11, 22]}, {"minus": [-9, -18]}, {"plus": [11, 22], "minus": [-9, -18]}]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"a": np.zeros((1, 3), np.float32), "b": np.zeros((1, 2), np.float32)}, "unexpected shape"),
        ({"a": np.zeros((1, 2), np.float64), "b": np.zeros((1, 2), np.float32)}, "data-type"),
        ({"a": np.zeros((1, 2), np.float32)}, "expected 2 inputs but got 1"),
        ({"a": np.zeros((1, 2), np.float32), "b": np.zeros((2, 2), np.float32)}, "batch"),
    ],
    ids=["shape", "dtype", "missing", "rows"],
)
def test_a_wrong_request_gets_its_own_error_and_its_neighbours_their_answers(
    graphs: Any, wrong: dict[str, Any], says: str
) -> None:
    one = np.ones((1, 2), np.float32)
    good = [graphs.send("pair", {"a": one, "b": one}) for _ in range(3)]
    bad = graphs.send("pair", wrong)
    good += [graphs.send("pair", {"a": one, "b": one}) for _ in range(3)]
    with pytest.raises(grpc.RpcError) as caught:
        bad.result()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert says in caught.value.details()
    for call in good:
        assert call.result().raw_output_contents[0] == np.full((1, 2), 2, np.float32).tobytes()


@pytest.mark.parametrize("way", ["cancelled", "past its deadline"])
def test_what_nobody_waits_for_any_more_is_dropped_before_its_run(
    graphs: Any, graphs_folder: Path, way: str
) -> None:
    # The generator of the graph steps once per run, so its number tells how many runs there were.
    here = onnxruntime.InferenceSession(graphs_folder / "slow" / "1" / "model.onnx")
    numbers = [float(here.run(None, {"steps": np.array([0])})[0][0]) for _ in range(100)]

    def number_of(response: Any) -> int:
        return numbers.index(float(np.frombuffer(response.raw_output_contents[0], np.float32)[0]))

    long, short = ({"steps": np.array([steps])} for steps in (4000, 50))
    for _ in range(3):  # the backend has to see that this model is slow
        graphs.infer("slow", short)
    running = graphs.send("slow", long)
    given_up = [graphs.send("slow", long, timeout_s=0.1 if "deadline" in way else 10) for _ in range(5)]
    waiting = graphs.send("slow", short)
    if way == "cancelled":
        for call in given_up:
            call.cancel()
    assert number_of(waiting.result()) == number_of(running.result()) + 1
    for call in given_up:
        assert call.code() in {grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}


def test_the_threads_of_a_model_are_those_of_its_config(graphs: Any) -> None:
    def threads(pid: int) -> int:
        return len(list(Path(f"/proc/{pid}/task").iterdir()))

    counts = sorted(threads(pid) for pid in graphs.stub_pids())
    assert counts[-1] - counts[0] == 3  # the pair has 4, all others 1


def test_dims_that_differ_from_the_graph_stop_the_start_with_the_difference(
    serve: Callable[..., Any], tmp_path: Path
) -> None:
    _add_pair(tmp_path)
    config = tmp_path / "pair" / "config.pbtxt"
    config.write_text(
        config.read_text().replace(
            '"minus" data_type: TYPE_FP32 dims: [ 2 ]', '"minus" data_type: TYPE_FP32 dims: [ 3 ]'
        )
    )
    launcher = serve(tmp_path)
    _, log = launcher.process.communicate(timeout=30)
    assert launcher.process.returncode == 1
    assert "output 'minus' has dims [-1, 3] with the batch" in log
    assert "says [-1, 2]" in log
