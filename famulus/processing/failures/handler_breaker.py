"""A circuit breaker that defers events while it is open. One at a time probes.

An event that waits uses no attempt and no task, and its partition is read on.
"""

import asyncio
import time
from collections.abc import Callable, Hashable

import structlog

from famulus.processing.failures.circuit_breaker import CLOSED, Breaker, CircuitBreaker

log = structlog.get_logger()
Resume = Callable[[], None]


class HandlerBreaker(CircuitBreaker):
    """The circuit breaker of *name*: a handler, a store, or the dead letters of a topic.

    *what* and *cure* are the text of the log message before the name and after the failures. A
    probe that has not ended after *limit_s* seconds is replaced by another; 0 means *wait_max_s*.
    """

    def __init__(
        self, breaker: Breaker, name: str, what: str, cure: str, limit_s: float = 0.0
    ) -> None:
        super().__init__(breaker)
        self.name = name
        self.why = ""  # the reason, for people; empty while closed
        self._what, self._cure = what, cure
        self._limit_s = limit_s or breaker.wait_max_s
        self._waiting: dict[Hashable, Resume] = {}  # in the order of arrival
        self._is_probe_due = False
        self._probe: Hashable = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Return the number of events that wait."""
        return len(self._waiting)

    def try_acquire_probe(self, event: Hashable) -> bool:
        """Make *event* the probe if one is due, and return whether it is the probe."""
        if self._is_probe_due:
            self._is_probe_due, self._probe = False, event
        if self._probe != event:
            return False
        self.probe_started()
        self._set_timer(self._limit_s)  # a probe whose end is never noted is replaced
        return True

    def is_trying(self, event: Hashable) -> bool:
        """Return whether *event* is the probe."""
        return self.state is not CLOSED and self._probe == event

    def release_probe(self, event: Hashable) -> None:
        """Let another event probe if *event* is the probe, which ended without a result."""
        if self.is_trying(event):
            self._probe = None
            self.probe_released()
            self._set_timer()

    def wait(self, event: Hashable, resume: Resume) -> Callable[[], object]:
        """Call *resume* once *event* may try; return the function that cancels the wait."""
        self._waiting[event] = resume
        if self._is_probe_due:
            asyncio.get_running_loop().call_soon(self._let_one_try)
        return lambda: self._waiting.pop(event, None)

    def until(self, event: Hashable) -> Callable[[Resume], Callable[[], object]]:
        """Return the condition of a deferral: `wait` for *event*."""
        return lambda resume: self.wait(event, resume)

    def note_failure(self, event: Hashable, error: BaseException) -> bool:
        """Note that an attempt of *event* failed, and return whether the circuit is open.

        If so, the attempt does not count.
        """
        if self.failed(event, time.monotonic()):
            failures, attempts = self.seen
            self.why = (
                f"{self._what} {self.name}: {failures} of the last {attempts} failed, the last "
                "one with "
                f"{type(error).__name__}; {self._cure}"
            )
            log.error(self.why, next_try_in_s=self.wait_s)
            self._set_timer()
        elif self.is_trying(event):
            self.probe_failed()
            self._probe = None
            log.warning(
                "still failing",
                gate=self.name,
                error=type(error).__name__,
                waiting=self.waiting,
                next_try_in_s=self.wait_s,
            )
            self._set_timer()
        return self.state is not CLOSED

    def close_breaker(self) -> None:
        """Close the circuit after a success and resume every event that waits."""
        log.warning("works again", gate=self.name, waiting=self.waiting)
        self.close()
        self.why = ""
        self._is_probe_due, self._probe = False, None
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, {}
        for resume in waiting.values():
            resume()

    def _set_timer(self, at_least_s: float = 0.0) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wait_s = max(self.wait_s, at_least_s)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._let_one_try)

    def _let_one_try(self) -> None:
        if self.state is CLOSED:
            return
        self.probe_released()  # the previous probe, if its end was never noted
        self._is_probe_due, self._probe = not self._waiting, None
        if self._waiting:
            self._probe = next(iter(self._waiting))
            self._set_timer()  # the event may be gone before it tries
            self._waiting.pop(self._probe)()
