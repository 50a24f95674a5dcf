"""Versions of a model deployed, promoted, rolled back and retired in a real Triton under constant load."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tradeserve_client.answers import Answer, NoAnswer
from tradeserve_client.errors import CallError
from tradeserve_client.model_control import ModelControl
from tradeserve_client.model_repository import RepositoryError
from tradeserve_client.triton import TritonClient

pytestmark = pytest.mark.xdist_group("triton")

MODEL = "times"

WriteModel = Callable[..., Path]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def repository(times_repository: Path) -> Path:
    return times_repository


@pytest.fixture
def launcher(times_triton: Any) -> Any:
    return times_triton


@pytest.fixture
async def control(launcher: Any, repository: Path) -> AsyncIterator[ModelControl]:
    client = TritonClient(launcher.ready["address"])
    yield ModelControl(client, repository)
    await client.close()


@dataclass
class Load:
    """Clients that never stop; every answer has to be the one of the version that it names."""

    client: TritonClient
    answered: Counter[tuple[int, int]] = field(default_factory=Counter)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    problems: list[str] = field(default_factory=list)
    stopping: bool = False

    async def call(self, version: int) -> None:
        x = np.random.default_rng().normal(size=(1, 2)).astype(np.float32)
        outcome = await self.client.infer(MODEL, {"x": x}, budget=10.0, version=version)
        if isinstance(outcome, NoAnswer):
            self.problems.append(f"version {version}: {outcome.reason}: {outcome.detail}")
            return
        served = outcome.value.model_version
        self.answered[version, served] += 1
        if not np.array_equal(outcome.value.outputs["y"], x * served):
            self.problems.append(f"version {served} gave another version's numbers")
        if version and served != version:
            self.problems.append(f"version {served} answered for version {version}")

    async def loop(self, version: int) -> None:
        while not self.stopping:
            await self.call(version)
            self.news.set()

    async def until_answers(self, version: int, served: int) -> None:
        before = self.answered[version, served]
        async with asyncio.timeout(20):
            while self.answered[version, served] < before + 5 and not self.problems:
                self.news.clear()
                await self.news.wait()


@asynccontextmanager
async def load_on(address: str) -> AsyncIterator[Load]:
    """Ask for the promoted version and for version 1, four calls at a time each."""
    client = TritonClient(address, recheck_s=0.1)
    load = Load(client)
    tasks = [asyncio.create_task(load.loop(version)) for version in (0, 0, 0, 0, 1, 1, 1, 1)]
    try:
        yield load
        load.stopping = True
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()


async def test_no_request_is_lost_or_wrong_while_versions_change_under_load(
    launcher: Any, control: ModelControl, tmp_path: Path, times_model: WriteModel
) -> None:
    second = times_model(tmp_path / "second.onnx", 2)
    async with load_on(launcher.ready["address"]) as load:
        await load.until_answers(0, 1)
        deployed = await control.deploy(MODEL, second)
        assert (deployed.contract.version, deployed.artifact_sha256) == (2, _sha256(second))
        await load.until_answers(0, 1)
        assert load.answered[0, 2] == 0, "a version that was not promoted answered"

        promoted = await control.promote(MODEL, 2)
        assert (promoted.version, promoted.artifact_sha256) == (2, _sha256(second))
        await load.until_answers(0, 2)
        await load.until_answers(1, 1)  # who pinned the old one keeps it

        back = await control.rollback(MODEL)
        assert back.version == 1
        await load.until_answers(0, 1)
        await control.promote(MODEL, 2)
        await load.until_answers(0, 2)
    assert load.problems == []
    assert sum(load.answered.values()) > 100


async def test_a_canary_answers_its_share_of_those_who_pin_nothing_until_it_is_promoted(
    launcher: Any, control: ModelControl, tmp_path: Path, times_model: WriteModel
) -> None:
    second = times_model(tmp_path / "second.onnx", 2)
    await control.deploy(MODEL, second)
    await control.canary(MODEL, 2, 0.5)
    async with load_on(launcher.ready["address"]) as load:
        await load.until_answers(0, 2)
        await load.until_answers(0, 1)
        await load.until_answers(1, 1)
        assert load.answered[1, 2] == 0
        await control.canary(MODEL, 2, 0)
        assert (await control.client.contract(MODEL, timeout_s=10)).parameters["canary_version"] == "0"
    assert load.problems == []
    with pytest.raises(RepositoryError, match="must be deployed and not promoted"):
        await control.canary(MODEL, 1, 0.1)
    await control.canary(MODEL, 2, 0.1)
    contract = await control.promote(MODEL, 2)
    assert (contract.version, contract.parameters["canary_version"]) == (2, "0")


async def test_a_version_is_tried_live_until_that_ends_or_it_is_promoted_or_retired(
    control: ModelControl, repository: Path, tmp_path: Path, times_model: WriteModel
) -> None:
    async def announced() -> str:
        contract = await control.client.contract(MODEL, timeout_s=10)
        return contract.parameters.get("shadow_version", "")

    second = times_model(tmp_path / "second.onnx", 2)
    with pytest.raises(RepositoryError, match="must be deployed and not promoted"):
        await control.shadow(MODEL, 2)
    await control.deploy(MODEL, second)
    assert (await control.shadow(MODEL, 2)).version == 1
    assert await announced() == "2"
    config = repository / MODEL / "config.pbtxt"
    written = config.stat().st_mtime_ns
    await control.shadow(MODEL, 2)
    assert config.stat().st_mtime_ns == written, "what is so already is not loaded again"
    await control.shadow(MODEL, 0)
    assert await announced() == "0"
    await control.shadow(MODEL, 2)
    await control.promote(MODEL, 2)
    assert await announced() == "0"
    with pytest.raises(RepositoryError, match="must be deployed and not promoted"):
        await control.shadow(MODEL, 2)
    await control.shadow(MODEL, 1)
    await control.retire(MODEL, 1)
    assert await announced() == "0"


async def test_a_retired_version_is_gone_for_good_and_the_watchdog_does_not_miss_it(
    launcher: Any, control: ModelControl, tmp_path: Path, times_model: WriteModel
) -> None:
    await control.deploy(MODEL, times_model(tmp_path / "second.onnx", 2))
    await control.promote(MODEL, 2)
    await control.retire(MODEL, 1)
    contract = await control.client.contract(MODEL, timeout_s=10)
    assert contract.versions == (2,)
    for _ in range(400):  # Triton ends those of the versions before in its own time
        before = launcher.stub_pids()
        if len(before) == 1:
            break
        await asyncio.sleep(0.05)
    end = time.monotonic() + 2  # ten rounds of probes
    while time.monotonic() < end:
        outcome = await control.client.infer(MODEL, {"x": np.ones((1, 2), np.float32)}, budget=10.0)
        assert isinstance(outcome, Answer)
        assert outcome.value.model_version == 2
    assert launcher.stub_pids() == before
    with pytest.raises(RepositoryError, match="nothing was promoted before"):
        await control.rollback(MODEL)
    code, log = launcher.stop()
    assert code == 0
    assert "reloaded" not in log


async def test_a_killed_server_comes_back_with_what_was_promoted(
    launcher: Any, control: ModelControl, tmp_path: Path, times_model: WriteModel
) -> None:
    second = times_model(tmp_path / "second.onnx", 2)
    await control.deploy(MODEL, second)
    await control.promote(MODEL, 2)
    pid = launcher.ready["server_pid"]
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(30):
        while launcher.ready["server_pid"] == pid or not await control.client.is_server_ready(timeout_s=1):
            await asyncio.sleep(0.05)
            launcher.read_ready()
    contract = await control.client.contract(MODEL, timeout_s=10)
    assert (contract.version, contract.versions) == (2, (1, 2))
    assert contract.artifact_sha256 == _sha256(second)


async def test_a_model_that_does_not_fit_leaves_everything_as_it_was(
    launcher: Any, control: ModelControl, repository: Path, tmp_path: Path, times_model: WriteModel
) -> None:
    config = repository / MODEL / "config.pbtxt"
    before = config.read_text()
    other = times_model(tmp_path / "other.onnx", 2, columns=3)
    async with load_on(launcher.ready["address"]) as load:
        await load.until_answers(0, 1)
        with pytest.raises(CallError, match=r"dims \[-1, 2\]"):
            await control.deploy(MODEL, other)
        await load.until_answers(0, 1)
    assert load.problems == []
    assert config.read_text() == before
    assert sorted(path.name for path in config.parent.iterdir()) == ["1", "config.pbtxt"]
    assert (await control.client.contract(MODEL, timeout_s=10)).versions == (1,)


async def test_each_version_says_what_it_was_made_of(
    launcher: Any, control: ModelControl, repository: Path, tmp_path: Path, times_model: WriteModel
) -> None:
    second = times_model(tmp_path / "second.onnx", 2)
    card = tmp_path / "card.json"
    card.write_text(
        json.dumps(
            {"artifact_sha256": _sha256(second), "demonstrated_skill": False, "statement": 'says "no"'}
        )
    )
    await control.deploy(MODEL, second, version=7, card=card)
    old, new = [await control.client.contract(MODEL, version, timeout_s=10) for version in (0, 7)]
    assert (old.version, old.artifact_sha256) == (1, _sha256(repository / MODEL / "1" / "model.onnx"))
    assert (new.version, new.artifact_sha256) == (7, _sha256(second))
    assert new.parameters["statement"] == 'says "no"'
    assert new.parameters["demonstrated_skill"] == "false"
    assert "statement" not in old.parameters


async def test_what_can_not_be_done_is_refused_with_the_reason(
    control: ModelControl, repository: Path, tmp_path: Path, times_model: WriteModel
) -> None:
    second = times_model(tmp_path / "second.onnx", 2)
    with pytest.raises(RepositoryError, match="version 2 is not deployed; deployed: 1"):
        await control.promote(MODEL, 2)
    with pytest.raises(RepositoryError, match="is promoted; promote another first"):
        await control.retire(MODEL, 1)
    with pytest.raises(RepositoryError, match="a version never changes"):
        await control.deploy(MODEL, second, version=1)
    with pytest.raises(RepositoryError, match=r"no config\.pbtxt"):
        await control.deploy("nothing", second)
    card = tmp_path / "card.json"
    card.write_text('{"artifact_sha256": "00"}')
    with pytest.raises(RepositoryError, match="the card of another file"):
        await control.deploy(MODEL, second, card=card)
    assert control.folder(MODEL).versions() == (1,)
    with control.folder(MODEL).lock(), pytest.raises(RepositoryError, match="another command"):
        await control.deploy(MODEL, second)
    await control.deploy(MODEL, second)
    (repository / MODEL / "2" / "model.onnx").write_bytes(b"changed behind our back")
    with pytest.raises(RepositoryError, match="deploy it as another version"):
        await control.promote(MODEL, 2)
