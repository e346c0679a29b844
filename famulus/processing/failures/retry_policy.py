"""Retry policy: try a failed event again after a wait, or give it up.

Pure; the caller carries out the decisions.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from famulus.deadletter.failure_kind import FailureKind
from famulus.declarations import Declaration, shown
from famulus.durations import seconds_in
from famulus.errors import (
    HandlerCancelledError,
    HandlerTimeoutError,
    PermanentError,
    Reject,
    TransientError,
)

Unclassified = Literal["transient", "permanent"]
OUTAGES = (TransientError, ConnectionError, TimeoutError)  # a dependency is unavailable


@dataclass(frozen=True, slots=True)
class Retry:
    """Number of attempts in the lane, and the waits between them.

    *attempts* includes the first one. The wait is *wait_initial_s* seconds at first, then grows by
    *wait_factor* up to *wait_max_s*: 2, 4, 8 ... seconds by default.

    *jitter* is the share of a wait, from 0 to 1, by which it may be shorter or longer, so that
    events that failed together are not tried again together.
    """

    attempts: int = 3
    wait_initial_s: float = 2.0
    wait_factor: float = 2.0
    wait_max_s: float = 60.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        """Raise ConfigError for a policy that makes no sense."""
        call = Declaration("Retry")
        call.number("attempts", self.attempts, 1, is_whole=True)
        call.number("wait_initial_s", self.wait_initial_s)
        call.number("wait_factor", self.wait_factor, 1)
        call.number("wait_max_s", self.wait_max_s)
        call.number("jitter", self.jitter, 0, 1)

    def wait_s(self, attempt: int, chance: float = 0.5) -> float:
        """Return the seconds to wait after *attempt* (counted from 1) has failed.

        *chance*, from 0 to 1, is the position within the jitter; 0.5 is the wait without jitter.
        The wait never exceeds *wait_max_s* plus its jitter, however many attempts there are.
        """
        try:
            wait = min(self.wait_initial_s * self.wait_factor ** (attempt - 1), self.wait_max_s)
        except OverflowError:
            wait = self.wait_max_s
        return wait * (1 + self.jitter * (2 * chance - 1))

    @property
    def total_s(self) -> float:
        """Return the seconds that all waits of one event take together, at most."""
        return sum(self.wait_s(attempt, 1.0) for attempt in range(1, self.attempts))


@dataclass(frozen=True, slots=True)
class Policy:
    """Failure handling of one handler: which errors are retried, and how often.

    *transient* and *permanent* classify errors in addition to those of this package, and
    *unclassified* applies to all other errors. *delays_s* are the waits in retry topics, in
    seconds, after the attempts in the lane are used up. *timeout_s* limits one attempt; 0 means no
    limit.
    """

    retry: Retry = Retry()
    transient: tuple[type[Exception], ...] = ()
    permanent: tuple[type[Exception], ...] = ()
    unclassified: Unclassified = "transient"
    delays_s: tuple[float, ...] = ()
    timeout_s: float = 0.0

    def is_transient(self, error: BaseException) -> bool:
        """Return whether another attempt may succeed.

        An exception group, as `asyncio.TaskGroup` raises it, is transient if all of its errors are.
        """
        if self._is_group(error):
            return all(self.is_transient(each) for each in _leaves(error))
        if isinstance(error, (PermanentError, *self.permanent)):
            return isinstance(error, self.transient)
        if isinstance(error, (TransientError, HandlerCancelledError, *self.transient)):
            return True
        return self.unclassified == "transient"

    def is_outage(self, error: BaseException) -> bool:
        """Return whether a dependency is unavailable, rather than the event bad."""
        if self._is_group(error):
            return all(self.is_outage(each) for each in _leaves(error))
        return self.is_transient(error) and isinstance(error, (*OUTAGES, *self.transient))

    def kind(self, error: BaseException) -> FailureKind:
        """Return the kind of failure of an event that is given up."""
        if isinstance(error, Reject) or (
            self._is_group(error) and all(isinstance(e, Reject) for e in _leaves(error))
        ):
            return FailureKind.REJECTED
        if not self.is_transient(error):
            return FailureKind.PERMANENT
        if isinstance(error, HandlerTimeoutError):
            return FailureKind.TIMEOUT
        return FailureKind.EXHAUSTED

    def _is_group(self, error: BaseException) -> bool:
        """Return whether the error is an exception group that is not classified itself."""
        return isinstance(error, BaseExceptionGroup) and not isinstance(
            error, (*self.transient, *self.permanent)
        )

    def attempts_at(self, stage: int) -> int:
        """Return the total number of attempts up to *stage*.

        Stage 0 is the lane, n the nth retry topic.
        """
        return self.retry.attempts + stage


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield every error of a group and of its nested groups.

    No recursion, since groups may be nested deeply.
    """
    left = [error]
    while left:
        error = left.pop()
        if isinstance(error, BaseExceptionGroup):
            left += error.exceptions
        else:
            yield error


def delays_of(waits: Iterable[str | float]) -> tuple[float, ...]:
    """Return waits such as `30s`, `1m`, `10m`, `1h` or numbers of seconds, in seconds.

    Raises ValueError for anything else, and for a wait that is not positive and finite.
    """
    if isinstance(waits, (str, bytes)) or not isinstance(waits, Iterable):
        # One kind of error for every wrong value.
        raise ValueError(f'{shown(waits)} is no list of waits: ["10m"]')  # noqa: TRY004
    return tuple(_delay_s(wait) for wait in waits)


def _delay_s(wait: str | float) -> float:
    if isinstance(wait, (int, float)) and not isinstance(wait, bool):
        seconds = float(wait)
    elif not isinstance(wait, str):
        raise ValueError(  # noqa: TRY004  # one kind of error for every wrong value
            f"{shown(wait)} is not a wait: a number of seconds, or a text such as '10m'"
        )
    else:
        said = seconds_in(wait.strip())
        if said is None:
            raise ValueError(f"{wait!r} is not a wait: a number and s, m, h or d, such as '10m'")
        seconds = said
    if not 0 < seconds < math.inf:
        raise ValueError(f"a wait of {wait!r}: it must be positive")
    return seconds
