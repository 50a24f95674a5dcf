"""Models with state: what our onnxruntime backend keeps for every sequence, inside a real tritonserver."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from tradeserve_client.answers import Answer, NoAnswer, Reason
from tradeserve_client.errors import WrongRequestError
from tradeserve_client.sequence import SequenceStep, lone_step
from tradeserve_client.triton import TritonClient
from triton_server.probe import Health, TritonProbe

if TYPE_CHECKING:
    from integration.triton_server.conftest import RunningLauncher

pytestmark = pytest.mark.xdist_group("triton")

_VENV = Path(__file__).parents[3] / "build" / "venv-triton"
_GRAPH = Path(__file__).parents[1] / "data" / "running_total.onnx"
_IN_AND_OUT = """
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [
  { name: "total" data_type: TYPE_FP32 dims: [ 1 ] },
  { name: "steps" data_type: TYPE_INT64 dims: [ 1 ] },
  { name: "rows" data_type: TYPE_INT64 dims: [ 1 ] },
  { name: "start_seen" data_type: TYPE_FP32 dims: [ 1 ] },
  { name: "end_seen" data_type: TYPE_INT32 dims: [ 1 ] },
  { name: "ready_seen" data_type: TYPE_BOOL dims: [ 1 ] },
  { name: "corrid_seen" data_type: TYPE_UINT64 dims: [ 1 ] }
]
max_batch_size: 3
"""
_SEQUENCES = """
backend: "onnxruntime"
instance_group [ { kind: KIND_CPU count: 1 } ]
sequence_batching {
  %s
  control_input [
    { name: "start" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] },
    { name: "end" control [ { kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] } ] },
    { name: "ready" control [ { kind: CONTROL_SEQUENCE_READY bool_false_true: [ false, true ] } ] },
    { name: "corrid" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }
  ]
  state [
    { input_name: "total_before" output_name: "total_after" data_type: TYPE_FP32 dims: [ 1 ]
      initial_state: { name: "ten" data_type: TYPE_FP32 dims: [ 1 ] data_file: "ten" } },
    { input_name: "steps_before" output_name: "steps_after" data_type: TYPE_INT64 dims: [ 1 ]%s }
  ]
}
"""
_ZERO = ' initial_state: { name: "zero" data_type: TYPE_INT64 dims: [ 1 ] zero_data: true }'
_LONG = "max_sequence_idle_microseconds: 60000000"
# The long delays put requests that arrive together into one run, whatever the machine does.
CONFIGS = {
    "direct": f"direct {{ }} {_LONG}",
    "oldest": f"oldest {{ max_candidate_sequences: 4 max_queue_delay_microseconds: 30000 }} {_LONG}",
    "together": f"direct {{ minimum_slot_utilization: 1 max_queue_delay_microseconds: 200000 }} {_LONG}",
    # Idle after a second, as Triton has it.
    "idle_direct": "direct { }",
    "idle_oldest": "oldest { max_candidate_sequences: 3 }",
}
TEN = 10.0


def add_model(repository: Path, name: str, batching: str, signature: str = _IN_AND_OUT) -> None:
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    (folder / "initial_state").mkdir()
    shutil.copy(_GRAPH, folder / "1" / "model.onnx")
    (folder / "initial_state" / "ten").write_bytes(np.float32(TEN).tobytes())
    zero = "" if name == "oldest" else _ZERO  # what the config gives no value to is zero as well
    (folder / "config.pbtxt").write_text(_SEQUENCES % (batching, zero) + signature)


@dataclass
class Steps:
    """Sends single steps of sequences to one model."""

    server: RunningLauncher
    model: str

    def send(self, step: SequenceStep, x: float) -> Any:
        array = np.array([[x]], np.float32)
        return self.server.send(self.model, {"x": array}, parameters=step.parameters())

    def take(self, step: SequenceStep, x: float = 1) -> dict[str, Any]:
        return self.values(self.send(step, x))

    def values(self, call: Any) -> dict[str, Any]:
        return {name: array.item() for name, array in self.server.answer(call).items()}

    def refusal(self, step: SequenceStep, x: float = 1) -> str:
        with pytest.raises(grpc.RpcError) as caught:
            self.take(step, x)
        return str(caught.value.details())

    def total(self, sequence_id: int | str, x: float = 1, *, start: bool = False, end: bool = False) -> float:
        return float(self.take(SequenceStep(sequence_id, start, end), x)["total"])


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, serve: Callable[..., RunningLauncher]
) -> Iterator[RunningLauncher]:
    repository = tmp_path_factory.mktemp("sequences") / "models"
    for name, batching in CONFIGS.items():
        add_model(repository, name, batching)
    # The watchdog would take slots.
    running = serve(repository, "--probe-interval-s", "60")
    running.wait_ready()
    yield running
    running.stop()


@pytest.fixture(params=["direct", "oldest"])
def steps(request: pytest.FixtureRequest, server: RunningLauncher) -> Steps:
    return Steps(server, request.param)


# Triton 2.51 copies a longer text over what lies behind the 8 bytes of a CORRID control that is a number.
@pytest.mark.parametrize("sequence_id", [7, 2**62, "AAPL"], ids=["number", "large", "text"])
def test_state_goes_from_step_to_step_and_begins_anew_with_the_next_sequence(
    steps: Steps, sequence_id: int | str
) -> None:
    for _ in range(2):
        first = steps.take(SequenceStep(sequence_id, start=True), 1)
        second = steps.take(SequenceStep(sequence_id), 2)
        last = steps.take(SequenceStep(sequence_id, end=True), 3)
        assert [step["total"] for step in (first, second, last)] == [TEN + 1, TEN + 3, TEN + 6]
        assert [step["steps"] for step in (first, second, last)] == [1, 2, 3]  # from zero


def test_the_model_sees_the_controls_and_the_client_sees_no_state(steps: Steps) -> None:
    first, second, last = (
        steps.take(step) for step in (SequenceStep(9, start=True), SequenceStep(9), SequenceStep(9, end=True))
    )
    assert [step["start_seen"] for step in (first, second, last)] == [1, 0, 0]
    assert [step["end_seen"] for step in (first, second, last)] == [0, 0, 1]
    assert all(step["ready_seen"] and step["corrid_seen"] == 9 for step in (first, second, last))
    assert first.keys() == {
        *("total", "steps", "rows"),
        *("start_seen", "end_seen", "ready_seen", "corrid_seen"),
    }


def test_sequences_that_run_at_the_same_time_keep_to_themselves(steps: Steps) -> None:
    ids = (1, 2, 3)
    for turn in range(4):
        calls = [steps.send(SequenceStep(number, start=turn == 0, end=turn == 3), number) for number in ids]
        assert [steps.values(call)["total"] for call in calls] == [
            TEN + number * (turn + 1) for number in ids
        ]


@pytest.mark.parametrize("model", ["together", "oldest"])
def test_steps_of_different_sequences_share_a_run_and_one_that_fails_fails_alone(
    server: RunningLauncher, model: str
) -> None:
    steps = Steps(server, model)
    for call in [steps.send(SequenceStep(number, start=True), number) for number in (1, 2, 3)]:
        assert steps.values(call)["total"] > TEN
    rows = 0
    for turn in range(1, 30):  # the requests of a turn can be torn apart on their way
        good, bad, other = (steps.send(SequenceStep(number), x) for number, x in ((1, 1), (2, 1000), (3, 3)))
        with pytest.raises(grpc.RpcError, match="onnxruntime"):
            bad.result()
        assert [steps.values(call)["total"] for call in (good, other)] == [TEN + 1 + turn, TEN + 3 + 3 * turn]
        calls = [steps.send(SequenceStep(number), x) for number, x in ((1, 0), (2, 0), (3, 0))]
        # What failed left the state as it was.
        found = [steps.values(call) for call in calls]
        assert [one["total"] for one in found] == [TEN + 1 + turn, TEN + 2, TEN + 3 + 3 * turn]
        rows = max(one["rows"] for one in found)
        if rows == 3:
            break
    assert rows == 3
    for call in [steps.send(SequenceStep(number, end=True), 0) for number in (1, 2, 3)]:
        call.result()


def test_a_sequence_whose_first_step_failed_is_refused_until_it_is_started_again(steps: Steps) -> None:
    assert "onnxruntime" in steps.refusal(SequenceStep("x", start=True), 1000)
    for _ in range(2):
        assert "the state of sequence 'x' is unknown" in steps.refusal(SequenceStep("x"))
    assert steps.total("x", 1, start=True) == TEN + 1
    assert "onnxruntime" in steps.refusal(SequenceStep("x", start=True), 1000)
    assert "is unknown" in steps.refusal(SequenceStep("x", end=True))
    assert "must specify the START flag" in steps.refusal(SequenceStep("x"))


def test_a_step_of_no_sequence_is_refused(steps: Steps) -> None:
    with pytest.raises(grpc.RpcError, match="correlation ID"):
        steps.server.infer(steps.model, {"x": np.ones((1, 1), np.float32)})
    assert "must specify the START flag" in steps.refusal(SequenceStep(12345))


def test_more_sequences_than_slots_wait_for_one_that_ends_or_is_idle(server: RunningLauncher) -> None:
    both = [Steps(server, model) for model in ("idle_direct", "idle_oldest")]
    for name in ("a", "b", "c"):
        assert [steps.total(name, 1, start=True) for steps in both] == [TEN + 1] * 2
    waiting = [steps.send(SequenceStep("d", start=True), 2) for steps in both]
    for steps, call in zip(both, waiting, strict=True):
        # Once another was idle; its own waiting counts as idle too, so it may be ended before its next step.
        assert steps.values(call)["total"] == TEN + 2
        for name in ("a", "b", "c"):
            assert steps.total(name, 3, start=True) == TEN + 3
            assert steps.total(name, 3, end=True) == TEN + 6


async def test_a_probe_waits_for_a_slot_and_takes_none_from_others(server: RunningLauncher) -> None:
    steps = Steps(server, "direct")
    async with TritonProbe(server.ready["address"]) as probe:
        (model,) = [model for model in await probe.served_models() if model.name == "direct"]
        assert (await probe.infer(model, 10.0)).health is Health.ANSWERED
        for number in (1, 2, 3):
            steps.total(number, start=True)
        for _ in range(2):
            assert (await probe.infer(model, 0.05)).health is Health.WAITS
        assert steps.total(1, 1, end=True) == TEN + 2
        assert (await probe.infer(model, 10.0)).health is Health.ANSWERED
        assert [steps.total(number, 1, end=True) for number in (2, 3)] == [TEN + 2, TEN + 2]


async def test_a_model_that_was_loaded_again_refuses_to_go_on(server: RunningLauncher) -> None:
    steps = Steps(server, "direct")
    assert steps.total("AB", 1, start=True) == TEN + 1
    assert steps.total("AB", 1) == TEN + 2
    async with TritonProbe(server.ready["address"]) as probe:
        await probe.reload(steps.model, 30.0)
    assert "must specify the START flag" in steps.refusal(SequenceStep("AB"))
    assert steps.total("AB", 2, start=True, end=True) == TEN + 2


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Our backend outside the stub, on the part of Triton's module that is Python."""
    (path,) = (_VENV / "lib").glob("python*/site-packages/pytriton/**/triton_python_backend_utils.py")
    spec = importlib.util.spec_from_file_location("triton_python_backend_utils", path)
    assert spec is not None
    assert spec.loader is not None
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    backend = importlib.import_module("triton_server.onnxruntime_backend")
    monkeypatch.delitem(sys.modules, "triton_server.onnxruntime_backend")
    return backend


