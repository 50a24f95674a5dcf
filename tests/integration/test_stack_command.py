"""`tradeserve` without addresses, beside a stack that runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stack_process import PATIENT, StackFactory, StackProcess, needs_triton, run_module, settings

pytestmark = [pytest.mark.xdist_group("stack"), pytest.mark.timeout(300)]


def tradeserve(stack: StackProcess, *arguments: str) -> Any:
    return run_module(
        ["tradeserve_cli", *arguments, "--timeout-ms", "20000"], {"TRADESERVE_BUILD_DIR": str(stack.folder)}
    )


def test_the_command_finds_the_running_stack_and_nothing_once_it_has_stopped(stacks: StackFactory):
    needs_triton()
    stack = stacks.start("--speed=600", *settings(PATIENT))
    stack.wait_decided(count=2)
    done = tradeserve(stack, "status", "--json")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status["ready"] is True
    assert {server["server"] for server in status["servers"]} == {"triton", "similarity", "strategy"}
    assert {server["source"] for server in status["servers"]} == {"the running stack"}
    assert f"run {status['strategy']['run_id']}" in stack.text
    assert status["strategy"]["decision_count"] >= 2

    watched = tradeserve(stack, "watch", "--recent", "2", "--count", "3", "--json")
    assert watched.returncode == 0, watched.stderr
    decisions = [json.loads(line) for line in watched.stdout.splitlines()]
    assert len({decision["decision_id"] for decision in decisions}) == 3
    assert {decision["symbol"] for decision in decisions} <= {"ALFA", "BRVO", "CHRL"}
    assert "gaf_resnet version 1: ready" in tradeserve(stack, "models").stdout

    stack.interrupt()
    stack.wait_end()
    stack.assert_nothing_left()
    gone = tradeserve(stack, "status")
    assert gone.returncode == 2
    assert "no stack runs here" in gone.stderr
