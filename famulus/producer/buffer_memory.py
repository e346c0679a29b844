"""Memory limit for records that wait to be sent.

A caller that finds no room waits, and gets it in the order of arrival.
"""

import asyncio
from collections import deque

FIRST_GUESS = 1_024  # assumed bytes of a record, until the first one was seen


class BufferMemory:
    """Account of the bytes used, limited to *limit*.

    The limit may be exceeded by one record, because a record is admitted before its size is known.
    """

    def __init__(self, limit: int) -> None:
        self.used = 0
        self._limit = limit
        self._usual = FIRST_GUESS
        # The result of each future is the number of bytes reserved until `take` gives the size.
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._invited = 0  # callers that were admitted and have not called `take` yet

    def enter_now(self) -> bool:
        """Enter if there is room and no other caller waits; return whether it did.

        After True, `take` must be called at once.
        """
        if self._waiting or self._invited or self.used >= self._limit:
            return False
        self._invited = 1
        return True

    async def enter(self) -> None:
        """Wait for room.

        `take` must be called at once afterwards, with 0 when there is nothing to take. Raises the
        error that is given to `shut`.
        """
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
        """Take *size* bytes after `enter` or `enter_now`.

        When all callers that were admitted together have called this, waiting ones are admitted.
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
        """Raise *error* in every caller that waits for room."""
        while self._waiting:
            given = self._waiting.popleft()
            if not given.done():
                given.set_exception(error)

    def _invite(self) -> None:
        """Admit as many waiting callers as are likely to fit.

        None is admitted while earlier ones have not called `take` yet, which keeps the order.
        """
        if self._invited:
            return
        while self._waiting and self.used < self._limit:
            given = self._waiting.popleft()
            if not given.done():
                self._invited += 1
                self.used += self._usual
                given.set_result(self._usual)
