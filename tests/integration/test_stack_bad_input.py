"""What can't be used is named in one line that says what to do, and nothing is left running."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from fakes.fake_triton import FakeTriton
from stack_process import ROOT, TRITON_VENV, needs_triton

pytestmark = pytest.mark.timeout(120)

NOWHERE = "127.0.0.1:1"  # a privileged port that nothing uses
NO_DATABASE = "postgresql://someone:secret@127.0.0.1:1/there"
BARS = """time,symbol,open,high,low,close,volume
2024-01-02T14:30:00Z,A,1,2,1,1,5
2024-01-02T14:31:00Z,A,{},5
2024-01-02T14:32:00Z,A,1,2,1,1,5
"""


def run(*arguments: str, database_url: str = NO_DATABASE) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "DATABASE_URL": database_url}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def refused(*arguments: str, database_url: str = NO_DATABASE) -> str:
    """Run what must not begin; return its only line on standard error."""
    done = run(*arguments, database_url=database_url)
    assert done.returncode in (1, 2), done
    (line,) = [line for line in done.stderr.splitlines() if "[info " not in line]
    assert line.startswith("error: ")
    assert "secret" not in done.stdout + done.stderr
    return line


# --- the stack ------------------------------------------------------------------------------------


def stack(folder: Path, *arguments: str, but: str) -> list[str]:
    """Return a command line of the stack where everything `but` one server is elsewhere."""
    elsewhere = [f"--{name}={NOWHERE}" for name in ("triton", "similarity", "gateway") if name != but]
    places = ["--build-dir", str(folder / "build"), "--triton-venv", str(TRITON_VENV)]
    return ["local_stack", *elsewhere, *places, *arguments]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file"),
        (b"\x00\x01 this is no table \xff\n", "bars.csv"),
        (BARS.format("1,2,x,1").encode(), "column 'low'.*'x'"),
        (BARS.format("1,2,3,1").encode(), "(row|line) [23].*low"),
    ],
    ids=["missing", "garbage", "no number", "impossible bar"],
)
def test_a_session_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, said: str):
    file = tmp_path / "bars.csv"
    if content is not None:
        file.write_bytes(content)
    line = refused(*stack(tmp_path, "--session", str(file), but="gateway"))
    assert line.startswith(f"error: gateway did not start: {file}: ")
    assert re.search(said, line)


def test_a_symbol_that_the_session_has_not_is_named(tmp_path: Path):
    line = refused(*stack(tmp_path, "--session", "sample", "--symbols", "NOPE", but="gateway"))
    assert "--symbols NOPE: not in the file, which has AAPL" in line


def test_an_option_that_nobody_knows_is_named(tmp_path: Path):
    assert "--speeed" in refused(*stack(tmp_path, "--speeed=3", but="gateway"))
    assert "--speeed=3 is unknown" in refused(*stack(tmp_path, "--speeed=3", but="triton"))
    assert "'nohost' is not host:port" in refused(*stack(tmp_path, "--gateway", "nohost", but="triton"))


def test_a_missing_model_is_named(tmp_path: Path):
    needs_triton()
    nowhere = tmp_path / "none"
    line = refused(*stack(tmp_path, "--model-repository", str(nowhere), but="triton"))
    assert f"no model repository at {nowhere}" in line
    repository = tmp_path / "repository"
    shutil.copytree(ROOT / "model_repository", repository)
    (repository / "lstm_cnn/1/model.onnx").unlink()
    line = refused(*stack(tmp_path, "--model-repository", str(repository), but="triton"))
    assert f"{repository}/lstm_cnn/1/model.onnx is missing: restore it" in line


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "build").touch()
    assert re.search(r"build/runs/\S+ cannot be made .* --build-dir", refused(*stack(tmp_path, but="triton")))


def test_a_missing_configuration_and_a_wrong_key_are_named(tmp_path: Path):
    missing = tmp_path / "none.toml"
    assert f"configuration {missing} does not exist" in refused(
        *stack(tmp_path, "--config", str(missing), but="")
    )
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[budget]\ntotal_mss = 50.0\n")
    line = refused(*stack(tmp_path, "--config", str(wrong), but=""))
    assert "total_mss" in line
    assert "total_ms" in line.replace("total_mss", "")


# --- servers on a port that is taken ----------------------------------------------------------------


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("server", ["gateway_simulator", "similarity_server", "triton_server", "journal"])
def test_a_port_in_use_is_named(server: str, taken_port: int, tmp_path: Path, reachable_tmp: Path):
    arguments: Sequence[str] = ["--port", str(taken_port)]
    if server == "triton_server":
        needs_triton()
        arguments = ["--grpc-port", str(taken_port), "--venv", str(TRITON_VENV)]
        arguments = [*arguments, "--model-repository", "model_repository"]
    elif server == "journal":
        arguments = ["serve", *arguments, "--data-dir", str(reachable_tmp / tmp_path.name)]
    line = refused(server, *arguments, database_url="")
    assert str(taken_port) in line
    assert "in use" in line
    assert "choose another" in line


# --- the strategy ---------------------------------------------------------------------------------


def strategy(folder: Path, settings: Mapping[str, object]) -> list[str]:
    given = {
        "gateway.host": "127.0.0.1",
        "gateway.port": 1,
        "gateway.connect_timeout_s": 1.0,
        "services.triton.target": NOWHERE,
        "services.similarity.target": "",
        "journal.spool_dir": folder / "spool",
        **settings,
    }
    command = ["strategy", "run", "--state-dir", str(folder / "state"), "--log-file", str(folder / "log")]
    return command + [f"--set={key}={value}" for key, value in given.items()]


def test_a_database_that_refuses_ends_the_start(tmp_path: Path, postgres_url: str):
    line = refused(*strategy(tmp_path, {}))
    assert "nothing listens at 127.0.0.1:1/there: start Postgres there or correct DATABASE_URL" in line
    wrong = re.sub(r":[^:@/]+@", ":secret@", postgres_url)
    assert "does not accept user or password" in refused(*strategy(tmp_path, {}), database_url=wrong)
    assert "correct DATABASE_URL" in refused(
        *strategy(tmp_path, {}), database_url=re.sub("/test_.*", "/no_such_database", postgres_url)
    )
    assert not list((tmp_path / "spool").glob("*"))


def test_a_gateway_that_is_not_there_ends_the_start(tmp_path: Path, postgres_url: str):
    line = refused(*strategy(tmp_path, {}), database_url=postgres_url)
    assert "no connection to the gateway: nothing answers at 127.0.0.1:1" in line
    assert "start IB Gateway" in line
    assert not list((tmp_path / "spool").glob("*"))


def test_a_control_port_in_use_ends_the_start(tmp_path: Path, postgres_url: str, taken_port: int):
    line = refused(
        *strategy(tmp_path, {"control.address": f"127.0.0.1:{taken_port}"}), database_url=postgres_url
    )
    assert f"port {taken_port} on 127.0.0.1 is in use" in line
    assert "control.address" in line


def test_an_unwritable_spool_ends_the_start(tmp_path: Path, postgres_url: str):
    (tmp_path / "file").touch()
    line = refused(
        *strategy(tmp_path, {"journal.spool_dir": tmp_path / "file/spool"}), database_url=postgres_url
    )
    assert f"the spool folder {tmp_path}/file/spool cannot be written" in line


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("voters.lstm_cnn.version", 2, "lstm_cnn.*version 2"),
        ("voters.lstm_cnn.artifact_sha256", "00" * 32, f"lstm_cnn.*{'a1' * 4}.*{'00' * 4}|{'00' * 4}.*{'a1' * 4}"),
        ("strategy.bar_size_s", 30, "bar_sizes_s|30"),
    ],
    ids=["version", "sha256", "bar size"],
)  # fmt: skip
async def test_a_model_that_is_not_the_agreed_one_ends_the_start(
    tmp_path: Path, postgres_url: str, key: str, value: object, said: str
):
    async with FakeTriton() as triton:
        settings = {"services.triton.target": triton.address, key: value}
        line = await asyncio.to_thread(refused, *strategy(tmp_path, settings), database_url=postgres_url)
    assert re.search(said, line)


async def test_an_unknown_symbol_ends_the_start(tmp_path: Path, postgres_url: str):
    ready = tmp_path / "gateway.json"
    gateway = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway_simulator", "--port", "0", "--ready-file", str(ready)),
        cwd=ROOT,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(60):
            while not ready.exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.05)
        port = re.findall(r"127\.0\.0\.1:(\d+)", ready.read_text())[0]
        settings = {"gateway.port": port, "gateway.connect_timeout_s": 10.0, "strategy.symbols": "ALFA,NOPE"}
        line = await asyncio.to_thread(refused, *strategy(tmp_path, settings), database_url=postgres_url)
    finally:
        gateway.terminate()
        await gateway.wait()
    assert "NOPE" in line
