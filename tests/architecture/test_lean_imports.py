"""What the strategy loads at run time stays small: no machine-learning framework, no data frames."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnx", "onnxruntime", "faiss", "vllm", "pandas", "pyarrow")


@pytest.mark.parametrize(
    "modules",
    [
        (
            "strategy.adapters.grpc_forecaster",
            "tradeserve_client.triton",
            "tradeserve_client.similarity",
            "tradeserve_client.search_stream",
            "tradeserve_client.fan_out",
            "tradeserve_client.blocking",
        ),
    ],
)
def test_the_strategys_calls_load_nothing_heavy(modules: tuple[str, ...]) -> None:
    code = f"import sys, {', '.join(modules)}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
