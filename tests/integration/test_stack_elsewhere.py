"""Servers that were started elsewhere: slow ones, a full disk, and a strategy that trades through them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import resource
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.fake_similarity import FakeSimilarity
from fakes.fake_triton import FakeTriton, default_models
from stack_process import EAGER, PATIENT, ROOT, StackFactory, StackProcess, settings
from stack_records import Records, assert_orders_were_recorded_first, simulator_executions, simulator_orders
from strategy.core.values import intent_id_of

pytestmark = [pytest.mark.xdist_group("stack"), pytest.mark.timeout(200)]

SHARE_MS = 100
# The fake servers serve models of their own.
UNPINNED = {
    "voters.lstm_cnn.artifact_sha256": "",
    "voters.gaf_resnet.artifact_sha256": "",
    "services.similarity.index_sha256": "",
}


class SlowServers:
    """Answer after a random time around the deadline; in a thread, because the test itself blocks."""

    def __init__(self) -> None:
        models = default_models()
        models["lstm_cnn"].probabilities = (0.1, 0.2, 0.7)
        self.triton, self.similarity = FakeTriton(models), FakeSimilarity()
        numbers = random.Random(7)
        self._delay(lambda: numbers.uniform(0.3, 1.7) * SHARE_MS / 1e3)
        self._up, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._up.wait(10)

    def _delay(self, delay_s: Callable[[], float]) -> None:
        self.similarity.delay_s = delay_s
        for model in self.triton.models.values():
            model.delay_s = delay_s

    async def _serve(self) -> None:
        async with self.triton, self.similarity:
            self._up.set()
            await asyncio.to_thread(self._over.wait)

    def hurry(self) -> None:
        """Answer at once from now on."""
        self._delay(lambda: 0.0)

    def stop(self) -> None:
        """Go away."""
        self._over.set()
        self._thread.join(10)


@pytest.fixture
def slow() -> Iterator[SlowServers]:
    servers = SlowServers()
    yield servers
    servers.stop()


def test_no_late_answer_is_used_and_no_order_goes_out_without_its_intent_on_disk(
    stacks: StackFactory, slow: SlowServers, postgres_url: str
):
    gateway = stacks.start(
        *("--port", "0", "--bar-size-s", "60", "--speed", "60", "--symbols", "ALFA,BRVO"),
        database=False,
        module="gateway_simulator",
    )
    addresses = {
        "triton": slow.triton.address,
        "similarity": slow.similarity.address,
        "gateway": gateway.wait_address(),
    }
    stack = stacks.start(
        *(f"--{name}={address}" for name, address in addresses.items()),
        *("--symbols", "ALFA,BRVO"),
        *settings(PATIENT, EAGER, UNPINNED, {"budget.forecast_ms": SHARE_MS, "budget.search_ms": SHARE_MS}),
        database=False,
        environment={"DATABASE_URL": postgres_url},
    )
    for name, address in addresses.items():
        stack.wait_for(f"^{name}: using {address}")
    for service in ("gaf_resnet", "lstm_cnn", "similarity"):
        stack.wait_for(rf"{service} MISSING \(late\)")
        stack.wait_for(rf"{service} [\d.]+ ms")
    stack.wait_decided(count=8)

    slow.hurry()
    stack.wait_for("^ +order entry: ", after=len(stack.lines))
    _full_disk(stack)

    stack.interrupt()
    assert stack.wait_end() == 0, stack.told()
    stack.assert_nothing_left()
    assert stack.errors == []
    assert gateway.process.poll() is None, "a server that was started elsewhere was stopped"
    gateway.interrupt()
    assert gateway.wait_end() == 0

    records = Records(postgres_url, stack.text.partition("\nReport of run ")[2].split()[0])
    _late_answers_are_recorded_and_not_used(records)
    assert_orders_were_recorded_first(records)
    held = records.rows(
        "select reason from decisions where run_id = $1 and reason like '%intent not recorded%'"
    )
    assert held
    assert not list((stack.folder / "spool").iterdir())


def test_a_killed_strategy_is_followed_by_one_that_knows_its_orders(
    stacks: StackFactory, slow: SlowServers, postgres_url: str, tmp_path: Path
):
    slow.hurry()
    saved = tmp_path / "gateway.json"
    gateway = stacks.start(
        *("--port", "0", "--bar-size-s", "60", "--speed", "60", "--symbols", "ALFA,BRVO"),
        *("--state-file", str(saved)),
        database=False,
        module="gateway_simulator",
    )
    arguments = [
        *(f"--gateway={gateway.wait_address()}", f"--triton={slow.triton.address}"),
        *(f"--similarity={slow.similarity.address}", "--symbols=ALFA,BRVO"),
        *settings(PATIENT, EAGER, UNPINNED),
    ]
    database = {"DATABASE_URL": postgres_url}
    first = stacks.start(*arguments, database=False, environment=database)
    for symbol in ("ALFA", "BRVO"):
        first.wait_for(f"^ +fill BUY .* {symbol} ")
    first.wait_decided()
    first.kill("strategy")
    assert first.wait_end() == 128 + signal.SIGKILL
    assert "strategy: killed by SIGKILL" in first.lines
    first.assert_nothing_left()

    second = stacks.start(*arguments, database=False, environment=database, folder=first.folder)
    for symbol in ("ALFA", "BRVO"):
        second.wait_for(rf"^position found: {symbol} \+\d+, its stop at ")
    second.wait_for("keep the position")
    assert "unprotected" not in second.text
    (second.folder / "KILL").touch()
    second.wait_for("! state: killed: kill file ")
    second.interrupt()
    assert second.wait_end() == 0, second.told()
    assert second.errors == []
    gateway.interrupt()
    assert gateway.wait_end() == 0

    records = Records(postgres_url, "")
    refs = simulator_orders(saved)
    assert len(set(refs)) == len(refs)
    intents = {row["intent_id"] for row in records.rows("select intent_id from order_intents where $1 = ''")}
    assert {intent_id_of(ref) for ref in refs} <= intents
    fills = records.rows("select distinct exec_id, side, quantity, price from fills where $1 = ''")
    assert {
        row["exec_id"]: (row["side"], row["quantity"], row["price"]) for row in fills
    } == simulator_executions(saved)
    assert not list((first.folder / "spool").iterdir()), "what the first left in the spool was not stored"


def _full_disk(stack: StackProcess) -> None:
    """No file of the strategy can grow; it holds, says why, and trades again when there is room."""
    strategy = stack.pid("strategy")
    unlimited = resource.prlimit(strategy, resource.RLIMIT_FSIZE)
    resource.prlimit(strategy, resource.RLIMIT_FSIZE, (1, unlimited[1]))
    full = stack.wait_for("! intent not durable: .*(File too large|full|space)", after=len(stack.lines))
    held = stack.wait_for("entry not sent: intent not recorded", after=full)
    held = stack.wait_decided(after=held, count=4)
    assert not [line for line in stack.lines[full:held] if re.match(" +order entry", line)]
    resource.prlimit(strategy, resource.RLIMIT_FSIZE, unlimited)
    stack.wait_for("^ +order entry: ", after=held)


def _late_answers_are_recorded_and_not_used(records: Records) -> None:
    used_late = "select count(*) from model_calls where run_id = $1 and used and {}"
    assert records.value(used_late.format("received_after_ns > deadline_after_ns")) == 0
    assert records.value(used_late.format("outcome <> 'in time'")) == 0
    assert records.value(used_late.format("true")) > 0
    late = records.rows(
        "select decision_id, service, used, detail from model_calls where run_id = $1 and outcome = 'late'"
    )
    assert any(row["detail"].startswith("arrived ") for row in late)
    weights = {
        row["decision_id"]: json.loads(row["weights"])
        for row in records.rows("select decision_id, weights from decisions where run_id = $1")
    }
    for row in late:
        assert not row["used"]
        assert row["service"] not in weights[row["decision_id"]]


def test_make_run_hands_its_switches_on():
    switches = {
        "TRITON": "there:8001",
        "SIMILARITY": "there:8101",
        "GATEWAY": "there:4002",
        "SESSION": "bars.csv",
        "SPEED": "60",
        "SYMBOLS": "A,B",
    }
    command = _make("-n", "run", *(f"{name}={value}" for name, value in switches.items()))
    run = next(line for line in command.splitlines() if "-m local_stack" in line)
    for name, value in switches.items():
        assert f'--{name.lower()} "{value}"' in run
    # A variable of make's command line reaches the environment, where the stack looks for this one.
    show = "--eval=where: ; @echo url=$$DATABASE_URL"
    assert "url=postgresql://there/db" in _make("-s", show, "where", "DATABASE_URL=postgresql://there/db")


def _make(*arguments: str) -> str:
    outside = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(
        ["make", *arguments], cwd=ROOT, env=outside, capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout
