"""What the pages of docs/ show is so: their Python and their commands run on real servers."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from doc_pages import blocks, changes_models, commands_of, pages, programs_of
from fakes.engine_world import World
from fakes.fake_vision import FakeVision
from served_models import ROOT, triton_on
from server_runtime.server import GrpcServer, ServerOptions
from strategy.adapters.control import SERVICE, StrategyServicer, register

pytestmark = pytest.mark.xdist_group("served models")
RUNNABLE = [page for page in pages() if programs_of(page) or commands_of(page)]
CHANGING = [page for page in RUNNABLE if changes_models(page)]


@pytest.fixture
async def strategy(tmp_path: Path) -> AsyncIterator[str]:
    """A real engine that made a few decisions, behind its real control service."""
    world = World(tmp_path)
    await world.start()
    for _ in range(3):
        await world.bar()
    server = GrpcServer(ServerOptions())
    server.add_service(SERVICE, register(StrategyServicer(world.engine)))
    yield await server.start()
    await server.stop()
    await world.stop()


@pytest.fixture
async def vision() -> AsyncIterator[str]:
    """The fake: tests/contract holds the real one to the same, and takes longer to start than these pages."""
    async with FakeVision() as server:
        yield server.address


async def run(command: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        out, err = await process.communicate()
    assert process.returncode == 0, f"{shlex.join(command)}\n{out.decode()}\n{err.decode()}"
    return out.decode()


@pytest.mark.parametrize(
    "page", [page for page in RUNNABLE if page not in CHANGING], ids=lambda page: page.stem
)
async def test_the_code_and_the_commands_of_a_page_run(
    page: Path, tmp_path: Path, real_triton: str, real_similarity: str, strategy: str, vision: str
) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    addresses = {
        "localhost:8001": real_triton,
        "localhost:8101": real_similarity,
        "localhost:8201": vision,
        "localhost:8301": strategy,
    }

    def at_the_real_servers(text: str) -> str:
        for shown, real in addresses.items():
            text = text.replace(shown, real)
        return text

    for block in blocks(page):
        if block.file:
            (folder / block.file).write_text(at_the_real_servers(block.text))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRADESERVE_")}
    for program in programs_of(page):
        (folder / page.with_suffix(".py").name).write_text(at_the_real_servers(program))
        assert await run([sys.executable, "-W", "error", page.with_suffix(".py").name], folder, clean)
    servers = {
        "TRADESERVE_CLIENT__TRITON__TARGET": real_triton,
        "TRADESERVE_CLIENT__SIMILARITY__TARGET": real_similarity,
        "TRADESERVE_CLIENT__STRATEGY__TARGET": strategy,
    }
    for line in commands_of(page):
        asks_nobody = line.split()[1] in {"descriptors", "chart"}
        arguments = [*shlex.split(line)[1:], *([] if asks_nobody else ["--timeout-ms", "20000"])]
        command = [sys.executable, "-W", "error", "-m", "tradeserve_cli", *arguments]
        assert await run(command, folder, {**clean, **servers})


@pytest.mark.parametrize("page", CHANGING, ids=lambda page: page.stem)
async def test_a_page_that_changes_models_works_on_a_repository_of_its_own(
    page: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "page"
    shutil.copytree(ROOT / "model_repository", folder / "model_repository")
    model = folder / "model_repository" / "lstm_cnn"
    shutil.copy(model / "1" / "model.onnx", folder / "new.onnx")
    shutil.copy(model / "card.json", folder / "new.card.json")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRADESERVE_")}
    with triton_on(folder / "model_repository", tmp_path) as address:
        for line in commands_of(page):
            command = [sys.executable, "-W", "error", "-m", "tradeserve_cli", *shlex.split(line)[1:]]
            assert await run(command, folder, {**clean, "TRADESERVE_CLIENT__TRITON__TARGET": address})
