"""The local stack with the vision server on real vLLM: readings come, and its death costs no decision."""

from __future__ import annotations

import signal

import pytest

from stack_process import PATIENT, StackFactory, needs_triton, settings
from vision_processes import VLLM_VENV, needs_vllm

pytestmark = [pytest.mark.xdist_group("vision"), pytest.mark.timeout(500), pytest.mark.slow]

READ = r"^ +vision \w+ .* after \d+ ms: "


def test_readings_come_and_a_killed_vision_server_is_replaced_while_decisions_go_on(
    stacks: StackFactory,
) -> None:
    needs_triton()
    needs_vllm()
    stack = stacks.start("--bar-size-s=60", "--vision=on", f"--vllm-venv={VLLM_VENV}", *settings(PATIENT))
    stack.wait_for(r"^vision: healthy at ", timeout_s=180)
    stack.wait_for(READ, timeout_s=120)
    since = len(stack.lines)
    stack.kill("vision")
    stack.wait_for(r"! vision: died \(killed by SIGKILL\)", after=since)
    stack.wait_decided(after=len(stack.lines), count=3)
    again = stack.wait_for(r"^vision: healthy again", after=since, timeout_s=180)
    stack.wait_for(READ, after=again, timeout_s=120)
    stack.interrupt(signal.SIGTERM)
    assert stack.wait_end() == 0, stack.told()
    stack.assert_nothing_left()


def test_without_a_vision_server_the_session_says_so_and_an_order_for_one_that_is_missing_is_refused(
    stacks: StackFactory,
) -> None:
    needs_triton()
    stack = stacks.start("--bar-size-s=60", "--vision=on")
    assert stack.wait_end() == 1
    assert "no environment of vLLM" in stack.errors[-1]
    assert "make venv-vllm" in stack.errors[-1]
    stack = stacks.start("--bar-size-s=60", *settings(PATIENT))
    stack.wait_for(r"^vision: off ")
    stack.interrupt(signal.SIGTERM)
    stack.wait_end()
