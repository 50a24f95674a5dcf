"""Find the tritonserver that the nvidia-pytriton wheel brought into its own environment."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from triton_server import UnusableInput

_ELSEWHERE = "use a Triton that runs elsewhere: `make run TRITON=host:port`, or `--triton host:port` of the local stack"
_MIN_GLIBC = (2, 35)
_BACKEND_SOURCE = Path(__file__).with_name("onnxruntime_backend.py")
# Asked of the environment's own interpreter, which need not be the one that runs the launcher.
_DESCRIBE = """
import ctypes, json, sys, sysconfig
version = f"{sys.version_info[0]}.{sys.version_info[1]}"
directory = sysconfig.get_config_var("LIBDIR") or ""
name = f"libpython{version}.so.1.0"
found = False
for candidate in (f"{directory}/{name}", name):
    try:
        ctypes.CDLL(candidate)
        found = True
        break
    except OSError:
        pass
print(json.dumps({"version": version, "packages": sysconfig.get_path("purelib"),
                  "library_directory": directory, "library": name, "library_found": found}))
"""


@dataclass(frozen=True, slots=True)
class Installation:
    """Where Triton's parts lie.

    Attributes:
        venv: The environment that the stub processes live in.
        python_version: Its interpreter, e.g. "3.11": each has a stub of its own.
        packages: Its site-packages.
        library_directory: Where that interpreter's libpython lies.
    """

    venv: Path
    python_version: str
    packages: Path
    library_directory: Path

    @property
    def _root(self) -> Path:
        return self.packages / "pytriton" / "tritonserver"

    @property
    def server(self) -> Path:
        """The tritonserver program."""
        return self._root / "bin" / "tritonserver"

    @property
    def caches(self) -> Path:
        """The folder of cache implementations."""
        return self._root / "caches"

    @property
    def _backend_files(self) -> tuple[Path, ...]:
        backend = self._root / "backends" / "python"
        stubs = self._root / "python_backend_stubs"
        return (
            backend / "libtriton_python.so",
            backend / "triton_python_backend_utils.py",
            stubs / self.python_version / "triton_python_backend_stub",
        )

    def missing_files(self) -> list[Path]:
        """List what a whole installation has and this one has not."""
        return [path for path in (self.server, *self._backend_files) if not path.is_file()]

    def copy_backends(self, directory: Path, own: Path | None = None) -> None:
        """Lay out a backend directory: real copies, because Triton refuses links that lead out of it.

        Args:
            directory: Where to; made here.
            own: A folder of the caller's backends, each in a folder of its name; one that is called
                "onnxruntime" takes the place of ours.
        """
        if own is not None:
            shutil.copytree(own, directory)
        python = directory / "python"
        python.mkdir(parents=True, exist_ok=True)
        for source in self._backend_files:
            shutil.copy2(source, python / source.name)
        (python / "triton_python_backend_stub").chmod(0o755)
        onnxruntime = directory / "onnxruntime"
        if not onnxruntime.exists():
            onnxruntime.mkdir()
            shutil.copy2(_BACKEND_SOURCE, onnxruntime / "model.py")

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Give the variables of the server: the stub finds its libpython and its packages through them."""
        libraries = [str(self.packages / "nvidia_pytriton.libs"), str(self.library_directory)]
        kept = {key: value for key, value in base.items() if key not in {"PYTHONPATH", "PYTHONHOME"}}
        return kept | {
            # Since 1.29 onnxruntime sends telemetry unless told not to; the pin is older, this outlives it.
            "ORT_DISABLE_TELEMETRY": "1",
            "VIRTUAL_ENV": str(self.venv),
            "PATH": os.pathsep.join(filter(None, [str(self.venv / "bin"), base.get("PATH", "")])),
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [*libraries, base.get("LD_LIBRARY_PATH", "")])),
        }


def unavailable_reason() -> str | None:
    """Say why the local Triton can't run on this machine, and what to use instead; None when it can."""
    machine = platform.machine().lower()
    if sys.platform != "linux" or machine not in {"x86_64", "amd64"}:
        found = f"{platform.system() or sys.platform} on {machine or 'an unknown processor'}"
        return f"the local Triton runs on Linux x86-64 only and this is {found}; {_ELSEWHERE}"
    library, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if library != "glibc" or numbers < _MIN_GLIBC:
        found = f"{library or 'another C library'} {version}".strip()
        return f"the local Triton needs glibc 2.35 or newer and this machine has {found}; {_ELSEWHERE}"
    return None


def find_installation(venv: Path) -> Installation:
    """Look into an environment for a whole Triton.

    Raises:
        UnusableInput: The environment is missing, or incomplete.
    """
    python = venv.absolute() / "bin" / "python"
    if not python.exists():
        raise UnusableInput(f"no Triton environment in {venv}: run `make setup`")
    try:
        answer = subprocess.run(
            [str(python), "-I", "-c", _DESCRIBE], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as e:
        raise UnusableInput(f"{python} doesn't run ({e}): delete {venv} and run `make setup`") from e
    described = json.loads(answer.stdout)
    installation = Installation(
        venv=venv.absolute(),
        python_version=described["version"],
        packages=Path(described["packages"]),
        library_directory=Path(described["library_directory"]),
    )
    if missing := installation.missing_files():
        raise UnusableInput(f"{venv} has no {missing[0].name}: delete it and run `make setup`")
    if not described["library_found"]:
        name = described["library"]
        raise UnusableInput(
            f"the Python of {venv} comes without {name}, which Triton loads: install it (on Debian and Ubuntu "
            f"`apt-get install libpython{installation.python_version}`), or delete {venv} and run "
            "`make setup PYTHON=…` with a Python built with a shared library, as uv's and conda's are"
        )
    return installation
