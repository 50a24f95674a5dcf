import asyncio
import os
import signal
import subprocess
import sys
import uuid
from decimal import Decimal
from pathlib import Path

import pytest

from journal import rows
from journal.queries import JournalReader
from journal.writer import Journal
from journal_rows import NS, a_quote, a_run, an_intent, one_of_each, until
from postgres_fixture import OwnServer

CHILD = [sys.executable, str(Path(__file__).with_name("journal_child.py"))]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_killing_postgres_in_mid_write_loses_and_doubles_nothing(
    own_postgres: OwnServer, tmp_path: Path
) -> None:
    run = a_run()
    journal = await Journal.open(own_postgres.url, run, spool_dir=tmp_path)
    count = 0
    for round_ in range(3):
        for _ in range(60):
            for _ in range(300):
                journal.record(a_quote(count))
                count += 1
            journal.record(rows.PositionRow(count, "AAA", Decimal(10), 1.0, NS))
            if count % 1500 == 0:
                await journal.record_durably(an_intent(f"i{count}"))
            await asyncio.sleep(0)
        await asyncio.to_thread(own_postgres.kill)
        await until(lambda: not journal.stats().connected)
        journal.record(rows.RiskEventRow("away", 0, NS, str(round_)))
        await journal.record_durably(an_intent(f"away{round_}"))
        await asyncio.to_thread(own_postgres.start)
        await until(lambda: journal.stats().connected)
    assert await journal.flush(30)
    stats = journal.stats()
    assert stats.tables["quotes"].dropped == 0
    assert await journal.close() == 0
    async with JournalReader(own_postgres.url) as reader:
        counts = await reader.row_counts(run.run_id)
        quotes = await reader.rows_of(rows.QuoteRow, run.run_id)
    assert [row.event_ns - NS for row in quotes] == list(range(count))
    assert {name: n for name, n in counts.items() if n} == {
        "quotes": count,
        "positions": 180,
        "risk_events": 3,
        "order_intents": 39,
    }
    assert {name: table.written for name, table in stats.tables.items()} == {
        name: n for name, n in counts.items() if n
    }


async def test_rows_wait_in_the_spool_while_postgres_is_away_and_come_later(
    own_postgres: OwnServer, tmp_path: Path
) -> None:
    said: list[str] = []
    run = a_run()
    own_postgres.stop()
    journal = await Journal.open(
        own_postgres.url, run, spool_dir=tmp_path, on_state=said.append, connect_timeout_s=2.0
    )
    assert any("nothing listens" in text and "spool" in text for text in said)
    recorded = one_of_each()
    for row in recorded:
        journal.record(row)
    await journal.record_durably(an_intent("late"))
    await until(lambda: sum(table.spooled for table in journal.stats().tables.values()) == len(recorded) + 1)
    assert not journal.stats().connected
    await asyncio.to_thread(own_postgres.start)
    assert await journal.flush(20)
    assert any("came from the spool" in text for text in said)
    assert await journal.close() == 0
    async with JournalReader(own_postgres.url) as reader:
        counts = await reader.row_counts(run.run_id)
    assert sum(counts.values()) == len(recorded) + 1
    assert left_in(tmp_path) == []


