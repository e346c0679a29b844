"""The brokers' time as this process knows it, and the error of this machine's clock.

A record that a broker dates when it appends it (LogAppendTime) gives its time. From then on the
monotonic clock counts, so that setting this machine's clock does not change the time of events.
Without such an answer the machine's own clock is used.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from famulus.errors import OperatingError
from famulus.runtime.conditions import Condition
from famulus.wall_clock import wall_ms

log = structlog.get_logger()
LIMIT_S = 2.0  # of one measurement; a later answer is too inexact
EVERY_S = 3600.0  # between two measurements: two clocks drift apart slowly
STEP_S = 0.5  # a larger step of this machine's clock causes a new measurement
TELLING_S = 1.0  # from this difference on, errors name it
# Returns the time of a broker, ms since 1970; None if brokers do not date records.
Stamp = Callable[[], Awaitable[int | None]]


class Clock:
    """The brokers' clock, measured by *stamp*.

    A difference of more than *limit_s* seconds from this machine's clock is a failing condition.
    """

    def __init__(self, stamp: Stamp, limit_s: float) -> None:
        self._stamp, self._limit_s = stamp, limit_s
        self._begin_ms: float | None = None  # the brokers' time when the monotonic clock was 0
        self._measured_s = 0.0  # by the monotonic clock
        # This machine's time at 0 of the monotonic clock, by the last measurement.
        self._wall_s = 0.0
        self._is_told = True  # False after an answer without a time

    def now_ms(self) -> int:
        """Return the brokers' time if it is known, else this machine's, in ms since 1970."""
        if self._begin_ms is None:
            return wall_ms()
        return round(self._begin_ms + time.monotonic() * 1000)

    @property
    def ahead_s(self) -> float | None:
        """Return by how many seconds this machine's clock is ahead of the brokers'.

        Below 0 it is behind. None means unknown.
        """
        return None if self._begin_ms is None else time.time() - self.now_ms() / 1000

    @property
    def words(self) -> str:
        """Return the difference of the clocks as text, "" if it is below `TELLING_S`."""
        ahead_s = self.ahead_s
        if ahead_s is None or abs(ahead_s) < TELLING_S:
            return ""
        return (
            f"this machine's clock is {abs(ahead_s):,.0f} s "
            f"{'ahead of' if ahead_s > 0 else 'behind'} the brokers'"
        )

    async def measure(self) -> None:
        """Measure once. Without an answer the brokers' time goes on as it was known before."""
        at_ms = None
        with suppress(OperatingError, TimeoutError):
            async with asyncio.timeout(LIMIT_S):
                at_ms = await self._stamp()
                self._is_told = at_ms is not None
        self._measured_s = time.monotonic()
        self._wall_s = time.time() - self._measured_s
        if at_ms is not None:
            # Take the time of the stamp for the time of the answer. The result is never ahead of
            # the brokers' clock, so that no event is retried too early.
            self._begin_ms = at_ms - self._measured_s * 1000

    async def look(self) -> list[Condition]:
        """Measure when it is time, and return a condition if the clocks differ too much."""
        now_s = time.monotonic()
        is_set = abs(time.time() - now_s - self._wall_s) > STEP_S
        if self._is_told and (is_set or now_s - self._measured_s > EVERY_S):
            await self.measure()
        if abs(self.ahead_s or 0.0) <= self._limit_s:
            return []
        why = (
            f"{self.words}: set it by NTP; events are dated wrong, and more than an hour ahead "
            "Kafka refuses what this "
            "worker writes"
        )
        return [Condition("clock", "this machine", why, is_red=False)]
