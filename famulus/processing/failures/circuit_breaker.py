"""The circuit breaker: no attempts while most attempts fail.

Closed: attempts run, and failures are counted. Open: nothing runs. Half-open: one attempt runs, the
probe. Each probe follows a wait, which doubles after a failed probe. A probe that succeeds closes
the circuit. Pure: time is an argument, in seconds of a monotonic clock.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum

from famulus.declarations import Declaration

KEPT_MIN = 100  # of the newest failures, at least so many are remembered


class CircuitState(Enum):
    """The states of a circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


CLOSED = CircuitState.CLOSED  # a name of the module, for a fast check before each attempt


@dataclass(frozen=True, slots=True)
class Breaker:
    """Limits at which a circuit opens, and the waits before its probes.

    The circuit opens after *failures* failed attempts within *window_s* seconds, if at least
    *events* different events have failed, and if the failures are at least the share *ratio* of all
    attempts. The circuit also opens after *run* failures without a success between them. 0 for
    *failures* or *run* turns that condition off. The first probe comes after *wait_initial_s*
    seconds, and each further one after twice the wait, at most *wait_max_s*.
    """

    failures: int = 10
    events: int = 5
    ratio: float = 0.5
    window_s: float = 60.0
    run: int = 0
    wait_initial_s: float = 5.0
    wait_max_s: float = 60.0

    def __post_init__(self) -> None:
        """Raise ConfigError for limits that make no sense."""
        call = Declaration("Breaker")
        for option in ("failures", "events", "run"):
            call.number(option, getattr(self, option), is_whole=True)
        for option in ("window_s", "wait_initial_s", "wait_max_s"):
            call.number(option, getattr(self, option))
        call.number("ratio", self.ratio, 0, 1)


class CircuitBreaker:
    """One circuit. *passed* counts attempts that succeeded; the caller adds to it."""

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker
        self.passed = 0
        self.state = CLOSED
        self.wait_s = 0.0  # before the next probe
        # Time, event and value of `passed` of the last failures: thousands may fail in a second.
        self._failed: deque[tuple[float, Hashable, int]] = deque(
            maxlen=max(breaker.failures * 2, KEPT_MIN)
        )
        self._run = 0
        self._passed_at_run = 0

    def failed(self, event: Hashable, now_s: float) -> bool:
        """Note a failed attempt of *event*; return True when it opens the circuit."""
        if self.passed != self._passed_at_run:
            self._run, self._passed_at_run = 0, self.passed
        self._run += 1
        self._failed.append((now_s, event, self.passed))
        while self._failed[0][0] < now_s - self.breaker.window_s:
            self._failed.popleft()
        if self.state is not CLOSED or not self._is_too_much():
            return False
        self.state, self.wait_s = CircuitState.OPEN, self.breaker.wait_initial_s
        return True

    def _is_too_much(self) -> bool:
        breaker, failed = self.breaker, self._failed
        if breaker.run and self._run >= breaker.run:
            return True
        if not breaker.failures or len(failed) < breaker.failures:
            return False
        # Only of the newest failures: older successes say nothing about the present.
        passed = self.passed - failed[-breaker.failures][2]
        if breaker.failures < breaker.ratio * (breaker.failures + passed):
            return False
        return len({event for _, event, _ in failed}) >= breaker.events

    def probe_started(self) -> None:
        """Let one attempt run."""
        self.state = CircuitState.HALF_OPEN

    def probe_released(self) -> None:
        """Open again after a probe that ended without a result; the wait stays."""
        self.state = CircuitState.OPEN

    def probe_failed(self) -> None:
        """Open again; the next probe waits for twice as long."""
        self.state = CircuitState.OPEN
        self.wait_s = min(self.wait_s * 2, self.breaker.wait_max_s)

    def close(self) -> None:
        """Close the circuit after a success."""
        self.state = CLOSED
        self._failed.clear()
        self._run = 0

    @property
    def seen(self) -> tuple[int, int]:
        """Return the number of the newest failures, and of all attempts in that time."""
        count = min(len(self._failed), self.breaker.failures or len(self._failed))
        return count, count + (self.passed - self._failed[-count][2] if count else 0)
