"""A gate before a handler: open to all, unless its circuit has opened; then events wait at it and one at a time tries.

An event that waits uses up none of its attempts and nobody's hands, and its partition is read on
meanwhile.
"""

import asyncio
import time
from collections.abc import Callable, Hashable

import structlog

from famulus.processing.failures.circuit_breaker import Breaker, CircuitBreaker

log = structlog.get_logger()
Resume = Callable[[], None]


class HandlerBreaker(CircuitBreaker):
    """The gate of what *name* says.

    `is_open` is the circuit's: while it is, `may_probe` says who goes through.

    *what* and *cure* are words for the person who reads the log. An attempt takes *limit_s* at
    most, 0: nobody knows.
    """

    def __init__(
        self, breaker: Breaker, name: str, what: str, cure: str, limit_s: float = 0.0
    ) -> None:
        super().__init__(breaker)
        self.name = name
        self.why = ""  # it is shut, in words; empty while it is not
        self._what, self._cure = what, cure
        self._limit_s = limit_s or breaker.wait_max_s
        self._waiting: dict[Hashable, Resume] = {}  # in the order of their coming
        self._is_probe_due = False
        self._probe: Hashable = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Events that wait here."""
        return len(self._waiting)

    def try_acquire_probe(self, event: Hashable) -> bool:
        """Whether *event* is the one that tries now."""
        if self._is_probe_due:
            self._is_probe_due, self._probe = False, event
        if self._probe != event:
            return False
        self._set_timer(self._limit_s)  # if nobody hears of it any more, another one tries
        return True

    def is_trying(self, event: Hashable) -> bool:
        """Whether *event* is the one that tries now."""
        return self.is_open and self._probe == event

    def release_probe(self, event: Hashable) -> None:
        """If *event* is the one that tries, it has ended without a word about what is away."""
        if self.is_trying(event):
            self._probe = None
            self._set_timer()

    def wait(self, event: Hashable, resume: Resume) -> Callable[[], object]:
        """Have *resume* called when *event* may try. Returns how to wait no more."""
        self._waiting[event] = resume
        if self._is_probe_due:
            asyncio.get_running_loop().call_soon(self._let_one_try)
        return lambda: self._waiting.pop(event, None)

    def until(self, event: Hashable) -> Callable[[Resume], Callable[[], object]]:
        """The same for later: what is given *resume*."""
        return lambda resume: self.wait(event, resume)

    def note_failure(self, event: Hashable, error: BaseException) -> bool:
        """Note that an attempt of *event* failed.

        True when the circuit is open: the attempt does not count.
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
        elif self.is_open and self._probe == event:
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
        return self.is_open

    def close_breaker(self) -> None:
        """Something succeeded: the circuit closes, and who waits here may go on."""
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
        if not self.is_open:
            return
        self._is_probe_due, self._probe = not self._waiting, None
        if self._waiting:
            self._probe = next(iter(self._waiting))
            self._set_timer()  # it may be given up before it tries
            self._waiting.pop(self._probe)()
