"""Claim checks on their way in: the payload is fetched before the event is decoded, and within a limit of memory.

A store that is away is no failure of an event: events that need it wait at one circuit breaker, and use up no
attempts.
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

# Each failure is one of the store, after tries of its own.
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
        """*unit*'s record with its payload, which takes up room until `let_go`.

        Raises Rest when the store is away, ClaimError when the payload cannot be had.
        """
        record, breaker = unit.record, self.breaker
        enter(unit)  # while it is waited for, the time limits of the event before do not count
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
        """Nobody needs the payload any more."""
        self.room.give(unit.bytes_redeemed)
        unit.bytes_redeemed = 0


class MemoryLimit:
    """So many bytes, taken and given back.

    Whoever finds too few left waits, in the order of coming.
    """

    def __init__(self, size: int) -> None:
        self.left = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Take *size* bytes, which must not be more than there are in all."""
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