def _config(text: str) -> dict[str, Any]:
    message = text_format.Parse(text, model_config_pb2.ModelConfig())
    config: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return config


def test_a_config_may_leave_inputs_and_outputs_to_the_graph(backend: Any, tmp_path: Path) -> None:
    add_model(tmp_path, "model", "direct { }")
    text = (tmp_path / "model" / "config.pbtxt").read_text()
    whole, short = _config(text), _config(text.replace(_IN_AND_OUT, "max_batch_size: 3"))
    utils = sys.modules["triton_python_backend_utils"]
    utils.__dict__["get_model_dir"] = lambda: str(tmp_path / "model" / "1")
    completed = utils.__dict__["ModelConfig"](json.dumps({"input": [], "output": [], **short}))
    found = backend.TritonPythonModel.auto_complete_config(completed).as_dict()
    assert [entry["name"] for entry in found["input"]] == ["x"]
    assert {entry["name"] for entry in found["output"]} == {entry["name"] for entry in whole["output"]}
    assert "dynamic_batching" not in found


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        ('"steps_after" data_type', '"stops" data_type', "names output 'stops'"),
        ('"total_before" output', '"x_before" output', "names input 'x_before'"),
        (
            "TYPE_INT64 dims: [ 1 ] initial",
            "TYPE_INT32 dims: [ 1 ] initial",
            "input 'steps_before' is TYPE_INT32",
        ),
        (
            "TYPE_INT64 dims: [ 1 ] initial",
            "TYPE_INT64 dims: [ 2 ] initial",
            "input 'steps_before' has dims [-1, 2]",
        ),
        ('"ready" control', '"reedy" control', "names input 'reedy'"),
        ("fp32_false_true", "int32_false_true", "input 'start' is TYPE_INT32"),
    ],
)
def test_a_config_that_differs_from_the_graph_is_told_when_the_model_is_loaded(
    backend: Any, tmp_path: Path, right: str, wrong: str, says: str
) -> None:
    add_model(tmp_path, "model", "direct { }")
    model = backend.TritonPythonModel()

    def load(text: str) -> None:
        arguments = {"model_repository": str(tmp_path / "model"), "model_version": "1"}
        model.initialize({"model_config": json.dumps(_config(text)), **arguments})

    text = (tmp_path / "model" / "config.pbtxt").read_text()
    load(text)
    assert text.count(right) == 1
    with pytest.raises(ValueError, match=re.escape(says)):
        load(text.replace(right, wrong))


