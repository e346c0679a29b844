"""What to do after a failed attempt: again after a wait, or give up.

Pure; the engine does what is decided here.
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
OUTAGES = (TransientError, ConnectionError, TimeoutError)  # what says that something else is away


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and how long to wait: 2, 4, 8 ... seconds unless set.

    *attempts* counts the first one.

    *jitter* is the share of a wait by which it may be shorter or longer, so that what failed
    together does not come again together.
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
        """How long to wait after *attempt* (counted from 1) has failed; *chance*, from 0 to 1, places it in the jitter.

        The longest wait is never exceeded, however many attempts there are.
        """
        try:
            wait = min(self.wait_initial_s * self.wait_factor ** (attempt - 1), self.wait_max_s)
        except OverflowError:
            wait = self.wait_max_s
        return wait * (1 + self.jitter * (2 * chance - 1))

    @property
    def total_s(self) -> float:
        """How long all waits of one event are together, at most."""
        return sum(self.wait_s(attempt, 1.0) for attempt in range(1, self.attempts))


@dataclass(frozen=True, slots=True)
class Policy:
    """How one handler fails: what is *transient* or *permanent* beside our own errors, how often it is tried again.

    *delays_s* are the waits in retry topics, once the attempts in the lane are used up. *timeout_s*
    0 is for ever.
    """

    retry: Retry = Retry()
    transient: tuple[type[Exception], ...] = ()
    permanent: tuple[type[Exception], ...] = ()
    unclassified: Unclassified = "transient"
    delays_s: tuple[float, ...] = ()
    timeout_s: float = 0.0

    def is_transient(self, error: BaseException) -> bool:
        """Whether another attempt may succeed.

        A group, as `asyncio.TaskGroup` raises, is what all in it are.
        """
        if self._is_group(error):
            return all(self.is_transient(each) for each in _leaves(error))
        if isinstance(error, (PermanentError, *self.permanent)):
            return isinstance(error, self.transient)
        if isinstance(error, (TransientError, HandlerCancelledError, *self.transient)):
            return True
        return self.unclassified == "transient"

    def is_outage(self, error: BaseException) -> bool:
        """Whether the error says that something else is away, rather than that the event is bad."""
        if self._is_group(error):
            return all(self.is_outage(each) for each in _leaves(error))
        return self.is_transient(error) and isinstance(error, (*OUTAGES, *self.transient))

    def kind(self, error: BaseException) -> FailureKind:
        """How to call it when the event is given up."""
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
        """Whether it is a group that nobody has classified as such."""
        return isinstance(error, BaseExceptionGroup) and not isinstance(
            error, (*self.transient, *self.permanent)
        )

    def attempts_at(self, stage: int) -> int:
        """How many attempts there are in all when the event is at *stage*: 0 is its lane, then the retry topics."""
        return self.retry.attempts + stage


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Every error of a group and of the groups in it, which may lie deep."""
    left = [error]
    while left:
        error = left.pop()
        if isinstance(error, BaseExceptionGroup):
            left += error.exceptions
        else:
            yield error


def delays_of(waits: Iterable[str | float]) -> tuple[float, ...]:
    """Waits such as `30s`, `1m`, `10m`, `1h` or numbers of seconds, in seconds.

    Raises ValueError.
    """
    if isinstance(waits, (str, bytes)) or not isinstance(waits, Iterable):
        # One kind for whatever it is.
        raise ValueError(f'{shown(waits)} is no list of waits: ["10m"]')  # noqa: TRY004
    return tuple(_delay_s(wait) for wait in waits)


def _delay_s(wait: str | float) -> float:
    if isinstance(wait, (int, float)) and not isinstance(wait, bool):
        seconds = float(wait)
    elif not isinstance(wait, str):
        raise ValueError(  # noqa: TRY004  # one kind for whatever it is
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
