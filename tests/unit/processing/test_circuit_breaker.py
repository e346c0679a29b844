"""Tests of the circuit breaker: when it opens, how it is probed, when it closes."""

from famulus.processing.failures.circuit_breaker import (
    CLOSED,
    Breaker,
    CircuitBreaker,
    CircuitState,
)

THREE = Breaker(failures=3, events=2, ratio=0.5, window_s=10, wait_initial_s=5, wait_max_s=15)


def test_it_opens_when_most_of_many_fail() -> None:
    """The breaker needs both enough failures and enough different events."""
    circuit = CircuitBreaker(THREE)
    assert [circuit.failed(event, now) for now, event in enumerate("aab")] == [False, False, True]
    assert circuit.state is not CLOSED
    assert circuit.seen == (3, 3)


def test_one_bad_event_does_not_open_it() -> None:
    circuit = CircuitBreaker(THREE)
    assert not any(circuit.failed("a", now * 0.1) for now in range(50))


def test_failures_among_many_successes_do_not_open_it() -> None:
    """The share of failures stays below the ratio."""
    circuit = CircuitBreaker(THREE)
    for now in range(9):
        circuit.passed += 2
        assert not circuit.failed(now, now)


def test_what_succeeded_before_most_of_many_fail_does_not_hide_them() -> None:
    """One earlier failure among the successes does not hide the later ones either."""
    circuit = CircuitBreaker(THREE)
    circuit.failed("a", 0)
    circuit.passed += 1000
    assert [circuit.failed(event, 1) for event in "abc"] == [False, False, True]


def test_failures_that_are_long_ago_do_not_count() -> None:
    circuit = CircuitBreaker(THREE)
    assert not any(circuit.failed(now, now * 6) for now in range(9))


def test_a_run_opens_it_however_long_that_takes() -> None:
    """A success in between ends a run."""
    circuit = CircuitBreaker(Breaker(failures=100, run=3, window_s=1))
    assert not circuit.failed("a", 0)
    assert not circuit.failed("b", 100)
    circuit.passed += 1
    assert [circuit.failed(now, 200 + now * 100) for now in range(3)] == [False, False, True]


def test_zero_failures_is_never() -> None:
    circuit = CircuitBreaker(Breaker(failures=0))
    assert not any(circuit.failed(now, now * 0.001) for now in range(2000))


def test_each_probe_waits_for_twice_as_long() -> None:
    """The wait has a limit and starts from its first value when the breaker opens again."""
    circuit = CircuitBreaker(THREE)
    for now, event in enumerate("abc"):
        circuit.failed(event, now)
    waits = [circuit.wait_s]
    for _ in range(3):
        circuit.probe_failed()
        waits.append(circuit.wait_s)
    assert waits == [5, 10, 15, 15]
    circuit.close()
    assert circuit.state is CLOSED
    for now, event in enumerate("abc"):
        circuit.failed(event, 50 + now)
    assert (circuit.state, circuit.wait_s) == (CircuitState.OPEN, 5)


def test_it_is_half_open_while_its_probe_runs_and_open_again_when_that_fails() -> None:
    circuit = CircuitBreaker(THREE)
    for now, event in enumerate("abc"):
        circuit.failed(event, now)
    states = [circuit.state]
    for step in (
        circuit.probe_started,
        circuit.probe_released,
        circuit.probe_started,
        circuit.probe_failed,
        circuit.probe_started,
        circuit.close,
    ):
        step()
        states.append(circuit.state)
    assert [state.value for state in states] == [
        "open",
        "half-open",
        "open",
        "half-open",
        "open",
        "half-open",
        "closed",
    ]
    assert circuit.wait_s == 10  # doubled by the one probe that failed


def test_failures_while_it_is_not_closed_do_not_open_it_again() -> None:
    circuit = CircuitBreaker(THREE)
    assert [circuit.failed(event, 1) for event in "abcd"] == [False, False, True, False]
    circuit.probe_started()
    assert not circuit.failed("e", 2)
    assert circuit.state is CircuitState.HALF_OPEN
