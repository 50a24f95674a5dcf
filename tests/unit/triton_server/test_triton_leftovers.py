import os
import subprocess
import sys
from pathlib import Path

import pytest

from triton_server.leftovers import make_directory, own_prefix, sweep_dead, sweep_own


@pytest.fixture
def shared_memory(tmp_path: Path) -> Path:
    folder = tmp_path / "shm"
    folder.mkdir()
    return folder


def _prefix_of_a_dead_process() -> str:
    code = "from triton_server.leftovers import own_prefix; print(own_prefix())"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_prefix_names_its_owner_and_stays_the_same() -> None:
    assert f"_{os.getpid()}_" in own_prefix()
    assert own_prefix() == own_prefix()


def test_what_dead_owners_left_is_swept_and_the_rest_is_kept(tmp_path: Path, shared_memory: Path) -> None:
    temporary = tmp_path / "tmp"
    dead = _prefix_of_a_dead_process()
    (temporary / f"{dead}abc" / "backends").mkdir(parents=True)
    (shared_memory / f"{dead}region").touch()
    kept = [shared_memory / f"{own_prefix()}region", shared_memory / "psm_of_another_program"]
    for path in kept:
        path.touch()
    assert sorted(sweep_dead(shared_memory, temporary)) == sorted([f"{dead}abc", f"{dead}region"])
    assert sorted(shared_memory.iterdir()) == sorted(kept)
    assert list(temporary.iterdir()) == []


def test_a_recycled_pid_does_not_pass_for_the_owner(shared_memory: Path) -> None:
    start = own_prefix().split("_")[3]
    (shared_memory / own_prefix().replace(f"_{start}_", f"_{int(start) - 1}_")).touch()
    assert len(sweep_dead(shared_memory, shared_memory)) == 1


def test_the_own_regions_are_swept_alone(shared_memory: Path) -> None:
    other = shared_memory / "tradeserve_triton_1_1_region"
    other.touch()
    (shared_memory / f"{own_prefix()}region").touch()
    assert sweep_own(shared_memory) == [f"{own_prefix()}region"]
    assert other.exists()


def test_a_machine_without_shared_memory_has_nothing_to_sweep(tmp_path: Path) -> None:
    assert sweep_dead(tmp_path / "none", tmp_path / "none") == []


def test_a_new_folder_carries_the_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert make_directory().name.startswith(own_prefix())
