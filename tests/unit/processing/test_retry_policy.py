"""Tests of retry policies: attempts, waits, and the classification of errors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famulus.errors import (
    ConfigError,
    DecodeError,
    HandlerTimeoutError,
    PermanentError,
    Reject,
    TransientError,
)
from famulus.processing.failures.retry_policy import Policy, Retry, delays_of


def test_the_default_is_three_attempts_with_waits_of_two_to_the_n() -> None:
    """The waits are 2 s after the first attempt and 4 s after the second."""
    retry = Retry()
    assert (retry.attempts, [retry.wait_s(attempt) for attempt in (1, 2, 3)]) == (
        3,
        [2.0, 4.0, 8.0],
    )
    assert retry.total_s == 6.0


def test_waits_have_a_limit() -> None:
    assert Retry(attempts=100, wait_max_s=30.0).wait_s(50) == 30.0
    assert Retry(attempts=10_000, wait_max_s=30.0).wait_s(5_000) == 30.0


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 40))
def test_jitter_is_a_share_of_the_wait(jitter: float, chance: float, attempt: int) -> None:
    plain, jittered = Retry().wait_s(attempt), Retry(jitter=jitter).wait_s(attempt, chance)
    assert plain * (1 - jitter) - 1e-9 <= jittered <= plain * (1 + jitter) + 1e-9


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"wait_initial_s": -1.0},
        {"wait_factor": 0.5},
        {"wait_max_s": -1.0},
        {"jitter": 1.5},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    """The error comes when the policy is declared, not when the first event fails."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Retry(**wrong)  # type: ignore[arg-type]


class _OursError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "policy", "is_transient", "is_outage", "kind"),
    [
        (TransientError(), Policy(), True, True, "exhausted"),
        (HandlerTimeoutError(), Policy(), True, True, "timeout"),
        (ConnectionResetError(), Policy(), True, True, "exhausted"),
        (TimeoutError(), Policy(), True, True, "exhausted"),
        (PermanentError(), Policy(), False, False, "permanent"),
        (Reject("no"), Policy(), False, False, "rejected"),
        (DecodeError("$", "no"), Policy(), False, False, "permanent"),
        (KeyError("x"), Policy(), True, False, "exhausted"),
        (KeyError("x"), Policy(unclassified="permanent"), False, False, "permanent"),
        (ConnectionResetError(), Policy(unclassified="permanent"), False, False, "permanent"),
        (_OursError(), Policy(transient=(_OursError,)), True, True, "exhausted"),
        (
            _OursError(),
            Policy(transient=(_OursError,), unclassified="permanent"),
            True,
            True,
            "exhausted",
        ),
        (_OursError(), Policy(permanent=(_OursError,)), False, False, "permanent"),
        (PermanentError(), Policy(transient=(PermanentError,)), True, True, "exhausted"),
    ],
)
def test_what_kind_of_failure_an_error_is(
    error: Exception, policy: Policy, is_transient: bool, is_outage: bool, kind: str
) -> None:
    """The engine's own errors come first, then the handler's declarations, then the setting."""
    assert (policy.is_transient(error), policy.is_outage(error), policy.kind(error)) == (
        is_transient,
        is_outage,
        kind,
    )


def test_waits_of_retry_topics_are_read() -> None:
    assert delays_of(["30s", "10m", "1h", "1.5d", 5]) == (30, 600, 3600, 129_600, 5)


@pytest.mark.parametrize(
    "wrong", ["", "1", "10 min", "-1m", "m", 0, -5, True, None, float("nan"), float("inf")]
)
def test_a_wait_that_is_none_is_refused(wrong: str | float) -> None:
    with pytest.raises(ValueError, match="wait"):
        delays_of([wrong])


def nested(error: Exception, depth: int) -> Exception:
    """Return *error* inside *depth* nested exception groups."""
    for _ in range(depth):
        error = ExceptionGroup("tasks", [error])
    return error


@pytest.mark.parametrize(
    ("errors", "transient", "outage", "kind"),
    [
        ([TransientError()], True, True, "exhausted"),
        ([ConnectionError(), TimeoutError()], True, True, "exhausted"),
        ([ConnectionError(), ValueError()], True, False, "exhausted"),
        ([PermanentError()], False, False, "permanent"),
        ([TransientError(), PermanentError()], False, False, "permanent"),
        ([Reject("no"), Reject("no")], False, False, "rejected"),
        ([Reject("no"), TransientError()], False, False, "permanent"),
        ([nested(PermanentError(), 3)], False, False, "permanent"),
        ([nested(ConnectionError(), 5_000)], True, True, "exhausted"),
    ],
)
def test_a_group_is_what_all_in_it_are(
    errors: list[Exception], transient: bool, outage: bool, kind: str
) -> None:
    """`asyncio.TaskGroup` wraps the errors of its tasks, which hides their types."""
    group, policy = ExceptionGroup("tasks", errors), Policy()
    assert (policy.is_transient(group), policy.is_outage(group), policy.kind(group)) == (
        transient,
        outage,
        kind,
    )


def test_a_group_may_be_classified_as_such() -> None:
    """A handler that declares `ExceptionGroup` classifies the group itself, not its members."""
    group = ExceptionGroup("tasks", [PermanentError()])
    assert Policy(transient=(ExceptionGroup,)).is_transient(group)
    assert not Policy(permanent=(ExceptionGroup,)).is_transient(
        ExceptionGroup("tasks", [TransientError()])
    )
