"""The simulator as a process: its command line, its ready file, its end, and its return after a kill."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway_simulator.wire import encode

START_TIMEOUT_S = 60.0


class Processes:
    """Starts simulators and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[str]] = []
        self.clients: list[RawClient] = []

    def start(self, *arguments: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
        ready = self.folder / f"ready-{len(self.started)}.json"
        command = [
            sys.executable,
            "-m",
            "gateway_simulator",
            "--port",
            "0",
            "--ready-file",
            str(ready),
            *arguments,
        ]
        with (self.folder / f"log-{len(self.started)}.txt").open("w") as log:
            process = subprocess.Popen(command, stderr=log, text=True)
        self.started.append(process)
        end = time.monotonic() + START_TIMEOUT_S
        while not ready.exists():
            assert process.poll() is None, (self.folder / f"log-{len(self.started) - 1}.txt").read_text()
            assert time.monotonic() < end, "no ready file"
            time.sleep(0.02)
        return process, json.loads(ready.read_text())

    def connect(self, address: str) -> RawClient:
        client = RawClient(address)
        self.clients.append(client)
        return client

    def stop(self) -> None:
        for client in self.clients:
            client.close()
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    one = Processes(tmp_path)
    yield one
    one.stop()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gateway_simulator", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


class RawClient:
    """The few messages a test sends by itself."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self.file = self.socket.makefile("rb")
        hello = b"v157..176"
        self.socket.sendall(b"API\0" + len(hello).to_bytes(4, "big") + hello)
        assert self.read()[0] == "176"
        self.send(71, 2, 7, "")

    def send(self, *fields: Any) -> None:
        self.socket.sendall(encode(*fields))

    def read(self) -> list[str]:
        size = int.from_bytes(self.file.read(4), "big")
        return self.file.read(size).decode().split("\0")[:-1]

    def until(self, kind: str) -> list[str]:
        while True:
            fields = self.read()
            if fields[0] == kind:
                return fields

    def buy(self, order_id: int, con_id: int, quantity: int, order_type: str, limit: float, ref: str) -> None:
        contract = [con_id, "", "", "", "", "", "", "SMART", "", "USD", "", ""]
        terms = ["BUY", quantity, order_type, limit, "", "DAY", "", "", "", 0, ref, 1, 0, 0, 0, 0, 0, 0, 0]
        self.send(3, order_id, *contract, "", "", *terms, *[""] * 80)

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def test_the_ready_file_describes_the_session_and_sigterm_ends_it(processes: Processes) -> None:
    process, ready = processes.start("--seed", "3", "--speed", "1000")
    assert ready["pid"] == process.pid
    assert ready["account"].startswith("DU")
    session = ready["session"]
    assert session["source"] == "generated"
    assert (session["bar_size_s"], session["seed"], session["speed"], session["bars"]) == (300, 3, 1000.0, 78)
    assert session["warmup_bars"] >= 120
    assert session["symbols"] == ["ALFA", "BRVO", "CHRL"]
    assert session["start_ns"] < session["end_ns"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0


def test_the_sample_says_that_it_is_one(processes: Processes) -> None:
    _, ready = processes.start("--session", "sample")
    assert ready["session"]["source"] == "sample"
    assert ready["session"]["bar_size_s"] == 86_400


def test_a_port_in_use_is_one_clear_line(processes: Processes) -> None:
    _, ready = processes.start()
    result = run("--port", ready["address"].rsplit(":", 1)[1])
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "Address already in use" in errors[0]
    assert "--port" in errors[0]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--session", "none.csv"), "none.csv: there is no such file"),
        (("--speed", "0"), "--speed 0.0"),
        (("--seed", "-1"), "--seed -1"),
        (("--port", "70000"), "--port 70000"),
        (("--ready-file", "/nowhere/ready.json"), "/nowhere/ready.json: cannot be written"),
        (("--faults", "none.json"), "none.json: cannot be read"),
        (("--session", "sample", "--symbols", "XX"), "--symbols XX: not in the file, which has AAPL"),
        (("--session", "sample", "--spread-bps", "-1"), "--spread-bps -1.0"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(arguments: tuple[str, ...], named: str) -> None:
    result = run("--port", "0", *arguments)
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert named in errors[0]
    assert "Traceback" not in result.stderr


def test_a_killed_simulator_returns_with_all_that_a_client_was_told(
    processes: Processes, tmp_path: Path
) -> None:
    arguments = ("--state-file", str(tmp_path / "state.json"), "--wire-log", str(tmp_path / "wire.jsonl"))
    process, ready = processes.start(*arguments)
    client = processes.connect(ready["address"])
    client.send(9, 8, 1, 0, "ALFA", "STK", "", "", "", "", "SMART", "", "USD", "", "", 0, "", "", "")
    con_id = int(client.until("10")[12])
    client.buy(1, con_id, 50, "MKT", 0, "filled")
    fill = client.until("11")
    client.until("59")
    client.buy(2, con_id, 10, "LMT", 5.0, "resting")
    status = client.until("3")
    process.send_signal(signal.SIGKILL)
    process.wait()

    _, ready = processes.start(*arguments)
    again = processes.connect(ready["address"])
    assert again.until("9")[2] == "3"
    again.send(7, 3, 5, 0, "", "", "", "", "", "")
    replayed = again.until("11")
    assert replayed[2:] == fill[2:]
    again.send(5, 1)
    assert again.until("3")[1:7] == status[1:7]
    again.send(61, 1)
    assert again.until("61")[14] == "50"
    stamps = [json.loads(line) for line in (tmp_path / "wire.jsonl").read_text().splitlines()]
    assert [one["order_ref"] for one in stamps if one["kind"] == "order_received"] == ["filled", "resting"]


def test_garbage_on_the_socket_drops_only_that_client(processes: Processes) -> None:
    process, ready = processes.start()
    host, port = ready["address"].rsplit(":", 1)
    for garbage in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"API\0\xff\xff\xff\xff",
        b"API\0\x00\x00\x00\x05hello",
        os.urandom(64),
    ):
        with socket.create_connection((host, int(port)), timeout=20) as one:
            one.sendall(garbage)
            one.shutdown(socket.SHUT_WR)
            while one.recv(4096):
                pass
    client = processes.connect(ready["address"])
    client.send(9, 8)
    assert client.until("4")
    client.send(49, 1)
    assert client.until("49")[1] == "1"
    assert process.poll() is None


def test_a_state_file_that_cannot_be_written_ends_it_before_a_client_is_told(
    processes: Processes, tmp_path: Path
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    process, ready = processes.start("--state-file", str(folder / "state.json"))
    client = processes.connect(ready["address"])
    client.send(9, 8, 1, 0, "ALFA", "STK", "", "", "", "", "SMART", "", "USD", "", "", 0, "", "", "")
    con_id = int(client.until("10")[12])
    folder.rmdir()
    client.buy(1, con_id, 50, "MKT", 0, "lost")
    assert process.wait(timeout=20) == 2
    assert "state.json: cannot be written" in (tmp_path / "log-0.txt").read_text()
    while kind := client.file.read(4):
        fields = client.file.read(int.from_bytes(kind, "big")).split(b"\0")
        assert fields[0] not in (b"3", b"5", b"11")
