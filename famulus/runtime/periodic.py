"""Looks that go on as long as the event loop does."""

import asyncio
import time
from collections.abc import Callable


class Beat:
    """Calls *look* every *every_s* seconds with the seconds since the last call.

    A timer of the event loop does it, not a task, which could be cancelled with all others. After a
    freeze of the process at most two intervals are reported, since no condition was observed
    meanwhile.
    """

    def __init__(self, every_s: float, look: Callable[[float], None]) -> None:
        self._every_s, self._look = every_s, look
        self._last_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look every so often from now on."""
        self._last_s = time.monotonic()
        self._turn_later()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _turn_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._every_s, self._turn)

    def _turn(self) -> None:
        now_s = time.monotonic()
        passed_s, self._last_s = min(now_s - self._last_s, 2 * self._every_s), now_s
        self._turn_later()  # first: the look may end all this
        self._look(passed_s)
