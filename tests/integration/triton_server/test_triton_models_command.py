"""`tradeserve models …` on a real Triton, as an operator types it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.xdist_group("triton")


@pytest.fixture
def models(times_triton: Any, times_repository: Path) -> Callable[..., tuple[int, str, str]]:
    def run(command: str, *arguments: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tradeserve_cli", "models", command, "times", *arguments),
                *("--triton", times_triton.ready["address"], "--model-repository", str(times_repository)),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_version_goes_from_a_file_to_every_client_and_back(
    models: Callable[..., tuple[int, str, str]],
    times_triton: Any,
    times_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    file = times_model(tmp_path / "second.onnx", 2)
    assert models("deploy", str(file))[:2] == (0, models_line(file, "deployed, not promoted"))
    windows, record = tmp_path / "x.npy", tmp_path / "answers.jsonl"
    np.save(windows, np.array([[1, 2], [3, 4], [-5, 6]], np.float32))
    shadow = ("--version", "2", "--inputs", str(windows))
    status, out, err = models("shadow", *shadow, "--record", str(record), "--json")
    assert status == 0, err
    compared = json.loads(out)
    assert (compared["live_version"], compared["shadow_version"], compared["questions"]) == (1, 2, 3)
    assert compared["max_abs_difference"] == {"y": 6.0}
    assert compared["same_class_share"] == 1.0
    assert compared["live_unanswered"] == compared["shadow_unanswered"] == 0
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["live"]["outputs"]["y"] for line in lines] == [[[1, 2]], [[3, 4]], [[-5, 6]]]
    assert [line["shadow"]["outputs"]["y"] for line in lines] == [[[2, 4]], [[6, 8]], [[-10, 12]]]
    assert models("shadow", *shadow, "--max-difference", "0.5")[0] == 1
    assert models("shadow", *shadow, "--max-difference", "10")[0] == 0
    assert "strategies try version 2 beside theirs" in models("shadow", "--version", "2", "--live")[1]
    assert models("shadow", "--version", "1", "--off")[::2] == (
        2,
        "error: --off: version 1 is not tried live, version 2 is\n",
    )
    assert "no version is tried" in models("shadow", "--off")[1]
    assert "5% of unpinned calls" in models("canary", "--version", "2", "--share", "0.05")[1]

    status, out, err = models("promote", "--version", "2", "--json")
    assert status == 0, err
    assert json.loads(out)["version"] == 2
    assert "version 1" in models("rollback")[1]
    assert models("promote", "--version", "2")[0] == 0
    assert "version 1 retired" in models("retire", "--version", "1")[1]
    assert times_triton.infer("times", {"x": np.ones((1, 2), np.float32)})["y"].tolist() == [[2, 2]]


def models_line(file: Path, state: str) -> str:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return f"times version 2 ({digest[:12]}…) {state}; loaded: 1, 2\n"


def test_what_can_not_be_done_is_one_line_and_a_status(
    models: Callable[..., tuple[int, str, str]], times_model: Callable[..., Path], tmp_path: Path
) -> None:
    wrong = times_model(tmp_path / "wrong.onnx", 2, columns=3)
    status, out, err = models("deploy", str(wrong))
    assert (status, out) == (1, "")
    assert "dims [-1, 2]" in err
    assert err.count("\n") == 1
    status, _, err = models("promote", "--version", "9")
    assert (status, err) == (2, "error: times: version 9 is not deployed; deployed: 1\n")
    status, _, err = models("shadow", "--version", "1", "--random", "3")
    assert status == 2
    assert "give a deployed version that is not promoted" in err
    assert models("shadow", "--random", "3")[2].startswith("error: --version N is missing")
    assert "must be deployed and not promoted" in models("shadow", "--version", "1", "--live")[2]
    status, _, err = models("deploy", str(tmp_path / "absent.onnx"))
    assert status == 2
    assert "absent.onnx: can't be copied" in err
