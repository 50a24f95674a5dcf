import socket
from dataclasses import replace
from pathlib import Path

import pytest

from triton_server import UnusableInput
from triton_server.installation import Installation, find_installation, unavailable_reason
from triton_server.model_folder import ModelFolder
from triton_server.ports import Ports, choose_ports
from triton_server.server_process import ServerSettings, failure_reason, server_command

INSTALLATION = Installation(
    venv=Path("/venv"),
    python_version="3.12",
    packages=Path("/venv/lib/python3.12/site-packages"),
    library_directory=Path("/python/lib"),
)
SETTINGS = ServerSettings(
    installation=INSTALLATION,
    repository=Path("/models"),
    models=(ModelFolder("a", True), ModelFolder("b", True)),
    host="127.0.0.1",
    ports=Ports(1, 2, 3),
    backends=Path("/tmp/x/backends"),
    shared_memory_prefix="mine_",
    log_file=Path("/tmp/x/log"),
)


def test_the_command_loads_each_model_explicitly_with_its_cpu_config() -> None:
    command = server_command(SETTINGS)
    assert [part for part in command if part.startswith("--load-model")] == [
        "--load-model=a",
        "--load-model=b",
    ]
    assert "--model-control-mode=explicit" in command
    assert "--model-config-name=cpu" in command
    assert "--backend-config=python,shm-region-prefix-name=mine_" in command


def test_full_configs_save_the_completion() -> None:
    assert "--disable-auto-complete-config" in server_command(SETTINGS)
    partial = replace(SETTINGS, models=(ModelFolder("a", True), ModelFolder("b", False)))
    assert "--disable-auto-complete-config" not in server_command(partial)


def test_the_environment_leads_the_stub_to_its_own_python_and_sends_no_telemetry() -> None:
    environment = INSTALLATION.environment(
        {"PATH": "/bin", "PYTHONPATH": "/other", "PYTHONHOME": "/x", "HOME": "/h"}
    )
    assert environment["PATH"] == "/venv/bin:/bin"
    assert environment["LD_LIBRARY_PATH"] == f"{INSTALLATION.packages}/nvidia_pytriton.libs:/python/lib"
    assert environment["HOME"] == "/h"
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert not {"PYTHONPATH", "PYTHONHOME"} & environment.keys()


def test_a_missing_environment_says_how_to_build_it(tmp_path: Path) -> None:
    with pytest.raises(UnusableInput, match=r"no Triton environment in .*: run `make setup`"):
        find_installation(tmp_path / "venv")


def test_another_platform_is_told_the_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    reason = unavailable_reason()
    assert reason is not None
    assert "aarch64" in reason
    assert "TRITON=host:port" in reason
    assert "--triton" in reason


def test_an_old_c_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.31"))
    assert "this machine has glibc 2.31" in (unavailable_reason() or "")


def test_free_ports_are_three_different_ones() -> None:
    ports = choose_ports("127.0.0.1", Ports())
    assert len({ports.grpc, ports.http, ports.metrics}) == 3
    assert 0 not in {ports.grpc, ports.http, ports.metrics}


def test_a_taken_port_is_named_with_its_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UnusableInput, match=rf"--http-port {port} is in use on 127\.0\.0\.1"):
            choose_ports("127.0.0.1", Ports(http=port))


def test_the_same_port_twice_is_noticed() -> None:
    port = choose_ports("127.0.0.1", Ports()).grpc
    with pytest.raises(UnusableInput, match=f"--grpc-port {port}, --http-port {port} must differ"):
        choose_ports("127.0.0.1", Ports(grpc=port, http=port))


def test_a_load_failure_is_cut_to_the_model_and_its_reason() -> None:
    log = (
        'E1123 08:22:50.534203 17160 server.cc:241] "CudaDriverHelper has not been initialized."\n'
        "E1123 08:22:50.899332 17160 model_lifecycle.cc:642] \"failed to load 'b' version 1: Internal: "
        "ValueError: config.pbtxt names output 'x'\\n\\nAt:\\n  /tmp/model.py(179): _compare\\n\"\n"
    )
    assert failure_reason(log) == "model b: ValueError: config.pbtxt names output 'x'"


def test_a_config_that_does_not_parse_is_named_with_the_place() -> None:
    log = (
        "[libprotobuf ERROR /x/text_format.cc:337] Error parsing text-format inference.ModelConfig: 3:15: no field y\n"
        "E1123 08:23:29.944366 17624 model_repository_manager.cc:1460] "
        "\"Poll failed for model directory 'b': failed to read text proto from /m/b/config.pbtxt\"\n"
    )
    assert (
        failure_reason(log) == "model b: failed to read text proto from /m/b/config.pbtxt (3:15: no field y)"
    )


def test_a_log_without_errors_is_said_to_have_none() -> None:
    assert failure_reason("I1123 all is well\n") == "its log gives no reason"
