"""The `tradeserve` command as a process, against real servers and against servers that misbehave."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.engine_world import World
from fakes.fake_similarity import FakeSimilarity
from fakes.fake_triton import FakeModel, FakeTriton
from fakes.fake_vision import FakeVision
from server_runtime.server import GrpcServer, ServerOptions
from strategy.adapters.control import SERVICE, StrategyServicer, register

pytestmark = pytest.mark.xdist_group("served models")
PATIENT = ("--timeout-ms", "20000")


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def environment(tmp_path: Path, **variables: str) -> Mapping[str, str]:
    """An environment in which no stack runs."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRADESERVE_")}
    return {**clean, "TRADESERVE_BUILD_DIR": str(tmp_path / "no-stack"), **variables}


async def begin(tmp_path: Path, *arguments: str, **variables: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "tradeserve_cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(tmp_path, **variables),
    )


async def tradeserve(tmp_path: Path, *arguments: str, **variables: str) -> Done:
    process = await begin(tmp_path, *arguments, **variables)
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    assert b"Traceback" not in err
    return Done(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def strategy(tmp_path: Path) -> AsyncIterator[tuple[World, str]]:
    """A real engine behind its real control service."""
    world = World(tmp_path)
    await world.start()
    server = GrpcServer(ServerOptions())
    server.add_service(SERVICE, register(StrategyServicer(world.engine)))
    address = await server.start()
    yield world, address
    await server.stop()
    await world.stop()


async def test_infer_prints_what_the_real_model_answers_for_a_file(tmp_path: Path, real_triton: str) -> None:
    rows = "\n".join("100,101,99,100.5,1000" if row % 2 else "100,102,99,101,2000" for row in range(60))
    (tmp_path / "window.csv").write_text(f"open,high,low,close,volume\n{rows}\n")
    servers = ("--triton", real_triton, *PATIENT)
    shown = await tradeserve(tmp_path, "infer", "lstm_cnn", str(tmp_path / "window.csv"), *servers)
    assert shown.status == 0, shown.err
    assert shown.out.startswith("lstm_cnn version 1 (")
    assert "probabilities FP32 [1, 3]" in shown.out
    done = await tradeserve(tmp_path, "infer", "lstm_cnn", str(tmp_path / "window.csv"), *servers, "--json")
    answer = done.document
    assert answer["answered"] is True
    assert (answer["model"], answer["version"], len(answer["artifact_sha256"])) == ("lstm_cnn", 1, 64)
    assert answer["round_trip_ms"] > 0
    probabilities = answer["outputs"]["probabilities"]
    assert (probabilities["dtype"], probabilities["shape"]) == ("FP32", [1, 3])
    assert sum(probabilities["values"][0]) == pytest.approx(1, abs=1e-3)


async def test_search_by_a_saved_embedding_and_by_the_same_window_agree(
    tmp_path: Path, real_triton: str, real_similarity: str
) -> None:
    servers = ("--triton", real_triton, *PATIENT)
    file = tmp_path / "embedding.npy"
    saved = await tradeserve(
        tmp_path, "infer", "gaf_resnet", "--random", "--output", "embedding", "--save", str(file), *servers
    )
    assert saved.status == 0, saved.err
    assert np.load(file).shape == (1, 128)
    search = ("--similarity", real_similarity, "--count", "4", "--json")
    first = (await tradeserve(tmp_path, "search", "--embedding", str(file), *search, *PATIENT)).document
    second = (await tradeserve(tmp_path, "search", "--random", *search, *servers)).document
    assert first["neighbors"] == second["neighbors"]
    cosines = [neighbor["similarity"] for neighbor in first["neighbors"]]
    assert len(cosines) == 4
    assert cosines == sorted(cosines, reverse=True)
    assert set(first["neighbors"][0]) >= {"state_id", "symbol", "event_time", "forward_return_bps"}
    assert first["index"]["name"] == "market_states"


async def test_models_lists_versions_digests_and_tensors(tmp_path: Path, real_triton: str) -> None:
    done = await tradeserve(tmp_path, "models", "--json", *PATIENT, "--triton", real_triton)
    models = {model["name"]: model for model in done.document["models"]}
    assert {"lstm_cnn", "gaf_resnet"} <= set(models)
    (version,) = models["lstm_cnn"]["versions"]
    assert models["lstm_cnn"]["default_version"] == version["version"] == 1
    assert version["state"] == "READY"
    assert version["inputs"] == [{"name": "window", "dtype": "FP32", "shape": [-1, 60, 5]}]
    card = json.loads((Path(__file__).parents[2] / "model_repository/lstm_cnn/card.json").read_text())
    assert version["artifact_sha256"] == card["artifact_sha256"]
    shown = await tradeserve(tmp_path, "models", "list", *PATIENT, "--triton", real_triton)
    assert "lstm_cnn version 1: ready, asked by default" in shown.out


async def test_a_model_that_is_late_or_missing_is_no_answer_with_the_reason(tmp_path: Path) -> None:
    async with FakeTriton() as triton:
        triton.models["lstm_cnn"].delay_s = lambda: 30.0
        infer = ("infer", "--random", "--triton", triton.address, "--json")
        late = await tradeserve(tmp_path, *infer, "lstm_cnn", "--timeout-ms", "1500")
        missing = await tradeserve(tmp_path, *infer, "no_such_model", *PATIENT)
    assert (late.status, late.document["answered"], late.document["reason"]) == (1, False, "late")
    assert late.err.startswith("error: lstm_cnn: no answer (late): ")
    assert (missing.status, missing.document["reason"]) == (1, "down")
    assert "no_such_model" in missing.document["detail"]


async def test_a_detector_that_does_not_say_what_its_labels_stand_for_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / "bars.csv").write_text("time,open,high,low,close\n0,10,12,9,11\n60,10,12,9,11\n")
    async with FakeTriton({"pattern_detector": FakeModel("pattern_detector")}) as triton:
        done = await tradeserve(
            tmp_path, "detect", str(tmp_path / "bars.csv"), "--triton", triton.address, *PATIENT
        )
        assert triton.models["pattern_detector"].calls == 0
    assert done.status == 1
    assert "contract mismatch" in done.err
    assert "no parameter 'classes'" in done.err


