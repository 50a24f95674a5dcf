"""A real tritonserver behind our launcher, on two small ONNX models."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from triton_server.launcher import unavailable_reason

_ROOT = Path(__file__).parents[3]
_DATA = Path(__file__).parents[1] / "data"
VENV = _ROOT / "build" / "venv-triton"
_START_TIMEOUT_S = 60.0
_CALL_TIMEOUT_S = 10.0
_TYPES = {
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    **{f"{sign}int{bits}": f"{sign}int{bits}".upper() for bits in (8, 16, 32, 64) for sign in ("", "u")},
    "bool": "BOOL",
}

AFFINE_CONFIG = """
platform: "onnxruntime_onnx"
max_batch_size: 16
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [
  { name: "y" data_type: TYPE_FP32 dims: [ 3 ] },
  { name: "total" data_type: TYPE_FP32 dims: [ 1 ] }
]
dynamic_batching { max_queue_delay_microseconds: 200 }
instance_group [ { kind: KIND_CPU count: 1 } ]
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
"""
# The long delay puts requests that arrive together into one batch, whatever the machine does.
LOOKUP_CONFIG = """
backend: "onnxruntime"
max_batch_size: 16
input [ { name: "index" data_type: TYPE_INT64 dims: [ -1 ] } ]
output [
  { name: "row" data_type: TYPE_FP16 dims: [ -1, 2 ] },
  { name: "is_first" data_type: TYPE_BOOL dims: [ -1 ] }
]
dynamic_batching { preferred_batch_size: [ 16 ] max_queue_delay_microseconds: 100000 }
instance_group [ { kind: KIND_CPU count: 1 } ]
"""

TIMES_CONFIG = """
platform: "onnxruntime_onnx"
max_batch_size: 16
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
dynamic_batching { }
instance_group [ { kind: KIND_CPU count: 1 } ]
version_policy { latest { num_versions: 2 } }
parameters { key: "promoted_version" value { string_value: "1" } }
parameters { key: "artifact_sha256" value { string_value: "SHA256" } }
"""

Array = npt.NDArray[Any]


@pytest.fixture(scope="session", autouse=True)
def _triton_runs_here() -> None:
    if reason := unavailable_reason():
        pytest.skip(reason)
    if not (VENV / ".installed").exists():
        pytest.skip("build/venv-triton is missing: `make setup` builds it")


@dataclass
class RunningLauncher:
    """A launcher process, its ready file and a blocking client to its server."""

    process: subprocess.Popen[str]
    ready_file: Path
    temporary: Path
    ready: dict[str, Any] = field(default_factory=dict)
    _channel: grpc.Channel | None = None

    def wait_ready(self) -> None:
        until(lambda: self.ready_file.exists() or self.process.poll() is not None, _START_TIMEOUT_S)
        assert self.process.poll() is None, self.process.communicate()
        self.read_ready()

    def read_ready(self) -> None:
        self.ready = json.loads(self.ready_file.read_text())

    @property
    def stub(self) -> Any:
        if self._channel is None:
            self._channel = grpc.insecure_channel(
                self.ready["address"],
                options=[("grpc.max_reconnect_backoff_ms", 100), ("grpc.enable_http_proxy", 0)],
            )
        return service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def send(
        self,
        model: str,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] = (),
        timeout_s: float = _CALL_TIMEOUT_S,
        parameters: bytes = b"",
    ) -> Any:
        """Start a call without waiting for it."""
        request = service_pb2.ModelInferRequest.FromString(parameters)
        request.model_name = model
        for name, array in inputs.items():
            request.inputs.add(name=name, datatype=_TYPES[array.dtype.name], shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        for name in outputs:
            request.outputs.add(name=name)
        return self.stub.ModelInfer.future(request, timeout=timeout_s)

    def infer(self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        return self.answer(self.send(model, inputs, outputs))

    def answer(self, call: Any) -> dict[str, Array]:
        return decode(call.result())

    def answers(self, model: str, inputs: Mapping[str, Array]) -> bool:
        try:
            self.infer(model, inputs)
        except grpc.RpcError:
            return False
        return True

    def stub_pids(self) -> list[int]:
        return [pid for pid in children(self.ready["server_pid"]) if is_alive(pid)]

    def shared_memory(self) -> list[str]:
        mine = f"_triton_{self.process.pid}_"
        return [entry.name for entry in Path("/dev/shm").iterdir() if mine in entry.name]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """End it in order and give its exit code and what it logged."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, log = self.process.communicate(timeout=15)
        return self.process.returncode, log


