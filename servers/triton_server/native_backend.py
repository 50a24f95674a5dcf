"""Build NVIDIA's own C++ onnxruntime backend for the local Triton: `make native-backend`.

The pip Triton comes with the Python backend only, so a call to a model goes through a process of its own.
This fetches NVIDIA's sources of the same release, compiles them against the ONNX Runtime that Triton's
environment has (CPU only), and leaves a folder for `--backends`. Needs git, g++ and a way to GitHub.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from triton_server import TritonServerError, UnusableInput
from triton_server.installation import find_installation

__all__ = ["main"]

GITHUB = "https://github.com/{owner}/{name}.git"
_HEADERS = "include/onnxruntime/core/session"
_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Source:
    """A commit of a public repository.

    Attributes:
        owner: On GitHub.
        name: On GitHub.
        ref: Commit, or a tag.
        only: The one folder that is wanted; empty for all.
    """

    owner: str
    name: str
    ref: str
    only: str = ""


# Triton's four: their branch r24.10, the release of the server in the wheel (2.51).
_TRITON = (
    Source("triton-inference-server", "onnxruntime_backend", "17e5cb23a6fbeb37282eb7079dd0b580cd79530d"),
    Source("triton-inference-server", "backend", "ac03a5d97403dec841ad46d0439e93db12c9268f"),
    Source("triton-inference-server", "core", "bfec7c61dc0939433f64f14e89b1973073eac8ba"),
    Source("triton-inference-server", "common", "578491fc3944f77d16a6a38e3d7691c485c47ba0"),
)
_RAPIDJSON = Source("Tencent", "rapidjson", "24b5e7a8b27f42fa16b96fc70aade9106cf7102f", "include")


def main() -> int:
    """Build what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m triton_server.native_backend", description=__doc__)
    parser.add_argument("--venv", type=Path, required=True, help="Triton's environment (build/venv-triton)")
    parser.add_argument("--out", type=Path, required=True, help="where the folder of backends goes")
    parser.add_argument("--work", type=Path, required=True, help="where sources are kept")
    parser.add_argument("--source", default=GITHUB, help="URL or path of a repository (%(default)s)")
    parser.add_argument(
        "--onnxruntime-headers", type=Path, help="folder of onnxruntime_c_api.h, when it is here already"
    )
    arguments = parser.parse_args()
    try:
        built = _build(
            arguments.venv, arguments.out, arguments.work, arguments.source, arguments.onnxruntime_headers
        )
    except TritonServerError as e:
        print("error:", e, file=sys.stderr)
        return e.exit_code
    print(f"native backend: {built}; `make run`, `make bench` and `make loadtest` use it from now on")
    return 0


def _build(venv: Path, out: Path, work: Path, source: str, headers: Path | None) -> Path:
    for tool in ("git", "g++"):
        if shutil.which(tool) is None:
            raise UnusableInput(f"{tool} is not installed; it is needed to build the native backend")
    library = _onnxruntime_library(find_installation(venv).packages)
    version = library.name.partition(".so.")[2]
    if headers is None:
        wanted = Source("microsoft", "onnxruntime", f"v{version}", _HEADERS)
        headers = _fetched(wanted, work, source) / _HEADERS
    if not (headers / "onnxruntime_c_api.h").is_file():
        raise UnusableInput(f"{headers} has no onnxruntime_c_api.h")
    roots = {one.name: _fetched(one, work, source) for one in (*_TRITON, _RAPIDJSON)}
    sources = [
        *(path for name in ("backend", "onnxruntime_backend") for path in (roots[name] / "src").glob("*.cc")),
        *(roots["common"] / "src" / f"{name}.cc" for name in ("async_work_queue", "error", "thread_pool")),
    ]
    # Watches CUDA's allocations: the file compiles with CUDA only.
    sources = [path for path in sources if path.name != "device_memory_tracker.cc"]
    folders = [headers, roots["onnxruntime_backend"] / "src"]
    folders += [roots[name] / "include" for name in ("backend", "core", "common", "rapidjson")]
    objects = work / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    flags = [
        "-std=c++17",
        "-O3",
        "-fPIC",
        "-w",
        "-DTRITON_ENABLE_STATS=1",
        *(f"-I{path}" for path in folders),
    ]

    def compiled(path: Path) -> Path:
        target = objects / f"{path.parents[1].name}.{path.stem}.o"
        _run("g++", *flags, "-c", str(path), "-o", str(target))
        return target

    with ThreadPoolExecutor() as pool:
        made = list(pool.map(compiled, sources))
    return _linked(made, library, roots["onnxruntime_backend"], out)


def _onnxruntime_library(packages: Path) -> Path:
    found = sorted((packages / "onnxruntime" / "capi").glob("libonnxruntime.so.*.*.*"))
    if not found:
        raise UnusableInput(
            f"{packages} has no onnxruntime library: delete the environment and run `make setup`"
        )
    return found[-1]


def _fetched(source: Source, work: Path, template: str) -> Path:
    """Return a work tree of one commit; what is there already is not fetched again."""
    folder = work / f"{source.name}-{source.ref}"
    if (folder / ".whole").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"native backend: fetching {source.owner}/{source.name} at {source.ref}", flush=True)
    git = ("git", "-C", str(folder))
    _run(*git, "init", "--quiet")
    _run(*git, "remote", "add", "origin", template.format(owner=source.owner, name=source.name))
    if source.only:
        _run(*git, "sparse-checkout", "set", source.only)
    _run(*git, "fetch", "--quiet", "--depth=1", "--filter=blob:none", "origin", source.ref)
    _run(*git, "checkout", "--quiet", "FETCH_HEAD")
    (folder / ".whole").touch()
    return folder


def _linked(objects: list[Path], library: Path, backend: Path, out: Path) -> Path:
    """Link the backend beside a copy of the ONNX Runtime that it looks for in its own folder."""
    partial = out / ".onnxruntime"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copy2(library, partial / "libonnxruntime.so.1")
    shutil.copy2(backend / "LICENSE", partial / "LICENSE")
    script = backend / "src" / "libtriton_onnxruntime.ldscript"
    _run(
        *("g++", "-shared", "-static-libstdc++", "-static-libgcc", f"-Wl,--version-script={script}"),
        *("-Wl,-rpath,$ORIGIN", "-o", str(partial / "libtriton_onnxruntime.so"), *map(str, objects)),
        str(partial / "libonnxruntime.so.1"),
    )
    folder = out / "onnxruntime"
    shutil.rmtree(folder, ignore_errors=True)
    return partial.rename(folder)


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as e:
        raise TritonServerError(f"`{' '.join(command[:4])} …` took longer than {_TIMEOUT_S} s") from e
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        told = next((line for line in lines if "error" in line or "fatal" in line), lines[-1])
        raise TritonServerError(f"`{' '.join(command[:4])} …` failed: {told}")


if __name__ == "__main__":
    sys.exit(main())
