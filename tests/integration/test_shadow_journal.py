"""What versions that are tried did, in a real Postgres: the evidence, the summary, the replay, questions from it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fakes.engine_world import World
from fakes.fake_shadow import SECOND, WILD, FakeShadow
from fakes.fake_triton import FakeModel, FakeTriton, default_models
from journal.evidence import evidence_json, evidence_text
from journal.queries import JournalReader
from journal.rows import DecisionRow, Row, Run, ShadowAnswerRow
from journal.writer import Journal
from journal_rows import a_run
from strategy.core.decision import rules_to_json
from strategy.core.values import Probabilities
from strategy.replay_command import replay
from tradeserve_client.answers import Reason

UPS = (0.7, 0.1, 0.6, 0.34, 0.2)


async def record(url: str, folder: Path, run: Run, rows: Sequence[Row]) -> None:
    journal = await Journal.open(url, run, spool_dir=folder / "spool")
    for row in rows:
        journal.record(row)
    assert await journal.close() == 0


@pytest.fixture
async def session(tmp_path: Path, postgres_url: str) -> list[Row]:
    """A run of a real engine with a version tried beside it, recorded."""
    shadow = FakeShadow(probabilities=WILD)
    world = World(tmp_path, shadow=shadow)
    await world.start()
    for up in UPS:
        world.forecaster.probabilities = Probabilities(0.8 - up, 0.2, up)
        await world.bar()
    await world.until(lambda: sum(isinstance(row, ShadowAnswerRow) for row in world.journal.rows) == len(UPS))
    shadow.reason = Reason.LATE
    await world.bar()
    await world.stop()
    rows = [*world.journal.rows, *world.journal.durable]
    await record(
        postgres_url,
        tmp_path,
        dataclasses.replace(a_run("run"), config={"rules": rules_to_json(world.rules)}),
        rows,
    )
    return rows


async def cli(url: str, *arguments: str) -> tuple[int, str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRADESERVE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "tradeserve_cli", "models", "shadow", "lstm_cnn", *arguments),
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


async def test_the_evidence_of_a_decision_shows_what_the_shadow_would_have_led_to(
    session: list[Row], postgres_url: str
) -> None:
    (first, *_, last), answers = of(DecisionRow, session), of(ShadowAnswerRow, session)
    async with JournalReader(postgres_url) as reader:
        evidence = await reader.evidence(first.decision_id)
        late = evidence_text(await reader.evidence(last.decision_id))
    assert evidence.shadows == [answers[0]]
    text = evidence_text(evidence)
    assert "shadows (never used):\n    lstm_cnn v2 cdcdcdcdcdcd: answered in 2.000 ms" in text
    assert "(UNLIKE the real BUY)" in text
    assert json.loads(evidence_json(evidence))["shadows"][0]["live_side"] == "BUY"
    assert "lstm_cnn v2 cdcdcdcdcdcd: no answer, late: told so" in late


async def test_the_summary_is_the_one_of_the_recorded_rows(session: list[Row], postgres_url: str) -> None:
    answers = of(ShadowAnswerRow, session)
    status, out, err = await cli(postgres_url, "--version", "2", "--report", "--json")
    assert status == 0, err
    found = json.loads(out)
    agreed = sum(bool(row.agrees) for row in answers)
    changes = Counter(f"{row.live_side} -> {row.side}" for row in answers if row.agrees is False)
    assert found == {
        "model": "lstm_cnn",
        "version": 2,
        "artifacts": [SECOND.artifact_sha256],
        "runs": 1,
        "decisions": len(UPS) + 1,
        "asked": len(UPS) + 1,
        "answered": len(UPS),
        "missing": {"late": 1},
        "agreed": agreed,
        "agreement": agreed / len(UPS),
        "changes": dict(changes),
        "max_probability_difference": max(row.probability_difference or 0 for row in answers),
        "p50_ms": 2.0,
        "p99_ms": 2.0,
    }
    assert changes
    status, out, _ = await cli(postgres_url, "--version", "2", "--report")
    assert status == 0
    assert f"{agreed} of {len(UPS)} would-be decisions are the real ones" in out
    status, out, err = await cli(postgres_url, "--version", "3", "--report")
    assert (status, out) == (2, "")
    assert "has asked version 3 of lstm_cnn" in err


async def test_a_replay_makes_the_would_be_decisions_again_too(session: list[Row], postgres_url: str) -> None:
    said: list[str] = []
    assert await replay(postgres_url, "latest", None, said.append)
    assert said == [
        f"run run: {len(UPS) + 1} decisions made again, {len(UPS) + 1} as recorded, 0 different",
        f"shadows: {len(UPS)} would-be decisions made again, 0 fields different",
    ]


async def test_both_versions_are_asked_the_windows_of_the_last_decisions_of_the_journal(
    session: list[Row], postgres_url: str, tmp_path: Path
) -> None:
    later = dataclasses.replace(a_run("just begun"), started_ns=a_run().started_ns + 1)
    await record(postgres_url, tmp_path, later, [])
    models = default_models()
    models["lstm_cnn"].versions = (1, 2)
    models["lstm_cnn"].parameters["promoted_version"] = "1"
    models["lstm_cnn"].others[2] = FakeModel("lstm_cnn", probabilities=(0.7, 0.2, 0.1))
    answers = tmp_path / "answers.jsonl"
    async with FakeTriton(models) as triton:
        where = ("--version", "2", "--triton", triton.address)
        status, out, err = await cli(
            postgres_url, *where, "--decisions", "3", "--record", str(answers), "--json"
        )
        assert status == 0, err
        refused = await cli("postgresql://nobody:x@127.0.0.1:1/none", *where, "--decisions", "3")
        unset = await cli("", *where, "--decisions", "3")
    found = json.loads(out)
    assert (found["questions"], found["shadow_unanswered"]) == (3, 0)
    assert found["max_abs_difference"]["probabilities"] == pytest.approx(0.5)
    wanted = [f"decision {row.decision_id}" for row in of(DecisionRow, session)[-3:]]
    assert [json.loads(line)["origin"] for line in answers.read_text().splitlines()] == wanted
    assert refused[0] == 2
    assert refused[2].startswith("error: --decisions: ")
    assert unset[2] == "error: --decisions: where is the journal? give --database-url, or set DATABASE_URL\n"


async def test_a_journal_without_decisions_says_so(postgres_url: str, tmp_path: Path) -> None:
    async with FakeTriton(default_models()) as triton:
        triton.models["lstm_cnn"].versions = (1, 2)
        triton.models["lstm_cnn"].parameters["promoted_version"] = "1"
        status, _, err = await cli(
            postgres_url, "--version", "2", "--triton", triton.address, "--decisions", "3"
        )
    assert (status, err) == (2, "error: --decisions: the journal has none\n")
