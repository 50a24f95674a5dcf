"""Ctrl-C, SIGTERM and SIGKILL of the whole stack leave nothing behind, at any moment."""

from __future__ import annotations

import os
import signal

import pytest

from stack_process import StackFactory, needs_triton

pytestmark = [pytest.mark.xdist_group("stack"), pytest.mark.timeout(200)]


def test_ctrl_c_while_the_servers_start_stops_everything(stacks: StackFactory):
    needs_triton()
    stack = stacks.start(database=False)  # so that it is interrupted while it makes the database
    stack.wait_for("^(gateway|similarity): healthy")
    stack.interrupt()
    assert stack.wait_end() == 130
    stack.assert_nothing_left()
    assert stack.lines[-1].startswith("stopped ")
    assert stack.errors == []


def test_ctrl_c_in_a_terminal_ends_the_session_with_its_report(stacks: StackFactory):
    needs_triton()
    stack = stacks.start()
    stack.wait_decided()
    stack.ready("triton")
    stack.interrupt_group()
    assert stack.wait_end() == 0
    stack.assert_nothing_left()
    stack.wait_for("^Report of run ")
    assert stack.errors == []


def test_a_second_ctrl_c_does_not_wait_for_the_strategy(stacks: StackFactory):
    needs_triton()
    stack = stacks.start()
    stack.wait_for("^state: trading")
    stack.ready("triton")
    os.kill(stack.pid("strategy"), signal.SIGSTOP)  # it can't even be asked
    stack.interrupt()
    stack.wait_for("^stopping")
    stack.interrupt()
    assert stack.wait_end(30) == 130
    stack.assert_nothing_left()


def test_sigterm_ends_the_session_in_order(stacks: StackFactory):
    needs_triton()
    stack = stacks.start()
    stack.wait_for("^strategy: starting")
    stack.ready("triton")
    stack.interrupt(signal.SIGTERM)
    assert stack.wait_end() in (0, 130)
    stack.assert_nothing_left()
    assert stack.errors == []


def test_a_killed_stack_takes_every_process_along(stacks: StackFactory):
    needs_triton()
    stack = stacks.start()
    stack.wait_decided()
    stack.ready("triton")
    assert {stack.pid("postmaster"), stack.pid("tritonserver"), stack.pid("strategy")} <= set(
        stack.processes()
    )
    stack.interrupt(signal.SIGKILL)
    assert stack.wait_end() == -signal.SIGKILL
    stack.assert_nothing_left()