async def test_an_index_of_other_embeddings_is_not_searched(tmp_path: Path) -> None:
    async with FakeTriton() as triton, FakeSimilarity() as similarity:
        similarity.embedding_sha256 = "e5" * 32
        servers = ("--triton", triton.address, "--similarity", similarity.address, *PATIENT)
        done = await tradeserve(tmp_path, "search", "--random", *servers)
    assert done.status == 1
    assert "contract mismatch" in done.err
    assert "expected artifact sha256 e5e5e5e5e5e5" in done.err
    assert not similarity.searches


async def test_a_vector_of_another_length_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", np.ones(7))
    async with FakeSimilarity() as similarity:
        embedding = ("--embedding", str(tmp_path / "short.npy"))
        done = await tradeserve(tmp_path, "search", *embedding, "--similarity", similarity.address, *PATIENT)
    assert done.status == 2
    assert "short.npy: has length 7" in done.err
    assert "of length 128" in done.err


async def test_status_shows_the_run_and_says_which_server_is_not_ready(
    tmp_path: Path, strategy: tuple[World, str]
) -> None:
    world, address = strategy
    await world.bar()
    async with FakeTriton() as triton, FakeSimilarity() as similarity:
        servers = ("--triton", triton.address, "--similarity", similarity.address, "--strategy", address)
        good = await tradeserve(tmp_path, "status", *servers, *PATIENT)
        away = f"{triton.address},127.0.0.1:1"
        bad = await tradeserve(
            tmp_path, "status", "--triton", away, "--strategy", address, "--json", "--timeout-ms", "3000"
        )
    assert good.status == 0, good.err
    assert good.out.count(" ready ") == 3
    assert "vision      off" in good.out
    assert "1 decisions, 1 orders" in good.out
    assert bad.status == 1
    assert bad.document["ready"] is False
    assert [server["ready"] for server in bad.document["servers"]] == [True, False, True]
    assert bad.document["servers"][1]["problem"] == "no connection within 3000 ms"
    strategy_said = bad.document["strategy"]
    assert strategy_said["trading_state"] == "trading"
    assert strategy_said["decision_count"] == 1
    assert strategy_said["positions"][0]["symbol"] == "ACME"


async def test_an_address_of_another_kind_of_server_is_told(tmp_path: Path) -> None:
    async with FakeTriton() as triton:
        done = await tradeserve(tmp_path, "status", "--strategy", triton.address, *PATIENT)
    assert done.status == 1
    assert "another kind of server" in done.out


async def test_status_without_a_stack_says_how_to_name_servers(tmp_path: Path) -> None:
    done = await tradeserve(tmp_path, "status")
    assert done.status == 2
    for word in ("no stack runs here", "make run", "--triton host:port", "TRADESERVE_CLIENT__TRITON__TARGET"):
        assert word in done.err


async def test_servers_are_found_in_a_configuration_and_in_a_running_stack(tmp_path: Path) -> None:
    async with FakeTriton() as triton:
        file = tmp_path / "clients.toml"
        file.write_text(f'[triton]\ntarget = "{triton.address}"\n')
        configured = await tradeserve(tmp_path, "status", "--config", str(file), "--json", *PATIENT)
        by_variable = await tradeserve(tmp_path, "status", "--json", *PATIENT, TRADESERVE_CONFIG=str(file))
        folder = tmp_path / "build/runs/1"
        folder.mkdir(parents=True)
        (folder / "addresses.json").write_text(json.dumps({"pid": os.getpid(), "triton": triton.address}))
        found = await tradeserve(
            tmp_path, "status", "--json", *PATIENT, TRADESERVE_BUILD_DIR=str(tmp_path / "build")
        )
    for done, source in (
        (configured, "the configuration"),
        (by_variable, "the configuration"),
        (found, "the running stack"),
    ):
        assert done.status == 0, done.err
        (server,) = done.document["servers"]
        assert (server["target"], server["source"]) == (triton.address, source)


