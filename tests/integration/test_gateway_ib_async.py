"""The same suite under ib_async, which installs the same package as ib_insync does and so lives apart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LIBRARY = REPOSITORY / "build" / "ib_async"


@pytest.mark.timeout(300)
def test_ib_async_passes_what_ib_insync_passes() -> None:
    if not (LIBRARY / "ib_async").is_dir():
        pytest.skip(
            f"needs ib_async in {LIBRARY.relative_to(REPOSITORY)}: pip install --no-deps --target build/ib_async "
            "-r tests/integration/ib_async-requirements.txt"
        )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(LIBRARY), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "TRADESERVE_IB_LIBRARY": "ib_async",
    }
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "tests/integration/test_gateway_client.py"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
