"""The retry decision: how often, how long, and what is hopeless."""

import pytest

from app.engine.retry import Again, GiveUp, Retry
from app.errors import DecodeError, PermanentError, TransientError


def test_the_default_is_three_attempts_with_waits_of_two_to_the_n() -> None:
    """The mission's policy: 2 s after the first attempt, 4 s after the second, then give up."""
    retry = Retry()
    assert [retry.decide(TransientError(), attempt) for attempt in (1, 2, 3)] == [
        Again(2.0),
        Again(4.0),
        GiveUp("exhausted"),
    ]


@pytest.mark.parametrize("error", [PermanentError("no"), DecodeError("$", "broken")])
def test_a_permanent_error_is_given_up_at_once(error: Exception) -> None:
    """What can never work is not tried again."""
    assert Retry(attempts=10).decide(error, 1) == GiveUp("permanent")


def test_an_unknown_error_is_taken_as_transient() -> None:
    """A bug in a handler is retried a bounded number of times too."""
    assert Retry().decide(KeyError("x"), 1) == Again(2.0)


def test_waits_have_a_limit() -> None:
    """However many attempts, no wait exceeds the limit."""
    retry = Retry(attempts=100, wait_max_s=30.0)
    assert retry.decide(TransientError(), 50) == Again(30.0)