# --- the SDK --------------------------------------------------------------------------------------


@pytest.fixture
async def client(server: RunningLauncher) -> AsyncIterator[TritonClient]:
    client = TritonClient(server.ready["address"])
    yield client
    await client.close()


async def test_the_sdk_takes_steps_of_a_sequence(client: TritonClient) -> None:
    totals = []
    for turn in range(3):
        step = SequenceStep(77, start=turn == 0, end=turn == 2)
        outcome = await client.infer(
            "direct", {"x": np.ones((1, 1), np.float32)}, budget=10.0, outputs=["total"], sequence=step
        )
        assert isinstance(outcome, Answer), outcome
        totals.append(outcome.value.outputs["total"].item())
    assert totals == [TEN + 1, TEN + 2, TEN + 3]
    refused = await client.infer(
        "direct", {"x": np.ones((1, 1), np.float32)}, budget=10.0, sequence=SequenceStep(77)
    )
    assert isinstance(refused, NoAnswer)
    assert refused.reason is Reason.REFUSED
    assert "START" in refused.detail


async def test_a_request_of_its_own_is_a_sequence_of_one(client: TritonClient) -> None:
    step = lone_step(await client.contract("direct", timeout_s=10.0))
    outcome = await client.infer("direct", {"x": np.ones((1, 1), np.float32)}, budget=10.0, sequence=step)
    assert isinstance(outcome, Answer)
    assert outcome.value.outputs["end_seen"].item() == 1


async def test_the_sdk_never_sends_text_for_a_number_which_triton_would_write_beyond_its_place(
    client: TritonClient,
) -> None:
    with pytest.raises(WrongRequestError, match=r"must be a number, got 'a long id'"):
        await client.infer(
            "direct",
            {"x": np.ones((1, 1), np.float32)},
            budget=10.0,
            sequence=SequenceStep("a long id", start=True),
        )
