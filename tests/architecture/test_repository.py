"""What may be in the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FILE_BYTES = 4_000_000
# The chart reader's weights, which vLLM loads as one file.
MAX_CHECKPOINT_BYTES = 10_000_000
# Assembled, so that this file does not contain what it looks for.
FORBIDDEN = re.compile(
    "|".join(["/" + "work/", "/" + "root/", "/opt/" + "(wheels|pypi)", "files.pytho" + "nhosted"])
)


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: what is tracked can't be told")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_no_file_names_a_path_of_one_machine_or_a_package_registry() -> None:
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found = FORBIDDEN.search(text)
        assert found is None, f"{path.relative_to(ROOT)} contains {found.group(0) if found else ''}"


def test_the_constraints_hold_names_and_versions_only() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[a-z0-9._-]+==[^ /@]+( ; .+)?", line), line


def test_no_file_is_larger_than_a_few_megabytes() -> None:
    large = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.stat().st_size > (MAX_CHECKPOINT_BYTES if path.suffix == ".safetensors" else MAX_FILE_BYTES)
    ]
    assert not large


def test_the_top_level_is_the_architecture() -> None:
    folders = {path.relative_to(ROOT).parts[0] for path in tracked() if len(path.relative_to(ROOT).parts) > 1}
    known = {
        "protos",
        "servers",
        "clients",
        "model_repository",
        "export",
        "db",
        "deploy",
        "tests",
        "docs",
        ".ci",
    }
    assert folders <= known
