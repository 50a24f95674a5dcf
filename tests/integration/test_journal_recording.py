import asyncio
from decimal import Decimal
from pathlib import Path

import asyncpg
import pytest

from journal import rows
from journal.queries import JournalReader
from journal.tables import BY_ROW_TYPE
from journal.writer import Journal
from journal_rows import DAY_NS, NS, a_decision, a_quote, a_run, an_intent, one_of_each


async def fetch(url: str, sql: str, *arguments: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        found: list[asyncpg.Record] = await connection.fetch(sql, *arguments)
        return found
    finally:
        await connection.close()


def left_in(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def rejected_in(folder: Path) -> str:
    return next(folder.glob("*/rejected.jsonl")).read_text()


async def test_every_row_comes_back_as_it_was_recorded(postgres_url: str, tmp_path: Path) -> None:
    run = a_run()
    recorded = one_of_each()
    journal = await Journal.open(postgres_url, run, spool_dir=tmp_path)
    for row in recorded:
        journal.record(row)
    assert await journal.flush(10)
    assert {name: table.written for name, table in journal.stats().tables.items()} == {
        BY_ROW_TYPE[type(row)].name: 1 for row in recorded
    }
    assert await journal.close() == 0
    async with JournalReader(postgres_url) as reader:
        for row in recorded:
            assert await reader.rows_of(type(row), run.run_id) == [row]
        summary = await reader.run(run.run_id)
    assert summary.run == run
    assert summary.ended_time is not None
    assert set(summary.row_counts.values()) == {1}
    assert left_in(tmp_path) == []
    assert await fetch(postgres_url, "SELECT * FROM batches") == []


async def test_the_evidence_of_a_decision_is_complete_and_in_order(postgres_url: str, tmp_path: Path) -> None:
    recorded = one_of_each(decision_id="d1")
    journal = await Journal.open(postgres_url, a_run(), spool_dir=tmp_path)
    for row in recorded:
        journal.record(row)
    journal.record(a_decision("another"))
    await journal.close()
    by_type = {type(row): row for row in recorded}
    async with JournalReader(postgres_url) as reader:
        evidence = await reader.evidence("d1")
    assert evidence.decision == by_type[rows.DecisionRow]
    assert list(evidence.decision.weights) == ["zeta", "alpha"], "the order of keys decides how sums round"
    assert str(evidence.decision.state["zero"]) == "-0.0"
    assert evidence.instrument == by_type[rows.InstrumentRow]
    assert evidence.calls == [by_type[rows.ModelCallRow]]
    assert evidence.neighbors == [by_type[rows.NeighborRow]]
    assert evidence.intents == [by_type[rows.OrderIntentRow]]
    assert evidence.order_events == [by_type[rows.OrderEventRow]]
    assert evidence.fills == [by_type[rows.FillRow]]
    assert evidence.commissions == [by_type[rows.CommissionRow]]


async def test_odd_floats_and_empty_books_survive(postgres_url: str, tmp_path: Path) -> None:
    run = a_run()
    infinite = rows.QuoteRow(1, NS, float("inf"), -0.0, 5e-324, 1.7976931348623157e308)
    empty = rows.BookRow(1, NS, [], [], [0.1 + 0.2], [float("inf")])
    fill = rows.FillRow(
        "e", "", "", 0, 1, "AAA", "SELL", Decimal("0.00000001"), Decimal("12345678901234.123456789"), NS
    )
    journal = await Journal.open(postgres_url, run, spool_dir=tmp_path)
    for row in (infinite, empty, fill):
        journal.record(row)
    await journal.close()
    async with JournalReader(postgres_url) as reader:
        quote = (await reader.rows_of(rows.QuoteRow, run.run_id))[0]
        assert quote == infinite
        assert str(quote.bid_size) == "-0.0"
        assert await reader.rows_of(rows.BookRow, run.run_id) == [empty]
        assert await reader.rows_of(rows.FillRow, run.run_id) == [fill]


async def test_every_day_gets_its_partition(postgres_url: str, tmp_path: Path) -> None:
    journal = await Journal.open(postgres_url, a_run(), spool_dir=tmp_path)
    days = [1_370_000_000_000_000_000, 1_710_000_000_000_000_000, 1_710_000_000_000_000_000 + DAY_NS]
    for event_ns in days:
        journal.record(a_quote(0, event_ns))
    await journal.close()
    found = await fetch(
        postgres_url, "SELECT tableoid::regclass::text AS part, event_time FROM quotes ORDER BY 2"
    )
    assert [row["part"] for row in found] == ["quotes_20130531", "quotes_20240309", "quotes_20240310"]


async def test_a_day_that_cannot_have_a_partition_goes_to_the_default_one(
    postgres_url: str, tmp_path: Path
) -> None:
    journal = await Journal.open(postgres_url, a_run(), spool_dir=tmp_path)
    await fetch(
        postgres_url,
        "INSERT INTO quotes VALUES ('other', 1, '2023-11-14 12:00+00', 0, 1, 1, 1, 1)",
    )
    journal.record(a_quote())
    await journal.close()
    found = await fetch(postgres_url, "SELECT tableoid::regclass::text AS part FROM quotes")
    assert [row["part"] for row in found] == ["quotes_default"] * 2


async def test_a_row_that_postgres_refuses_does_not_hold_up_the_others(
    postgres_url: str, tmp_path: Path
) -> None:
    run = a_run()
    journal = await Journal.open(postgres_url, run, spool_dir=tmp_path)
    journal.record(rows.InstrumentRow(1, "AAA", "USD", 0.01, "STK"))
    journal.record(rows.InstrumentRow(2**70, "BAD", "USD", 0.01, "STK"))
    journal.record(rows.InstrumentRow(2, "BBB", "USD", 0.01, "STK"))
    journal.record(rows.QuoteRow(1, NS, None, 1.0, 1.0, 1.0))  # type: ignore[arg-type]
    journal.record(rows.PositionRow(None, "AAA", Decimal(1), 1.0, NS))  # type: ignore[arg-type]
    journal.record(rows.PositionRow(1, "AAA", Decimal(1), 1.0, NS))
    assert await journal.flush(10)
    stats = journal.stats()
    assert (stats.tables["instruments"].written, stats.tables["instruments"].rejected) == (2, 1)
    assert (stats.tables["positions"].written, stats.tables["positions"].rejected) == (1, 1)
    assert stats.tables["quotes"].rejected == 1
    assert "refused" in stats.last_error
    await journal.close()
    async with JournalReader(postgres_url) as reader:
        assert [row.symbol for row in await reader.rows_of(rows.InstrumentRow, run.run_id)] == ["AAA", "BBB"]
    kept = rejected_in(tmp_path)
    assert "BAD" in kept
    assert kept.count("\n") == 3


async def test_a_changed_column_type_stops_copying_instead_of_storing_nonsense(
    postgres_url: str, tmp_path: Path
) -> None:
    said: list[str] = []
    run = a_run()
    journal = await Journal.open(postgres_url, run, spool_dir=tmp_path, on_state=said.append)
    journal.record(a_quote(0))
    assert await journal.flush(10)
    await fetch(postgres_url, "ALTER TABLE quotes ALTER COLUMN bid_price TYPE bigint")
    journal.record(a_quote(1))
    assert not await journal.flush(0.5)
    assert any("quotes.bid_price" in text and "bigint" in text for text in said)
    await fetch(postgres_url, "ALTER TABLE quotes ALTER COLUMN bid_price TYPE double precision")
    assert await journal.flush(10)
    await journal.close()
    async with JournalReader(postgres_url) as reader:
        assert len(await reader.rows_of(rows.QuoteRow, run.run_id)) == 2


async def test_two_writers_record_side_by_side(postgres_url: str, tmp_path: Path) -> None:
    runs = [a_run(), a_run()]
    journals = await asyncio.gather(*(Journal.open(postgres_url, run, spool_dir=tmp_path) for run in runs))
    for index in range(3000):
        for journal in journals:
            journal.record(a_quote(index, NS + (index % 5) * DAY_NS))
    await asyncio.gather(*(journal.record_durably(an_intent()) for journal in journals for _ in range(10)))
    assert [await journal.close() for journal in journals] == [0, 0]
    async with JournalReader(postgres_url) as reader:
        for run in runs:
            counts = await reader.row_counts(run.run_id)
            assert (counts["quotes"], counts["order_intents"]) == (3000, 10)


async def test_a_fill_that_is_reported_twice_is_stored_once(postgres_url: str, tmp_path: Path) -> None:
    run = a_run()
    fill = next(row for row in one_of_each() if isinstance(row, rows.FillRow))
    journal = await Journal.open(postgres_url, run, spool_dir=tmp_path)
    journal.record(fill)
    await journal.flush(10)
    await journal.record_durably(fill)
    await journal.close()
    async with JournalReader(postgres_url) as reader:
        assert await reader.rows_of(rows.FillRow, run.run_id) == [fill]


async def test_the_views_for_people_answer(postgres_url: str, tmp_path: Path) -> None:
    run = a_run()
    journal = await Journal.open(postgres_url, run, spool_dir=tmp_path)
    for row in one_of_each():
        journal.record(row)
    await journal.close()
    decision = (await fetch(postgres_url, "SELECT * FROM v_decisions"))[0]
    assert (decision["symbol"], decision["in_time"]) == ("AAA", 1)
    order = (await fetch(postgres_url, "SELECT * FROM v_orders"))[0]
    assert (order["last_status"], order["filled"], order["average_price"]) == (
        "Filled",
        10,
        Decimal("100.01"),
    )
    fill = (await fetch(postgres_url, "SELECT * FROM v_fills_pnl"))[0]
    assert (fill["position_after"], fill["cash_flow_after"]) == (10, Decimal("-1001.105"))
    latency = (await fetch(postgres_url, "SELECT * FROM v_service_latency"))[0]
    assert (latency["calls"], latency["p50_ms"]) == (1, Decimal("3.000"))


async def test_recording_after_close_is_a_mistake_that_is_named(postgres_url: str, tmp_path: Path) -> None:
    journal = await Journal.open(postgres_url, a_run(), spool_dir=tmp_path)
    await journal.close()
    with pytest.raises(TypeError, match="closed"):
        journal.record(a_quote())
    with pytest.raises(TypeError, match="closed"):
        await journal.record_durably(an_intent())
