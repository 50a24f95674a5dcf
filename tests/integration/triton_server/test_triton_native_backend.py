"""NVIDIA's own C++ backend serves the same repository with the same answers; where it was built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triton_server.native_backend import main

ROOT = Path(__file__).resolve().parents[3]
BACKENDS = ROOT / "build" / "triton-backends"

pytestmark = pytest.mark.xdist_group("triton")


@pytest.mark.skipif(not BACKENDS.is_dir(), reason="NVIDIA's C++ backend is not built: make native-backend")
def test_both_backends_answer_the_same_on_the_repository_that_ships(serve: Callable[..., Any]) -> None:
    dice = np.random.default_rng(5)
    close = 100 * np.exp(np.cumsum(dice.normal(0, 1e-3, (3, 60)), axis=1))
    window = np.stack([close, close * 1.001, close * 0.999, close, dice.lognormal(8, 1, (3, 60))], 2)
    repository = ROOT / "model_repository"
    ours, native = serve(repository), serve(repository, "--backends", str(BACKENDS))
    for running in (ours, native):
        running.wait_ready()
    for model in ("lstm_cnn", "gaf_resnet"):
        expected, found = (
            running.infer(model, {"window": window.astype(np.float32)}) for running in (ours, native)
        )
        assert expected.keys() == found.keys()
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-5, err_msg=f"{model} {name}")


def test_what_can_not_be_fetched_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--venv", str(ROOT / "build" / "venv-triton"), "--out", str(out), "--work", str(tmp_path)]
    nowhere = f"{tmp_path}/nowhere/{{owner}}/{{name}}"
    monkeypatch.setattr("sys.argv", ["native_backend", *arguments, "--source", nowhere])
    assert main() == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "git -C" in said
    assert "nowhere/microsoft/onnxruntime" in said
    assert not out.exists()
