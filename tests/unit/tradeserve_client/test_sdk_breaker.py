from __future__ import annotations

import pytest

from tradeserve_client.breaker import BreakerState, CircuitBreaker


class Clock:
    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(clock, failure_count=3, open_ns=100, max_open_ns=300)


def trip(breaker: CircuitBreaker) -> None:
    for _ in range(3):
        assert breaker.allow()
        breaker.fail()


def test_failures_in_a_row_open_it(breaker: CircuitBreaker) -> None:
    trip(breaker)
    assert breaker.state == BreakerState.OPEN
    assert not breaker.allow()


def test_a_success_in_between_starts_the_count_again(breaker: CircuitBreaker) -> None:
    for _ in range(10):
        breaker.fail()
        breaker.fail()
        breaker.succeed()
    assert breaker.state == BreakerState.CLOSED


def test_after_the_pause_one_probe_goes_out_and_closes_it(breaker: CircuitBreaker, clock: Clock) -> None:
    trip(breaker)
    clock.now_ns = 100
    assert breaker.state.value == "half open"
    assert breaker.allow()
    assert not breaker.allow()
    breaker.succeed()
    assert breaker.state.value == "closed"
    assert breaker.allow()


def test_a_failed_probe_doubles_the_pause_up_to_the_bound(breaker: CircuitBreaker, clock: Clock) -> None:
    trip(breaker)
    for pause_ns in (100, 200, 300, 300):
        clock.now_ns += pause_ns - 1
        assert not breaker.allow()
        clock.now_ns += 1
        assert breaker.allow()
        breaker.fail()


def test_an_abandoned_probe_gives_its_slot_back(breaker: CircuitBreaker, clock: Clock) -> None:
    trip(breaker)
    clock.now_ns = 100
    assert breaker.allow()
    breaker.abandon()
    assert breaker.allow()


def test_an_answer_of_an_old_call_does_not_close_an_open_breaker(breaker: CircuitBreaker) -> None:
    trip(breaker)
    breaker.succeed()
    assert breaker.state == BreakerState.OPEN


def test_failures_of_old_calls_do_not_lengthen_the_pause(breaker: CircuitBreaker, clock: Clock) -> None:
    trip(breaker)
    clock.now_ns = 99
    breaker.fail()
    clock.now_ns = 100
    assert breaker.allow()


def test_a_reset_closes_it(breaker: CircuitBreaker) -> None:
    trip(breaker)
    breaker.reset()
    assert breaker.allow()


def test_a_bound_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="failure_count"):
        CircuitBreaker(Clock(), failure_count=0)
