"""Readings of charts in a real Postgres: shown again, found again by the replay, turned into a calibration."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fakes.engine_world import World
from fakes.fake_reader import READING, FakeReader, plan
from fakes.fake_world import BAR_NS, BAR_S
from journal.connection import connect
from journal.errors import NotFoundError
from journal.evidence import evidence_json, evidence_text
from journal.queries import JournalReader
from journal.rows import BarRow, DecisionRow, Row, Run, VisionChartRow, VisionEffectRow, VisionReadingRow
from journal.writer import Journal
from journal_rows import NS, a_run
from server_runtime.errors import StartError
from strategy.calibrate_command import calibrate
from strategy.calibration_file import read_calibration
from strategy.core.decision import rules_to_json
from strategy.core.values import Probabilities
from strategy.replay_command import replay
from strategy.vision_setup import recorded_plan
from tradeserve_client.answers import Reason

UPS = (0.4, 0.7, 0.1, 0.6, 0.2)


async def record(url: str, folder: Path, run: Run, rows: Sequence[Row]) -> None:
    journal = await Journal.open(url, run, spool_dir=folder / "spool")
    for row in rows:
        journal.record(row)
    assert await journal.close() == 0


@pytest.fixture
async def session(tmp_path: Path, postgres_url: str) -> list[Row]:
    """A run of a real engine whose charts were read as a reason to sell, recorded."""
    reader = FakeReader(reading=dataclasses.replace(READING, stated_confidence=0.4))
    world = World(tmp_path, vision=plan(reader))
    await world.start()
    for count, up in enumerate(UPS, 1):
        world.forecaster.probabilities = Probabilities(0.8 - up, 0.2, up)
        await world.bar()
        await world.until(lambda count=count: len(of(VisionReadingRow, world.journal.rows)) == count)  # type: ignore[misc]
    reader.reason = Reason.LATE
    await world.bar()
    await world.stop()
    rows = [*world.journal.rows, *world.journal.durable]
    assert world.vision is not None
    config = {
        "rules": rules_to_json(world.rules),
        "strategy": {"bar_size_s": BAR_S},
        **recorded_plan(world.vision),
    }
    await record(postgres_url, tmp_path, dataclasses.replace(a_run("run"), config=config), rows)
    return rows


async def command(url: str, *arguments: str) -> tuple[int, str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRADESERVE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", *arguments),
        env={**environment, "DATABASE_URL": url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def of(kind: type[Any], rows: Sequence[Row]) -> list[Any]:
    return [row for row in rows if isinstance(row, kind)]


async def test_everything_of_a_reading_is_found_again_and_shown(
    session: list[Row], postgres_url: str
) -> None:
    readings, effects, charts = (
        of(kind, session) for kind in (VisionReadingRow, VisionEffectRow, VisionChartRow)
    )
    assert len(readings) == len(UPS) + 1
    assert effects[0].effect == "shrink"
    async with JournalReader(postgres_url) as reader:
        first = await reader.evidence(readings[0].decision_id)
        shrunk = await reader.evidence(effects[0].decision_id)
        late = evidence_text(await reader.evidence(readings[-1].decision_id))
        seen = await reader.read_chart(effects[0].reading_decision_id)
        counts = await reader.row_counts("run")
        with pytest.raises(NotFoundError, match="no chart of a decision none was to be read"):
            await reader.read_chart("none")
    assert (first.reading, shrunk.vision_effect) == (readings[0], effects[0])
    assert seen.png == charts[0].png
    assert seen.png.startswith(b"\x89PNG")
    assert seen.effects[0] == effects[0]
    assert counts["vision_charts"] == len({chart.chart_sha256 for chart in charts})
    text = evidence_text(shrunk)
    assert "reading of an earlier chart:\n    BUY entry of strength" in text
    assert (
        "its chart, read afterwards:\n    SELL, stated confidence 0.4000 x trust 1.0000, in 640.000 ms"
        in text
    )
    assert "no answer, late: told so" in late
    assert json.loads(evidence_json(first))["reading"]["patterns"] == ["double_top"]


async def test_the_command_line_shows_the_picture_and_the_words_again(
    session: list[Row], postgres_url: str, tmp_path: Path
) -> None:
    first, *_, last = of(VisionReadingRow, session)
    picture = tmp_path / "chart.png"
    show = ("tradeserve_cli", "read-chart", "--decision")
    status, out, err = await command(postgres_url, *show, first.decision_id, "--out", str(picture))
    assert status == 0, err
    assert picture.read_bytes() == of(VisionChartRow, session)[0].png
    for said in (
        "ACME as of",
        "SELL, stated confidence",
        "words: a lower high",
        "Read the chart.",
        "shrunk to",
    ):
        assert said in out
    status, out, err = await command(
        postgres_url, *show, last.decision_id, "--out", str(tmp_path / "last.png"), "--json"
    )
    assert status == 0, err
    found = json.loads(out)
    assert (found["answered"], found["outcome"], found["effects"]) == (False, "late", [])
    assert (tmp_path / "last.png").exists(), "what was asked can be seen although nobody answered"


async def test_a_replay_finds_again_what_readings_did(session: list[Row], postgres_url: str) -> None:
    said: list[str] = []
    assert await replay(postgres_url, "latest", None, said.append)
    heard = sum(bool(row.state["vision"]) for row in of(DecisionRow, session))
    assert heard
    assert said == [
        f"run run: {len(UPS) + 1} decisions made again, {len(UPS) + 1} as recorded, 0 different",
        f"vision: what readings did to {heard} decisions found again, 0 different",
    ]
    connection = await connect(postgres_url)
    await connection.execute("UPDATE vision_readings SET stated_confidence = 0.41")
    await connection.close()
    assert not await replay(postgres_url, "latest", None, said.append)


def a_reading(index: int, signal: str, confidence: float, model: str = "ab" * 32) -> VisionReadingRow:
    row: VisionReadingRow = VisionReadingRow(
        *(f"d{index}", 1, NS + index * BAR_NS, f"r{index}", "in time", "", 0, 0, 0, 0, 0, 0, ""),
        {},
        0,  # type: ignore[arg-type]
        artifact_sha256=model,
        prompt_template_sha256="cd" * 32,
        signal=signal,
        stated_confidence=confidence,
        trust=1.0,
        expire_ns=NS,
    )
    return row


def bars(closes: Sequence[float]) -> list[Row]:
    return [
        BarRow(1, NS + (index - 1) * BAR_NS, NS + index * BAR_NS, close, close, close, close, 1.0)
        for index, close in enumerate(closes)
    ]


async def test_a_calibration_is_fitted_from_what_came_after_the_readings(
    tmp_path: Path, postgres_url: str
) -> None:
    # The price rises for ever: BUY is right, SELL is wrong, and confident SELLs more so.
    rows: list[Row] = bars([100.0 + index for index in range(42)])
    rows += [a_reading(index, "BUY", 0.9) for index in range(0, 40, 2)]
    rows += [a_reading(index, "SELL", 0.3) for index in range(1, 40, 2)]
    rows += [
        dataclasses.replace(a_reading(50, "HOLD", 0.9)),
        a_reading(51, "BUY", 0.9),
    ]  # no direction, no bar
    rows += bars([100.0])  # the same bar once more, as after a reconnect
    rows[42] = dataclasses.replace(a_reading(0, "BUY", 0.9), chart_sha256="11" * 32)
    rows += [
        dataclasses.replace(a_reading(52, "BUY", 0.9), as_of_ns=NS, chart_sha256="11" * 32)
    ]  # read again
    run = dataclasses.replace(a_run("run"), config={"strategy": {"bar_size_s": BAR_S}})
    await record(postgres_url, tmp_path, run, rows)
    out, said = tmp_path / "calibration.json", list[str]()
    options: dict[str, Any] = {"horizon_bars": 2, "min_count": 40, "model_sha256": "", "say": said.append}
    await calibrate(postgres_url, out, **options)
    digest = next(line for line in said if "sha256" in line).rsplit(" ", 1)[1]
    made = read_calibration(out, digest)
    assert (made.count, made.confidences, made.probabilities) == (40, (0.3, 0.9), (0.0, 1.0))
    assert (made.model_sha256, made.prompt_sha256) == ("ab" * 32, "cd" * 32)
    facts = json.loads(out.read_text())
    assert (facts["right_count"], facts["data_sources"]) == (20, {run.data_source: 40})
    assert facts["held_out"]["brier_calibrated"] == 0.0
    assert "Not demonstrated" in facts["statement"]
    with pytest.raises(StartError, match="has sha256"):
        read_calibration(out, "00" * 32)


async def test_too_few_outcomes_or_several_models_make_no_calibration(
    tmp_path: Path, postgres_url: str
) -> None:
    rows = bars([100.0 + index for index in range(8)])
    rows += [
        a_reading(1, "BUY", 0.9),
        a_reading(2, "BUY", 0.9, "ef" * 32),
        a_reading(3, "BUY", 0.9, "ef" * 32),
    ]
    run = dataclasses.replace(a_run("run"), config={"strategy": {"bar_size_s": BAR_S}})
    await record(postgres_url, tmp_path, run, rows)
    out = tmp_path / "calibration.json"
    options: dict[str, Any] = {"horizon_bars": 2, "say": print}
    with pytest.raises(NotFoundError, match=r"one with --model: efefefefefef \(2\), abababababab \(1\)"):
        await calibrate(postgres_url, out, min_count=1, model_sha256="", **options)
    with pytest.raises(NotFoundError, match="2 readings have an outcome after 2 bars, 300 are needed"):
        await calibrate(postgres_url, out, min_count=300, model_sha256="ef", **options)
    assert not out.exists()
    fit = ("strategy", "calibrate-vision", "--out", str(out), "--horizon-bars", "2", "--model", "ef")
    status, text, err = await command(postgres_url, *fit, "--min-count", "2")
    assert status == 0, err
    assert f"{out}: sha256" in text


def test_a_file_that_is_no_calibration_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    with pytest.raises(StartError, match="can't be read"):
        read_calibration(path, "")
    for text in ("", "[]", "{}", '{"format": "tradeserve vision calibration 1"}'):
        path.write_text(text)
        with pytest.raises(StartError, match="calibrate-vision"):
            read_calibration(path, "")