def decode(response: Any) -> dict[str, Array]:
    types = {wire: dtype for dtype, wire in _TYPES.items()}
    return {
        output.name: np.frombuffer(raw, types[output.datatype]).reshape(output.shape)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def until(condition: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    listed: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that ended meanwhile
            listed += map(int, (task / "children").read_text().split())
    return listed


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def write_repository(folder: Path, configs: Mapping[str, str]) -> Path:
    for name, config in configs.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(config)
        shutil.copy(_DATA / f"{name}.onnx", folder / name / "1" / "model.onnx")
    return folder


def launch(repository: Path, work: Path, *arguments: str) -> RunningLauncher:
    temporary = work.parent / "tmp"
    temporary.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    ready_file = work / "ready.json"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "triton_server", "--model-repository", str(repository)),
            *("--venv", str(VENV), "--ready-file", str(ready_file), "--log-format", "json"),
            *("--probe-interval-s", "0.2", *arguments),
        ],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    return RunningLauncher(process, ready_file, temporary)


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLauncher]:
    """One server for every test that leaves it as it found it."""
    work = tmp_path_factory.mktemp("triton")
    configs = {"affine": AFFINE_CONFIG, "lookup": LOOKUP_CONFIG}
    launcher = launch(write_repository(work / "models", configs), work / "launcher")
    try:
        launcher.wait_ready()
        yield launcher
    finally:
        launcher.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningLauncher]]:
    """Start a launcher that the test may break; it serves `affine` alone."""
    launchers: list[RunningLauncher] = []

    def started(*arguments: str, config: str = AFFINE_CONFIG) -> RunningLauncher:
        repository = tmp_path / "models"
        if not repository.exists():
            write_repository(repository, {"affine": config})
        launchers.append(launch(repository, tmp_path / str(len(launchers)), *arguments))
        return launchers[-1]

    yield started
    for launcher in launchers:
        launcher.stop()


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RunningLauncher]]:
    """Start a launcher on a repository of the module's own; all its tests share it."""
    launchers: list[RunningLauncher] = []

    def serving(repository: Path, *arguments: str) -> RunningLauncher:
        launchers.append(launch(repository, tmp_path_factory.mktemp("serve") / "launcher", *arguments))
        return launchers[-1]

    yield serving
    for launcher in launchers:
        launcher.stop()


@pytest.fixture(scope="session")
def triton_configs() -> dict[str, str]:
    return {"affine": AFFINE_CONFIG, "lookup": LOOKUP_CONFIG}


@pytest.fixture
def times_model() -> Callable[..., Path]:
    """Write a graph that multiplies with the number of its version, which tells who answered."""
    onnx = pytest.importorskip("onnx", reason="graphs are built with onnx: make setup EXTRAS=cpu,dev")

    def write(path: Path, factor: int, columns: int = 2) -> Path:
        info, floats = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Mul", ["x", "factor"], ["y"])],
            "times",
            [info("x", floats, ("n", columns))],
            [info("y", floats, ("n", columns))],
            [onnx.numpy_helper.from_array(np.float32(factor), "factor")],
        )
        operators = [onnx.helper.make_opsetid("", 18)]
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(onnx.helper.make_model(graph, opset_imports=operators, ir_version=10), path)
        return path

    return write


@pytest.fixture
def times_repository(tmp_path: Path, times_model: Callable[..., Path]) -> Path:
    folder = tmp_path / "models" / "times"
    first = times_model(folder / "1" / "model.onnx", 1)
    digest = hashlib.sha256(first.read_bytes()).hexdigest()
    (folder / "config.pbtxt").write_text(TIMES_CONFIG.replace("SHA256", digest))
    return folder.parent


@pytest.fixture
def times_triton(serve: Callable[..., RunningLauncher], times_repository: Path) -> Iterator[RunningLauncher]:
    running = serve(times_repository)
    running.wait_ready()
    yield running
    running.stop()
