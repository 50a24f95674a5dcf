"""A whole session through every real server, and what is recorded of it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from journal.session import database
from stack_process import EAGER, PATIENT, ROOT, StackFactory, needs_triton, run_module, settings
from stack_records import Records, assert_orders_were_recorded_first, simulator_executions, state_file
from tradeserve_client.model_repository import ModelFolder, facts_of, with_version

pytestmark = [pytest.mark.xdist_group("stack"), pytest.mark.timeout(300)]

SYMBOLS = ("ALFA", "BRVO", "CHRL")
BARS = 7  # of an hour, in a day of US hours


def test_a_session_runs_from_its_first_bar_to_its_report_and_is_recorded_whole(
    stacks: StackFactory, tmp_path: Path
):
    needs_triton()
    repository = _with_a_version_to_try(tmp_path)
    stack = stacks.start(
        *("--bar-size-s=3600", "--speed=2400", f"--model-repository={repository}"), *settings(PATIENT, EAGER)
    )
    assert stack.wait_end(150) == 0, stack.told()
    stack.assert_nothing_left()
    assert stack.errors == []

    report = stack.text.partition("\nReport of run ")[2]
    run_id = report.split()[0]
    with database(None, stack.folder / "postgres") as url:
        records = Records(url, run_id)
        _every_bar_was_decided(records)
        _every_entry_has_a_stop(records)
        assert_orders_were_recorded_first(records)
        _fills_are_the_simulators(records, stack.folder)
        _report_counts_what_is_recorded(records, report)
        tried = _the_version_that_was_tried_agrees(records, report)
        replay = run_module(["strategy", "replay", run_id], {"DATABASE_URL": url})
    decisions = BARS * len(SYMBOLS)
    assert f"{decisions} decisions made again, {decisions} as recorded, 0 different" in replay.stdout
    assert f"shadows: {tried} would-be decisions made again, 0 fields different" in replay.stdout
    assert replay.returncode == 0, replay.stderr


def _with_a_version_to_try(folder: Path) -> Path:
    """Return a copy of the shipped models, with lstm_cnn's file as a second version that is to be tried."""
    repository = folder / "models"
    shutil.copytree(ROOT / "model_repository", repository)
    model = ModelFolder(repository, "lstm_cnn")
    digest = model.add(model.path / "1" / "model.onnx", 2)
    model.write(replace(with_version(model.read(), 2, facts_of(digest, None)), promoted=1, shadow=2))
    return repository


def _the_version_that_was_tried_agrees(records: Records, report: str) -> int:
    """The same file gives the same answers, so every would-be decision is the real one; return how many."""
    (found,) = records.rows("select * from v_shadows where run_id = $1")
    assert (found["service"], found["model_version"]) == ("lstm_cnn", 2)
    assert found["agreed"] == found["answered"] > 0
    assert found["max_probability_difference"] < 1e-4
    decided = records.value(
        "select count(*) from shadow_answers s join decisions using (decision_id) where s.run_id = $1"
    )
    assert found["decisions"] == decided
    line = _line(report, "Shadow")
    assert f"asked {found['asked']}, answered {found['answered']}" in line
    return int(found["answered"])


def _every_bar_was_decided(records: Records) -> None:
    decided = records.rows(
        "select i.symbol, array_agg(d.event_ns order by d.event_ns) bars from decisions d "
        "join instruments i using (run_id, con_id) where d.run_id = $1 group by 1 order by 1"
    )
    assert [row["symbol"] for row in decided] == list(SYMBOLS)
    (closed,) = {tuple(row["bars"]) for row in decided}
    assert len(closed) == BARS
    recorded = records.rows("select distinct end_ns from bars where run_id = $1 order by 1")
    assert [row["end_ns"] for row in recorded][-BARS:] == list(closed)
    services = records.rows(
        "select decision_id, array_agg(service order by service) services from model_calls "
        "where run_id = $1 and sent_after_ns >= 0 group by 1"
    )
    assert len(services) == BARS * len(SYMBOLS)


def _every_entry_has_a_stop(records: Records) -> None:
    entries = records.rows("select * from order_intents where run_id = $1 and purpose = 'entry'")
    assert entries
    for entry in entries:
        away = entry["limit_price"] - entry["stop_price"]
        assert away > 0 if entry["side"] == "BUY" else away < 0


def _fills_are_the_simulators(records: Records, folder) -> None:
    recorded = records.rows("select exec_id, side, quantity, price from fills where run_id = $1")
    assert recorded
    assert {
        row["exec_id"]: (row["side"], row["quantity"], row["price"]) for row in recorded
    } == simulator_executions(state_file(folder))


def _report_counts_what_is_recorded(records: Records, report: str) -> None:
    told = {name: int(count) for name, count in re.findall(r"(\w+) (\d+)(?=,|$)", _line(report, "Recorded"))}
    assert told.pop("rows", None) is None
    tables = [row["name"] for row in records.rows(
        "select relname as name from pg_class join pg_attribute on attrelid = pg_class.oid and attname = 'run_id' "
        "where relkind in ('r', 'p') and not relispartition and relnamespace = 'public'::regnamespace "
        "and relname not in ('runs', 'batches') and $1 <> ''"
    )]  # fmt: skip
    counted = {name: records.value(f'select count(*) from "{name}" where run_id = $1') for name in tables}
    assert told == {name: count for name, count in counted.items() if count}
    assert int(_line(report, "Recorded").split()[1]) == sum(told.values())
    sides = {side: int(n) for n, side in re.findall(r"(\d+) (BUY|SELL|HOLD)", _line(report, "Decisions"))}
    decided = records.rows("select side, count(*) n from decisions where run_id = $1 group by 1")
    assert {row["side"]: row["n"] for row in decided} == {side: n for side, n in sides.items() if n}
    sent, fills = map(int, re.findall(r"\d+", _line(report, "Orders")))
    assert sent == records.value("select count(*) from order_events where run_id = $1 and status = 'sent'")
    assert fills == records.value("select count(*) from fills where run_id = $1")
    paid = records.value("select coalesce(sum(commission), 0) from commissions where run_id = $1")
    told_paid = re.search(r"commission (\d+\.\d\d)\)", report)
    assert told_paid
    assert abs(Decimal(told_paid[1]) - Decimal(str(paid))) < Decimal("0.01")
    models = json.loads(records.value("select models from runs where run_id = $1"))
    assert {model["name"] for model in models} >= {"lstm_cnn", "gaf_resnet"}


def _line(report: str, label: str) -> str:
    return next(line for line in report.splitlines() if line.startswith(f"  {label} "))
