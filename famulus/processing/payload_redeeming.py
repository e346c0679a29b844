"""Redeeming of claim checks: fetch the payload before decoding, within a memory limit.

An unavailable payload store is no failure of an event. Events that need it wait at one circuit
breaker, and use no attempts.
"""

import asyncio
from collections import deque

from famulus.errors import ClaimStoreError
from famulus.formatting import starred
from famulus.processing.deferral import Defer, RetryContext
from famulus.processing.failures.circuit_breaker import CLOSED, Breaker
from famulus.processing.failures.handler_breaker import HandlerBreaker
from famulus.producer.payload_store import PayloadStore
from famulus.serialization.claim_check import redeemed
from famulus.serialization.records import RecordCopy, place_of
from famulus.state.unit_of_work import UnitOfWork, enter

# Opens at the first failure, since the store has its own retries before it reports one.
BREAKER = Breaker(failures=1, events=1, wait_initial_s=1.0)


class PayloadRedeemer:
    """Redeems the claim checks of one worker."""

    def __init__(self, store: PayloadStore) -> None:
        self.store = store
        self.room = MemoryLimit(store.config.in_hand_bytes)
        what, cure = "events wait for the store of large payloads", "they use up no attempts"
        self.breaker = HandlerBreaker(
            BREAKER, starred(store.config.store), what, cure, store.config.timeout_s
        )

    async def redeem(self, unit: UnitOfWork, past: RetryContext | None) -> RecordCopy:
        """Return the record of *unit* with its payload.

        The payload counts against the memory limit until `let_go`. Raises Defer when the store is
        unavailable, and ClaimError when the payload is missing or wrong.
        """
        record, breaker = unit.record, self.breaker
        enter(unit)  # so that the time limit of the previous event does not apply to this wait
        claim = self.store.claim_of(record)
        place = place_of(record)
        if breaker.state is not CLOSED and not breaker.try_acquire_probe(place):
            raise Defer(past or RetryContext(), breaker.until(place))
        await self.room.take(claim.size)
        unit.bytes_redeemed = claim.size
        try:
            payload = await self.store.payload(claim)
        except ClaimStoreError as error:
            breaker.note_failure(place, error)
            raise Defer(past or RetryContext(), breaker.until(place)) from error
        except BaseException:
            breaker.release_probe(place)
            raise
        breaker.passed += 1
        if breaker.state is not CLOSED:
            breaker.close_breaker()
        return redeemed(record, payload)

    def let_go(self, unit: UnitOfWork) -> None:
        """Release the memory of the payload of *unit*."""
        self.room.give(unit.bytes_redeemed)
        unit.bytes_redeemed = 0


class MemoryLimit:
    """A number of bytes that can be taken and given back.

    Callers wait, first come first served, while too few bytes are left.
    """

    def __init__(self, size: int) -> None:
        self.left = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Take *size* bytes, waiting until they are free.

        *size* must not exceed the limit.
        """
        if size <= self.left and not self._waiting:
            self.left -= size
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self.give(0)
            else:
                self.give(size)
            raise

    def give(self, size: int) -> None:
        """Give *size* bytes back."""
        self.left += size
        while self._waiting and (
            self._waiting[0][1].cancelled() or self._waiting[0][0] <= self.left
        ):
            wanted, turn = self._waiting.popleft()
            if not turn.cancelled():
                self.left -= wanted
                turn.set_result(None)
