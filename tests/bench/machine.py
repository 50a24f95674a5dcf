"""The machine that a benchmark ran on, and how busy it was."""

from __future__ import annotations

import gc
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("grpcio", "numpy", "onnxruntime", "faiss-cpu", "ib_insync")


def describe() -> dict[str, Any]:
    """Return what absolute times depend on, with the load average of the moment."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "triton_backend": triton_backend(),
    }


def triton_backend() -> str:
    """Return which onnxruntime backend the Triton that is started here serves models with."""
    own = os.environ.get("TRITON_BACKENDS")
    if own and (Path(own) / "onnxruntime" / "libtriton_onnxruntime.so").is_file():
        return "NVIDIA's C++ onnxruntime backend"
    return "our Python-based onnxruntime backend"


def calm_the_garbage_collector() -> None:
    """Set the garbage collector as the strategy does."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
