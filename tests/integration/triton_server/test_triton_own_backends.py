"""Backends of the user's own, beside ours or in place of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.xdist_group("triton")

X = np.array([[1, 2], [3, 4]], np.float32)
CONFIG = """
backend: "BACKEND"
max_batch_size: 16
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
instance_group [ { kind: KIND_CPU count: 1 } ]
"""
ECHO = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        x = [pb_utils.get_input_tensor_by_name(request, "x") for request in requests]
        y = [pb_utils.Tensor.from_dlpack("y", tensor.to_dlpack()) for tensor in x]
        return [pb_utils.InferenceResponse([tensor]) for tensor in y]
"""


@pytest.mark.parametrize("name", ["echo", "onnxruntime"])
def test_a_backend_of_the_users_own_is_served(start: Any, tmp_path: Path, name: str) -> None:
    backends = tmp_path / "backends"
    (backends / name).mkdir(parents=True)
    (backends / name / "model.py").write_text(ECHO)
    launcher = start("--backends", str(backends), config=CONFIG.replace("BACKEND", name))
    launcher.wait_ready()
    np.testing.assert_array_equal(launcher.infer("affine", {"x": X})["y"], X)


def test_a_folder_without_backends_ends_the_start(start: Any, tmp_path: Path) -> None:
    launcher = start("--backends", str(tmp_path / "nowhere"))
    launcher.process.wait(30)
    status, said = launcher.stop()
    assert status != 0
    assert "nowhere holds no backend: name the folder above" in said
