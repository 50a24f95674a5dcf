"""Real servers on the shipped models and index, one start for a session: import the fixtures in a conftest.py."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.waiting import wait_for_file

ROOT = Path(__file__).parents[1]
MODELS = ("lstm_cnn", "gaf_resnet")


@contextlib.contextmanager
def triton_on(repository: Path, folder: Path) -> Iterator[str]:
    """Start the local Triton on a model repository; give the address it serves on.

    Args:
        repository: What it loads.
        folder: For its logs and its ready file.
    """
    venv = ROOT / "build" / "venv-triton"
    if not (venv / "bin" / "python").exists():
        pytest.skip("the local Triton is not installed here: `make setup` builds build/venv-triton")
    if not all((repository / model / "config.pbtxt").exists() for model in MODELS):
        pytest.skip("model_repository holds no models: `make models` trains and exports them")
    ready, log = folder / "ready.json", folder / "triton.log"
    command = [sys.executable, "-m", "triton_server", "--model-repository", str(repository)]
    command += ["--venv", str(venv), "--ready-file", str(ready), "--log-file", str(log)]
    with (folder / "launcher.log").open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=os.environ)
    try:
        wait_for_file(ready, process, timeout_s=90)
        yield json.loads(ready.read_text())["address"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="session")
def real_triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start the local Triton on the shipped models once; the address it serves on."""
    with triton_on(ROOT / "model_repository", tmp_path_factory.mktemp("triton")) as address:
        yield address


@pytest.fixture(scope="session")
def real_similarity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start the similarity server on the shipped index once; the address it serves on."""
    if importlib.util.find_spec("faiss") is None:
        pytest.skip("FAISS is not installed here: `make setup EXTRAS=cpu,dev` installs it")
    folder = tmp_path_factory.mktemp("similarity")
    ready = folder / "ready.json"
    command = [sys.executable, "-m", "similarity_server", "--ready-file", str(ready)]
    with (folder / "server.log").open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=os.environ)
    try:
        wait_for_file(ready, process, timeout_s=60)
        yield json.loads(ready.read_text())["address"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
