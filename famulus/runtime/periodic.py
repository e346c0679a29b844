"""Periodic calls that go on as long as the event loop runs."""

import asyncio
import time
from collections.abc import Callable


class Beat:
    """Calls *look* every *every_s* seconds with the seconds since the last call.

    A timer of the event loop makes the calls. A task could be cancelled with all others. After a
    freeze of the process at most two intervals are passed, since nothing was observed meanwhile.
    """

    def __init__(self, every_s: float, look: Callable[[float], None]) -> None:
        self._every_s, self._look = every_s, look
        self._last_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the periodic calls; the first one follows after an interval."""
        self._last_s = time.monotonic()
        self._turn_later()

    def stop(self) -> None:
        """Stop the periodic calls."""
        if self._timer is not None:
            self._timer.cancel()

    def _turn_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._turn)

    def _turn(self) -> None:
        now_s = time.monotonic()
        passed_s, self._last_s = min(now_s - self._last_s, 2 * self._every_s), now_s
        self._turn_later()  # before the call, which may stop this
        self._look(passed_s)
