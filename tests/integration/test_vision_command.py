"""The vision server's command line: what keeps it from starting is one line that says what to do."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vision_server.checkpoint import PACKAGED


def run(*arguments: object, cwd: Path | None = None) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "vision_server", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=cwd, check=False)
    return done.returncode, done.stdout, done.stderr


def one_line(error: str) -> str:
    assert error.startswith("error: "), error
    assert error.count("\n") == 1, error
    return error


def test_help_tells_both_ways_to_vllm() -> None:
    status, out, _ = run("--help")
    assert status == 0
    for part in (
        "--api-url",
        "--checkpoint",
        "make venv-vllm",
        "VISION_API_KEY",
        "--max-waiting",
        "--ready-file",
    ):
        assert part in out


def test_a_missing_environment_is_named_with_the_ways_to_go_on(tmp_path: Path) -> None:
    status, _, error = run("--venv", tmp_path / "none")
    assert status == 2
    for part in ("no environment of vLLM", "make venv-vllm", "--api-url"):
        assert part in one_line(error)


def test_an_environment_that_was_not_built_to_its_end_is_no_environment(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    status, _, error = run("--venv", tmp_path)
    assert status == 2
    assert "no environment of vLLM" in one_line(error)


def test_a_checkpoint_that_is_missing_or_corrupt_is_named(tmp_path: Path) -> None:
    assert "can't be read" in one_line(run("--checkpoint", tmp_path / "none")[2])
    shutil.copytree(PACKAGED, tmp_path / "copy")
    with (tmp_path / "copy" / "model.safetensors").open("r+b") as weights:
        weights.seek(1000)
        weights.write(b"\xff\x00\xff\x00")
    status, _, error = run("--checkpoint", tmp_path / "copy")
    assert status == 2
    assert "model.safetensors is corrupt" in one_line(error)


def test_an_api_that_is_unreachable_is_named() -> None:
    status, _, error = run("--api-url", "http://127.0.0.1:1", "--api-wait-s", "0")
    assert status == 1
    assert "http://127.0.0.1:1 is unreachable" in one_line(error)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--api-url", "nonsense"), "--api-url"),
        (("--engine-args", "[1]"), "no JSON object"),
        (("--max-running", "0"), "no count"),
        (("--max-side-px", "5000"), "no size"),
        (("--reading-lifetime-s", "x"), "out of range"),
        (("--nice", "20"), "no niceness"),
        (("--tls-key", "x"), "come together"),
    ],
)
def test_options_that_cannot_be_are_named(arguments: tuple[str, ...], words: str) -> None:
    status, _, error = run(*arguments)
    assert status == 2
    assert words in one_line(error)


def test_a_port_in_use_is_found_before_the_model_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, _, error = run("--port", port, "--api-url", "http://127.0.0.1:1", "--api-wait-s", "0")
    assert status == 2
    assert f"{port}" in one_line(error)
