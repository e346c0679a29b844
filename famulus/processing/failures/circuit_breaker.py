"""The circuit breaker: when most of what is tried fails, trying on would only use up attempts.

Closed: attempts run, failures are counted. Open: nothing runs but one probe at a time, after a wait
that doubles each time. A probe that succeeds closes it. Pure: time is an argument, in seconds by
any clock that never goes back.
"""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass

from famulus.declarations import Declaration

KEPT_MIN = 100  # failures that are remembered


@dataclass(frozen=True, slots=True)
class Breaker:
    """When a circuit opens: at so many *failures* of so many *events* within *window_s*, if they are *ratio* of all.

    Or at a *run* of failures without a success between them, however long that takes. 0 is never.
    It is probed after *wait_initial_s*, then after twice that, up to *wait_max_s*.
    """

    failures: int = 10
    events: int = 5
    ratio: float = 0.5
    window_s: float = 60.0
    run: int = 0
    wait_initial_s: float = 5.0
    wait_max_s: float = 60.0

    def __post_init__(self) -> None:
        """Raise ConfigError for one that makes no sense."""
        call = Declaration("Breaker")
        for option in ("failures", "events", "run"):
            call.number(option, getattr(self, option), is_whole=True)
        for option in ("window_s", "wait_initial_s", "wait_max_s"):
            call.number(option, getattr(self, option))
        call.number("ratio", self.ratio, 0, 1)


class CircuitBreaker:
    """One circuit. *passed* counts what succeeded: whoever tries adds to it."""

    def __init__(self, breaker: Breaker) -> None:
        self.breaker = breaker
        self.passed = 0
        self.is_open = False
        self.wait_s = 0.0  # before the next probe
        # When, which event, what had passed by then: of the last ones, since thousands may fail in
        # a second.
        self._failed: deque[tuple[float, Hashable, int]] = deque(
            maxlen=max(breaker.failures * 2, KEPT_MIN)
        )
        self._run = 0
        self._passed_at_run = 0

    def failed(self, event: Hashable, now_s: float) -> bool:
        """Note a failure of *event*. True when it has opened the circuit."""
        if self.passed != self._passed_at_run:
            self._run, self._passed_at_run = 0, self.passed
        self._run += 1
        self._failed.append((now_s, event, self.passed))
        while self._failed[0][0] < now_s - self.breaker.window_s:
            self._failed.popleft()
        if self.is_open or not self._is_too_much():
            return False
        self.is_open, self.wait_s = True, self.breaker.wait_initial_s
        return True

    def _is_too_much(self) -> bool:
        breaker, failed = self.breaker, self._failed
        if breaker.run and self._run >= breaker.run:
            return True
        if not breaker.failures or len(failed) < breaker.failures:
            return False
        # Among the newest ones: what succeeded since one failed long before says nothing about now.
        passed = self.passed - failed[-breaker.failures][2]
        if breaker.failures < breaker.ratio * (breaker.failures + passed):
            return False
        return len({event for _, event, _ in failed}) >= breaker.events

    def probe_failed(self) -> None:
        """It is not over: the next probe waits for longer."""
        self.wait_s = min(self.wait_s * 2, self.breaker.wait_max_s)

    def close(self) -> None:
        """Something succeeded."""
        self.is_open = False
        self._failed.clear()
        self._run = 0

    @property
    def seen(self) -> tuple[int, int]:
        """The newest failures, and attempts in the same time."""
        count = min(len(self._failed), self.breaker.failures or len(self._failed))
        return count, count + (self.passed - self._failed[-count][2] if count else 0)