async def test_what_stayed_in_the_spool_is_written_by_the_next_run(postgres_url: str, tmp_path: Path) -> None:
    said: list[str] = []
    first = a_run()
    journal = await Journal.open(
        NOWHERE, first, spool_dir=tmp_path, on_state=said.append, connect_timeout_s=2.0
    )
    recorded = one_of_each()
    for row in recorded:
        journal.record(row)
    assert await journal.close(0.1) == len(recorded)
    assert f"{len(recorded)} rows stay in the spool" in said[-1]
    second = a_run()
    journal = await Journal.open(postgres_url, second, spool_dir=tmp_path)
    assert await journal.flush(10)
    assert journal.stats().replayed == len(recorded)
    await journal.close()
    async with JournalReader(postgres_url) as reader:
        for row in recorded:
            assert await reader.rows_of(type(row), first.run_id) == [row]
        assert {summary.run.run_id for summary in await reader.runs()} == {first.run_id, second.run_id}
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("postgres", ["there", "away"])
async def test_an_intent_is_on_disk_before_recording_it_returns(
    postgres_url: str, tmp_path: Path, postgres: str
) -> None:
    run_id = str(uuid.uuid4())
    url = postgres_url if postgres == "there" else NOWHERE
    child = await asyncio.create_subprocess_exec(
        *CHILD, "intents", url, str(tmp_path), run_id, stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    assert child.stdout is not None
    lines = [await child.stdout.readline() for _ in range(25)]
    child.send_signal(signal.SIGKILL)
    lines += (await child.communicate())[0].splitlines(keepends=True)
    safe = [line.decode().strip() for line in lines if line.endswith(b"\n")]
    journal = await Journal.open(postgres_url, a_run(), spool_dir=tmp_path)
    assert await journal.flush(20)
    await journal.close()
    async with JournalReader(postgres_url) as reader:
        found = [row.intent_id for row in await reader.rows_of(rows.OrderIntentRow, run_id)]
    assert set(safe) <= set(found)
    assert len(found) == len(set(found))


async def test_a_live_writers_spool_is_left_alone(postgres_url: str, tmp_path: Path) -> None:
    away = await Journal.open(NOWHERE, a_run("away"), spool_dir=tmp_path, connect_timeout_s=2.0)
    await away.record_durably(an_intent())
    other = await Journal.open(postgres_url, a_run("other"), spool_dir=tmp_path)
    assert await other.flush(10)
    assert other.stats().replayed == 0
    await other.close()
    assert await away.close(0.1) == 1


async def test_a_full_disk_refuses_intents_in_words_and_costs_only_telemetry(
    postgres_url: str, tmp_path: Path
) -> None:
    child = await asyncio.create_subprocess_exec(
        *CHILD, "limited", str(tmp_path), "6000", stdout=subprocess.PIPE, env=ENVIRONMENT
    )
    output, _ = await child.communicate()
    lines = output.decode().splitlines()
    assert child.returncode == 0
    counts = dict(item.split("=") for item in lines[0].split())
    assert int(counts["safe"]) > 0
    assert int(counts["refused"]) > 0
    assert int(counts["dropped"]) >= 5000
    assert any("free space" in line for line in lines)
    journal = await Journal.open(postgres_url, a_run(), spool_dir=tmp_path)
    assert await journal.flush(10)
    await journal.close()
    async with JournalReader(postgres_url) as reader:
        found = await reader.row_counts("limited")
    assert found["order_intents"] == int(counts["safe"]) + 1, (
        "the refused intents are not there, the safe ones are"
    )
    assert found["decisions"] == 1
    assert int(lines[-1].removeprefix("left=")) == sum(found.values())


async def test_telemetry_beyond_the_limit_of_the_spool_is_dropped_and_counted(tmp_path: Path) -> None:
    journal = await Journal.open(
        NOWHERE, a_run(), spool_dir=tmp_path, spool_limit_bytes=200_000, connect_timeout_s=2.0
    )
    for index in range(20_000):
        journal.record(a_quote(index))
        if index % 1000 == 0:
            journal.record(rows.RiskEventRow("x", 0, NS, ""))
    await until(lambda: journal.stats().tables["quotes"].queued == 0)
    stats = journal.stats()
    assert stats.tables["quotes"].dropped > 0
    assert stats.tables["quotes"].dropped + stats.tables["quotes"].spooled == 20_000
    await journal.close(0.1)
    assert journal.stats().tables["risk_events"].dropped == 0


async def test_pictures_that_find_no_room_in_the_spool_are_dropped_and_what_was_read_is_not(
    tmp_path: Path,
) -> None:
    journal = await Journal.open(
        NOWHERE, a_run(), spool_dir=tmp_path, spool_limit_bytes=200_000, connect_timeout_s=2.0
    )
    for index in range(200):
        journal.record(rows.VisionChartRow(f"{index:064}", bytes(18_000)))
    journal.record(rows.VisionEffectRow("d2", "d1", "veto", "BUY", 1.0, 0.0, 0.9, False, 1.0))
    await until(lambda: all(table.queued == 0 for table in journal.stats().tables.values()))
    charts = journal.stats().tables["vision_charts"]
    assert charts.dropped > 0
    assert charts.dropped + charts.spooled == 200
    await journal.close(0.1)
    assert journal.stats().tables["vision_effects"].dropped == 0


async def test_more_telemetry_than_the_queue_holds_is_dropped_and_orders_never_are(
    postgres_url: str, tmp_path: Path
) -> None:
    journal = await Journal.open(postgres_url, a_run(), spool_dir=tmp_path, queue_rows=100)
    for index in range(1000):
        journal.record(a_quote(index))
        journal.record(rows.RiskEventRow("x", 0, NS, str(index)))
    assert await journal.flush(10)
    stats = journal.stats()
    assert (stats.tables["quotes"].written, stats.tables["quotes"].dropped) == (100, 900)
    assert stats.tables["risk_events"].written == 1000
    await journal.close()
