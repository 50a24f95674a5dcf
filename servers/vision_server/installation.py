"""Find vLLM: in this environment, or in one of its own, where this program then goes on."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from server_runtime.errors import StartError

DEFAULT_VENV = Path("build/venv-vllm")
_MAKE = "make venv-vllm"
_ELSEWHERE = "or read charts with a vLLM that runs elsewhere: --api-url http://host:port"
_ENTERED = "VISION_SERVER_IN_VENV"


def is_installed(venv: Path) -> bool:
    """Return whether an environment was built to its end."""
    return (venv / "bin" / "python").exists() and (venv / ".installed").exists()


def enter(venv: Path, arguments: Sequence[str]) -> None:
    """Return when vLLM can be imported here; else go on as the same process in its environment.

    Args:
        venv: Of vLLM.
        arguments: Of this command line.

    Raises:
        StartError: It is missing, incomplete or does not run.
    """
    if importlib.util.find_spec("vllm") is not None:
        return
    python = venv.absolute() / "bin" / "python"
    if os.environ.get(_ENTERED):
        raise StartError(f"{venv} has no vLLM: delete it and run `{_MAKE}`, {_ELSEWHERE}", 2)
    if not is_installed(venv):
        raise StartError(f"no environment of vLLM in {venv}: run `{_MAKE}` (2.5 GB), {_ELSEWHERE}", 2)
    check = subprocess.run(
        [str(python), "-c", "import vision_server.__main__"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if check.returncode:
        why = (check.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise StartError(f"{python} does not run this server ({why}): delete {venv} and run `{_MAKE}`", 2)
    os.environ[_ENTERED] = "1"
    sys.stdout.flush()
    sys.stderr.flush()
    # The same process: whoever started this server knows its id, and signals it.
    os.execv(str(python), [str(python), "-m", "vision_server", *arguments])  # noqa: S606 - our own list
