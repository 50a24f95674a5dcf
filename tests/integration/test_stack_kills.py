"""Every process of the stack is killed in mid-run; the strategy that runs through it stays the same."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from journal.session import database
from stack_process import EAGER, PATIENT, StackFactory, StackProcess, needs_triton, run_module, settings
from stack_records import (
    Records,
    assert_orders_were_recorded_first,
    simulator_executions,
    simulator_orders,
    state_file,
)

pytestmark = [pytest.mark.xdist_group("stack"), pytest.mark.timeout(400)]

BAR_NS = 60_000_000_000
MODELS = ("gaf_resnet", "lstm_cnn")
ALL_ANSWERED = r"gaf_resnet [\d.]+ ms +lstm_cnn [\d.]+ ms +similarity [\d.]+ ms"


def test_whatever_is_killed_the_strategy_goes_on_and_picks_up_its_return(stacks: StackFactory):
    needs_triton()
    stack = stacks.start("--bar-size-s=60", *settings(PATIENT, EAGER))
    stack.wait_decided(ALL_ANSWERED)
    strategy = stack.pid("strategy")

    _without_triton(stack, "tritonserver")
    _without_triton(stack, "triton")
    _without_similarity(stack)
    _without_postgres(stack, "postmaster")
    _without_postgres(stack, "postgres")
    stack.wait_for(r"^ +fill ")
    _without_gateway(stack)

    assert stack.pid("strategy") == strategy
    stack.wait_decided(ALL_ANSWERED, count=2)
    stack.interrupt(signal.SIGTERM)
    assert stack.wait_end() == 0, stack.told()
    stack.assert_nothing_left()
    assert stack.errors == []
    run_id = stack.text.partition("\nReport of run ")[2].split()[0]
    with database(None, stack.folder / "postgres") as url:
        records = Records(url, run_id)
        _missing_services_are_recorded(records)
        _nothing_is_lost_or_doubled(records)
        assert_orders_were_recorded_first(records)
        _simulator_agrees(records, stack.folder)
        replay = run_module(["strategy", "replay", run_id], {"DATABASE_URL": url})
    assert ", 0 different" in replay.stdout, replay.stdout
    assert not list((stack.folder / "spool").iterdir())


def _without_triton(stack: StackProcess, victim: str) -> None:
    since = len(stack.lines)
    keeper = stack.pid("triton") if victim == "tritonserver" else stack.process.pid
    with stack.nothing_restarts(keeper):
        stack.kill(victim)
        for model in MODELS:
            stack.wait_for(rf"! {model} down: ", after=since)
        stack.wait_for(
            r"HOLD no quorum .*gaf_resnet MISSING \(down\) +lstm_cnn MISSING \(down\)", after=since
        )
    if victim == "triton":
        stack.wait_for(r"! triton: died \(killed by SIGKILL\)", after=since)
        stack.wait_for(r"^triton: healthy again", after=since)
    for model in MODELS:
        stack.wait_for(rf"! {model} answers again", after=since)
    stack.wait_decided(ALL_ANSWERED, after=since)


def _without_similarity(stack: StackProcess) -> None:
    since = len(stack.lines)
    with stack.nothing_restarts():
        stack.kill("similarity")
        stack.wait_for(r"! similarity down: ", after=since)
        # The others have their quorum, so it is not only a HOLD for want of answers.
        rest = r"down [\d.]+ flat .*gaf_resnet [\d.]+ ms .*similarity MISSING \(down\)"
        stack.wait_decided(rest, after=since)
    stack.wait_for(r"^similarity: healthy again", after=since)
    stack.wait_for(r"! similarity answers again", after=since)
    stack.wait_decided(ALL_ANSWERED, after=since)


def _without_postgres(stack: StackProcess, victim: str) -> None:
    since = len(stack.lines)
    with stack.nothing_restarts():
        stack.kill(victim)
        away = stack.wait_for(r"! journal: .*rows go to the spool", after=since)
        stack.wait_decided(ALL_ANSWERED, after=away, count=3)
    stack.wait_for(r"^postgres: healthy again", after=since)
    back = stack.wait_for(r"! journal: recording to ", after=since)
    stack.wait_decided(ALL_ANSWERED, after=back)


def _without_gateway(stack: StackProcess) -> None:
    since = len(stack.lines)
    stack.kill("gateway")
    stack.wait_for(r"! state: disconnected: ", after=since)
    back = stack.wait_for(r"^gateway: healthy again", after=since)
    stack.wait_for(r"^state: trading", after=back)
    stack.wait_decided(after=back)


def _missing_services_are_recorded(records: Records) -> None:
    outcomes = records.rows("select distinct service, outcome from model_calls where run_id = $1")
    down = {row["service"] for row in outcomes if row["outcome"] == "down"}
    assert down == {*MODELS, "similarity"}
    events = records.rows("select kind, detail from risk_events where run_id = $1")
    told = [f"{row['kind']}: {row['detail']}" for row in events]
    assert any(text.startswith("state: disconnected: ") for text in told)
    assert any(text.startswith("journal: ") and "spool" in text for text in told)
    assert any(text.startswith("journal: recording to ") for text in told)


def _nothing_is_lost_or_doubled(records: Records) -> None:
    decided = records.rows(
        "select con_id, array_agg(event_ns order by event_ns) ends from decisions where run_id = $1 group by 1"
    )
    assert len(decided) == 3
    for row in decided:
        steps = [after - before for before, after in zip(row["ends"], row["ends"][1:], strict=False)]
        gaps = [step for step in steps if step != BAR_NS]
        # Only the gateway's absence may cost decisions: no decision is made on a bar of the past.
        assert len(gaps) <= 1, gaps
        assert all(BAR_NS < gap <= 5 * BAR_NS for gap in gaps), gaps
        recorded = records.rows(
            f"select end_ns, count(*) n from bars where run_id = $1 and con_id = {row['con_id']} "
            f"and end_ns between {row['ends'][0]} and {row['ends'][-1]} group by 1 order by 1"
        )
        assert [bar["end_ns"] for bar in recorded] == list(
            range(row["ends"][0], row["ends"][-1] + BAR_NS, BAR_NS)
        )
    calls = records.value(
        "select count(*) from (select 1 from model_calls where run_id = $1 and detail not like 'arrived %' "
        "group by decision_id, service having count(*) > 1) twice"
    )
    assert calls == 0
    decisions = records.value("select count(*) from decisions where run_id = $1")
    assert decisions == records.value("select count(distinct decision_id) from model_calls where run_id = $1")


def _simulator_agrees(records: Records, folder: Path) -> None:
    recorded = records.rows("select exec_id, side, quantity, price from fills where run_id = $1")
    at_the_simulator = simulator_executions(state_file(folder))
    assert {
        row["exec_id"]: (row["side"], row["quantity"], row["price"]) for row in recorded
    } == at_the_simulator
    refs = simulator_orders(state_file(folder))
    assert len(set(refs)) == len(refs)
    sent = records.rows("select order_ref from order_events where run_id = $1 and status = 'sent'")
    # What left just before the gateway was killed may never have arrived; it must not arrive twice.
    assert {ref for ref in refs if ref.endswith("/E")} <= {row["order_ref"] for row in sent}
