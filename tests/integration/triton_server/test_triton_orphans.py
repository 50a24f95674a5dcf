"""A stub whose server and launcher were killed while it loaded waits for ever: a later launcher ends it."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

from triton_server.leftovers import make_directory, sweep_dead


def _run_from(folder: Path) -> subprocess.Popen[bytes]:
    program = shutil.copy2("/bin/sleep", folder / "stub")
    return subprocess.Popen([program, "100"])


def test_a_stub_of_a_dead_launcher_is_ended_and_one_of_a_living_launcher_is_not(tmp_path: Path) -> None:
    ended = subprocess.Popen(["/bin/true"])
    ended.wait()
    dead = tmp_path / f"tradeserve_triton_{ended.pid}_1_x" / "backends"
    dead.mkdir(parents=True)
    own = make_directory()
    orphan, living = _run_from(dead), _run_from(own)
    try:
        sweep_dead(shared_memory=tmp_path / "none", temporary=tmp_path)
        assert orphan.wait(10) == -signal.SIGKILL
        assert living.poll() is None
        assert not dead.exists()
        assert own.exists()
        assert str(os.getpid()) in own.name
    finally:
        for process in (orphan, living):
            process.kill()
            process.wait()
        shutil.rmtree(own)
