"""What the launcher does when things break: each test has a server of its own to break."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

X = {"x": np.array([[1, 2]], np.float32)}

Start = Callable[..., Any]


def _until(condition: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"not within {timeout_s} s"
        time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_killed_stub_is_noticed_and_its_model_recovers(start: Start) -> None:
    launcher = start()
    launcher.wait_ready()
    [stub] = launcher.stub_pids()
    os.kill(stub, signal.SIGKILL)
    _until(lambda: launcher.stub_pids() not in ([], [stub]) and launcher.answers("affine", X), 15)
    code, log = launcher.stop()
    assert code == 0
    assert "model is reloaded" in log
    assert "not healthy" in log
    assert "model is back" in log


def test_a_killed_server_returns_on_the_same_ports(start: Start) -> None:
    launcher = start()
    launcher.wait_ready()
    before = launcher.ready
    os.kill(before["server_pid"], signal.SIGKILL)

    def is_back() -> bool:
        launcher.read_ready()
        return bool(launcher.ready["server_pid"] != before["server_pid"] and launcher.answers("affine", X))

    _until(is_back, 20)
    assert {**launcher.ready, "server_pid": 0} == {**before, "server_pid": 0}
    assert len(launcher.shared_memory()) == len(launcher.stub_pids())
    code, log = launcher.stop()
    assert code == 0
    assert "was killed by SIGKILL" in log


def test_a_server_that_hangs_is_restarted_and_an_empty_config_is_completed(start: Start) -> None:
    launcher = start("--probe-timeout-s", "0.5", config='platform: "onnxruntime_onnx"\n')
    launcher.wait_ready()
    np.testing.assert_allclose(launcher.infer("affine", X)["y"], [[1.5, 1.5, 8]])
    hung = launcher.ready["server_pid"]
    os.kill(hung, signal.SIGSTOP)

    def is_back() -> bool:
        launcher.read_ready()
        return bool(launcher.ready["server_pid"] != hung and launcher.answers("affine", X))

    _until(is_back, 30)
    assert not _is_alive(hung)


def test_nothing_outlives_a_killed_launcher_and_the_next_one_sweeps_what_it_left(start: Start) -> None:
    killed = start()
    killed.wait_ready()
    pids = [killed.ready["server_pid"], *killed.stub_pids()]
    killed.process.kill()
    killed.process.communicate()
    _until(lambda: not any(map(_is_alive, pids)), 15)

    successor = start()
    successor.wait_ready()
    assert killed.shared_memory() == []
    assert {entry.name.split("_")[2] for entry in killed.temporary.iterdir()} == {str(successor.process.pid)}


def test_ctrl_c_leaves_no_process_file_or_shared_memory(start: Start) -> None:
    launcher = start()
    launcher.wait_ready()
    assert launcher.shared_memory()
    pids = [launcher.ready["server_pid"], *launcher.stub_pids()]
    asked = time.monotonic()
    code, _ = launcher.stop(signal.SIGINT)
    assert code == 0
    assert time.monotonic() - asked < 10
    assert not any(map(_is_alive, pids))
    assert launcher.shared_memory() == []
    assert list(launcher.temporary.iterdir()) == []
    assert not launcher.ready_file.exists()


def test_a_stop_while_the_models_load_leaves_nothing_either(start: Start) -> None:
    launcher = start()
    _until(lambda: any(launcher.temporary.glob("*/tritonserver.log")), 20)
    code, _ = launcher.stop()
    assert code == 0
    assert launcher.shared_memory() == []
    assert list(launcher.temporary.iterdir()) == []


def test_a_config_that_differs_from_the_graph_stops_the_start_with_the_difference(
    start: Start, triton_configs: dict[str, str]
) -> None:
    launcher = start(config=triton_configs["affine"].replace('"total"', '"sum"'))
    _, log = launcher.process.communicate(timeout=30)
    assert launcher.process.returncode == 1
    assert log.count("\n") == 1
    assert "model affine" in log
    assert "config.pbtxt names output 'sum'" in log
    assert "['total', 'y']" in log


def test_a_port_in_use_is_named(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        launcher = start("--grpc-port", str(port))
        _, log = launcher.process.communicate(timeout=30)
    assert launcher.process.returncode == 2
    error = log.splitlines()[-1]  # other tests' dead launchers may be tidied up, and logged, before it
    assert error.startswith(f"error: --grpc-port {port} is in use on 127.0.0.1")