async def test_a_mistake_in_a_configuration_names_file_and_key(tmp_path: Path) -> None:
    file = tmp_path / "clients.toml"
    file.write_text('[triton]\ntargte = "localhost:8001"\n')
    done = await tradeserve(tmp_path, "status", "--config", str(file))
    assert done.status == 2
    assert str(file) in done.err
    assert "targte" in done.err
    assert done.err.count("\n") == 1


async def test_watch_prints_decisions_as_they_are_made(tmp_path: Path, strategy: tuple[World, str]) -> None:
    world, address = strategy
    await world.bar()
    process = await begin(tmp_path, "watch", "--count", "2", "--json", "--strategy", address, *PATIENT)
    assert process.stdout is not None
    async with asyncio.timeout(60):
        first = json.loads(await process.stdout.readline())
        await world.bar()
        out, err = await process.communicate()
    assert process.returncode == 0, err
    second = json.loads(out)
    assert first["decision_id"] != second["decision_id"]
    assert first["symbol"] == second["symbol"] == "ACME"
    assert set(first["probabilities"]) == {"down", "flat", "up"}
    assert first["side"] in ("buy", "sell", "hold")


async def test_ctrl_c_ends_watch_without_a_traceback(tmp_path: Path, strategy: tuple[World, str]) -> None:
    world, address = strategy
    await world.bar()
    process = await begin(tmp_path, "watch", "--strategy", address, *PATIENT)
    assert process.stdout is not None
    async with asyncio.timeout(60):
        await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert process.returncode == 130
    assert err == b""


async def test_a_reader_that_leaves_ends_watch_without_a_traceback(
    tmp_path: Path, strategy: tuple[World, str]
) -> None:
    world, address = strategy
    await world.bar()
    process = await begin(tmp_path, "watch", "--strategy", address, *PATIENT)
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(60):
        await process.stdout.readline()
        process.stdout._transport.close()  # type: ignore[attr-defined] # as `| head -1` does
        await world.bar()
        err = await process.stderr.read()
        await process.wait()
    assert process.returncode == 1
    assert err == b""


async def test_a_strategy_that_goes_away_ends_watch_with_the_reason(tmp_path: Path) -> None:
    done = await tradeserve(tmp_path, "watch", "--strategy", "127.0.0.1:1", "--timeout-ms", "300")
    assert done.status == 1
    assert done.err == "error: strategy: no answer (down): no connection to 127.0.0.1:1 within 300 ms\n"


async def test_read_chart_prints_the_reading(tmp_path: Path) -> None:
    (tmp_path / "chart.png").write_bytes(b"\x89PNG\r\n\x1a\n and the rest")
    arguments = ("read-chart", str(tmp_path / "chart.png"), "--symbol", "ACME")
    async with FakeVision() as vision:
        shown = await tradeserve(tmp_path, *arguments, "--vision", vision.address, *PATIENT)
        done = await tradeserve(tmp_path, *arguments, "--vision", vision.address, "--json", *PATIENT)
    assert shown.status == 0, shown.err
    assert "not calibrated" in shown.out
    assert done.document["signal"] in ("buy", "sell", "hold")
    assert 0 <= done.document["stated_confidence"] <= 1
    assert "patterns: double_bottom" in shown.out
    assert "levels: 99.5, 104.25" in shown.out
    assert done.document["trust"] == 1.0
    assert done.document["record"]["prompt_name"] == "fake"


async def test_read_chart_without_a_server_says_that_vision_is_off_or_unreachable(tmp_path: Path) -> None:
    (tmp_path / "chart.png").write_bytes(b"\x89PNG\r\n\x1a\n and the rest")
    arguments = ("read-chart", str(tmp_path / "chart.png"), "--symbol", "ACME", "--json")
    off = await tradeserve(tmp_path, *arguments)
    away = await tradeserve(tmp_path, *arguments, "--vision", "127.0.0.1:1", "--timeout-ms", "500")
    assert (off.status, off.document["reason"]) == (1, "off")
    assert "vision is off" in off.document["detail"]
    assert "--vision host:port" in off.document["detail"]
    assert (away.status, away.document["reason"]) == (1, "down")
    assert "127.0.0.1:1 (from --vision) is unreachable" in away.document["detail"]
    assert off.err.count("\n") == away.err.count("\n") == 1
