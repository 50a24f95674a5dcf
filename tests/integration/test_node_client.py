"""The client in Node against the real Triton and the real similarity server."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fakes.fake_triton import FakeTriton
from served_models import ROOT
from tradeserve_client.descriptors import descriptor_set

EXAMPLE = ROOT / "clients" / "node_example"
_OLDEST_NODE = (20, 11)

pytestmark = pytest.mark.xdist_group("served models")


@pytest.fixture(scope="module")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example and its packages into a folder of this test's own."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node is not installed here")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, version.strip().removeprefix("v").split(".")[:2])) < _OLDEST_NODE:
        pytest.skip(f"Node {version.strip()} is too old: the example needs 20.11")
    folder = tmp_path_factory.mktemp("node") / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "*.binpb"))
    command = ["npm", "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100)
    if done.returncode:
        pytest.skip(f"the packages of the Node example can't be had here: {done.stderr.strip()[-200:]}")
    (folder / "kserve.binpb").write_bytes(descriptor_set())
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["node", "main.js", "--protos", str(ROOT / "protos"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def test_the_pinned_packages_are_the_locked_ones_and_name_no_registry() -> None:
    wanted = json.loads((EXAMPLE / "package.json").read_text())["dependencies"]
    lock: dict[str, Any] = json.loads((EXAMPLE / "package-lock.json").read_text())
    assert lock["packages"][""]["dependencies"] == wanted
    for name, version in wanted.items():
        assert lock["packages"][f"node_modules/{name}"]["version"] == version
    for name, package in lock["packages"].items():
        assert "resolved" not in package, name
        assert not name or package["integrity"].startswith("sha512-"), name


def test_node_asks_two_models_and_the_similarity_service(
    node_client: Path, real_triton: str, real_similarity: str
) -> None:
    servers = ("--triton", real_triton, "--similarity", real_similarity, "--timeout-ms", "20000")
    done = run(node_client, *servers, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert set(answer["probabilities"]) == {"lstm_cnn", "gaf_resnet"}
    for probabilities in answer["probabilities"].values():
        assert sum(probabilities) == pytest.approx(1, abs=1e-3)
    cosines = [neighbor["similarity"] for neighbor in answer["neighbors"]]
    assert len(cosines) == 5
    assert cosines == sorted(cosines, reverse=True)
    assert all(neighbor["symbol"] for neighbor in answer["neighbors"])
    text = run(node_client, *servers, "--count", "2").stdout
    assert text.startswith("lstm_cnn: down ")
    assert len(text.splitlines()) == 5


async def test_node_says_why_there_is_no_answer_and_lets_a_call_it_gave_up_run_to_its_end(
    node_client: Path,
) -> None:
    async with FakeTriton() as triton:
        for model in triton.models.values():
            model.delay_s = lambda: 1.0
        # Nothing is searched: any server to connect to will do.
        servers = ("--triton", triton.address, "--similarity", triton.address)
        late = await asyncio.to_thread(run, node_client, *servers, "--timeout-ms", "200")
    assert late.returncode == 1
    assert late.stdout == ""
    assert "DEADLINE_EXCEEDED: no answer by the deadline" in late.stderr
    # Triton crashes on calls that are cancelled or expire.
    assert [(model.calls, model.cancelled) for model in triton.models.values()] == [(1, 0), (1, 0)]


def test_node_names_what_is_wrong_with_its_command_line(node_client: Path) -> None:
    done = run(node_client, "--triton", "localhost:1")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --triton and --similarity are needed\nusage: ")
