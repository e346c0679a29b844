"""BufferMemory for records that wait to be sent: so many bytes.

Who finds none waits, and gets some in the order of coming.
"""

import asyncio
from collections import deque

FIRST_GUESS = 1_024  # bytes of a record, while none was seen


class BufferMemory:
    """BufferMemory for *limit* bytes.

    One record more than that may be inside: it is entered first, and weighed then.
    """

    def __init__(self, limit: int) -> None:
        self.used = 0
        self._limit = limit
        self._usual = FIRST_GUESS
        # The bytes that are kept until it says how many it takes.
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._invited = 0  # of those that waited: they have room, and have not come in yet

    def enter_now(self) -> bool:
        """Enter if there is room and nobody was first. Then `take` has to follow at once."""
        if self._waiting or self._invited or self.used >= self._limit:
            return False
        self._invited = 1
        return True

    async def enter(self) -> None:
        """Wait for room. `take` has to follow at once, with 0 when there is nothing to take."""
        given: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(given)
        try:
            kept = await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled() and given.exception() is None:
                self.used -= given.result()
                self.take(0)
            raise
        self.used -= kept

    def take(self, size: int) -> None:
        """Take *size* bytes, behind `enter`.

        Whoever waits is let in when those who were before are inside.
        """
        self._invited -= 1
        self.used += size
        if size:
            self._usual = max(size, self._usual - self._usual // 16)
        self._invite()

    def leave(self, size: int) -> None:
        """Give *size* bytes back."""
        self.used -= size
        self._invite()

    def shut(self, error: Exception) -> None:
        """Have everybody who waits for room fail with *error*."""
        while self._waiting:
            given = self._waiting.popleft()
            if not given.done():
                given.set_exception(error)

    def _invite(self) -> None:
        """Let in as many as are likely to fit, and nobody while others are on their way in: they were first."""
        if self._invited:
            return
        while self._waiting and self.used < self._limit:
            given = self._waiting.popleft()
            if not given.done():
                self._invited += 1
                self.used += self._usual
                given.set_result(self._usual)
