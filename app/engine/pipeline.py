"""The life of a batch, top to bottom: this file is where to start reading.

The promise, which every other file serves:

1. No event is lost: a record below the committed offset was handled, was a duplicate, or lies in the dead letter topic.
2. Per key in order: event n+1 of a key starts only when n is settled.
3. Each event id takes effect once in tables, within the dedupe window.
4. Tables equal the fold of the settled events: after a kill, a move to another worker, a rebuild from the changelog.
5. The dead letter topic holds the events that failed for good, bytes unchanged, and says why.

Kafka -> transport (whole partition batches) -> flow (one partition: lanes, groups, offsets) -> crew (who does it) ->
**pipeline**: decode -> duplicate? -> handlers in a unit of work, again after a wait when they fail -> dead letter ->
group -> settle -> offsets finished -> Faust commits them.
"""

import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import structlog
from faust import Record as Event

from app.deadletter.record import DeadLetters, Failure
from app.engine.dispatch import Dispatcher, EventTypes, Handler, OnUnknownType
from app.engine.retry import Again
from app.errors import DecodeError, InvariantError, OperatingError
from app.observe.metrics import Counts
from app.state.dedupe import Dedupe
from app.state.partition import Partition
from app.state.unit import Unit, Unwound, Waiters, enter
from app.storage.changelog import Mark, store_mark
from app.storage.store import StoreError
from app.wire.envelope import Outcome, Record, delivery_of, event_id_of

log = structlog.get_logger()
STORE_RETRY_S = 1.0  # between two tries to read a store whose disk does not let us
Order = Literal["key", "partition"]
Wait = Callable[[float], Awaitable[None]]  # seconds; raises Abandoned


# A record that is to be carried; the key of its mark, if that is known before decoding; what the store had under it
# when so many groups had reached it; the stream's time. A plain tuple, since one is made for every record.
Work = tuple[Record, bytes, bytes | None, int, int]


class Abandoned(Exception):  # noqa: N818  # no error: the event is left for whoever has the partition next
    """The partition went away, or the worker stops, before the event was done."""


@dataclass(frozen=True)
class Pipeline:
    """Carries the events of one subscription. *dedupe* None takes every record for a new event."""

    types: EventTypes
    dispatcher: Dispatcher
    dedupe: Dedupe | None
    counts: Counts
    on_unknown_type: OnUnknownType
    order: Order
    dead_letters: DeadLetters

    def lanes_of(self, records: Sequence[Record]) -> list[Hashable]:
        """What each record must not overtake: its key; without one its event id; or the whole partition."""
        if self.order == "partition":
            return [None] * len(records)
        return [event_id_of(record) if record.key is None else record.key for record in records]

    def works_of(self, records: Sequence[Record], state: Partition, stream_ms: Iterable[int]) -> Iterator[Work]:
        """What `carry` needs to know of each record. The store is looked into once for all, if the disk lets us."""
        keys = self.dedupe.keys(records) if self.dedupe is not None else []
        if self.dedupe is None or not keys:
            return zip(records, repeat(b""), repeat(None), repeat(-1), stream_ms, strict=False)
        try:
            stored, applied = self.dedupe.stored(state, keys), state.applied
        except StoreError:  # each event looks for itself when its turn comes, and waits for the disk
            stored, applied = [None] * len(keys), -1
        return zip(records, keys, stored, repeat(applied), stream_ms, strict=False)

    async def carry(self, work: Work, state: Partition, wait: Wait) -> Outcome:  # noqa: C901, PLR0912  # all of it
        """Carry one event until nothing of it is left but settling the group: its effects, or its dead letter.

        Raises Abandoned when *wait* does.
        """
        record = work[0]
        waiters = None
        failed: dict[str, int] | None = None  # attempts by handler: undoing an event does not undo them
        try:
            event = self.types.decode(record)
            if event is None:
                return self._unknown(record)
            handlers = self.dispatcher.handlers_of(type(event))
            while True:  # again after another event to which a row belonged, or when the disk is back: see state.unit
                unit = Unit(state, record, waiters)
                enter(unit)
                try:
                    if self.dedupe is not None and self._is_duplicate(self.dedupe, work, event, unit):
                        return "duplicate"
                    for handler in handlers:
                        before = unit.savepoint(handler.name)
                        try:
                            await (
                                handler.target(event)
                                if handler.is_plain
                                else self._call(handler, event, unit, failed.get(handler.name, 0) + 1 if failed else 1)
                            )
                        except Exception as error:  # noqa: BLE001  # whatever a handler raises
                            unit.rollback(before)
                            failed = failed or {}
                            await self._retry(handler, event, unit, error, wait, failed)
                    if not unit.is_undone:
                        if unit.has_effects:
                            unit.join()
                        return "handled"
                except (Exception, Unwound, BaseExceptionGroup):
                    if not unit.is_undone:
                        raise
                finally:
                    unit.is_ended = True
                    if unit.is_live or unit.waiters:
                        unit.end()
                waiters = await _next_turn(unit, wait)
        except (Abandoned, OperatingError):
            raise
        except Exception as error:  # noqa: BLE001  # whatever a handler raised for the last time
            self._bury(record, error, state)
            return "dead_lettered"

    def _is_duplicate(self, dedupe: Dedupe, work: Work, event: Event, unit: Unit) -> bool:
        """Whether this event was seen before. If not, *unit* gets the mark that it will leave."""
        record, key, stored, applied, stream_ms = work
        key = key or dedupe.key(event)
        earlier = dedupe.earlier(unit, type(event), key, applied, stored, stream_ms)
        if earlier is not None:
            self.counts.note_duplicate(unit.event_id, record, earlier.seen_ms, earlier.offset)
            return True
        unit.mark = key, store_mark(Mark(stream_ms, record.offset))
        return False

    def _unknown(self, record: Record) -> Outcome:
        """What becomes of a record whose type has no handler here."""
        if self.on_unknown_type == "fail":
            raise InvariantError(f"{_place(record)} is of a type that nobody here handles")
        if self.on_unknown_type == "dead_letter":
            raise DecodeError("$", "a type that nobody here handles")
        return "ignored"

    async def _call(self, handler: Handler, event: Event, unit: Unit, attempt: int) -> None:
        delivery = delivery_of(unit.record, unit.event_id, attempt) if handler.wants_delivery else None
        await self.dispatcher.call(handler, event, delivery)

    async def _retry(  # noqa: PLR0913, PLR0917  # all that an attempt needs
        self, handler: Handler, event: Event, unit: Unit, error: Exception, wait: Wait, failed: dict[str, int]
    ) -> None:  # fmt: skip
        """After a failed attempt: run the handler again until it succeeds, or raise its last error.

        *failed* counts the attempts of each handler. They count although the event is undone in between: else two
        events that fail for good, and want the same row, would undo each other for ever.
        """
        while not unit.is_undone:  # else the handler made its own error of what was to pass through it
            attempt = failed[handler.name] = failed.get(handler.name, 0) + 1
            decision = handler.retry.decide(error, attempt)
            if not isinstance(decision, Again):
                break
            self.counts["retried"] += 1
            log.info("again", record=_place(unit.record), handler=handler.name, attempt=attempt,
                     delay_s=decision.delay_s)  # fmt: skip
            await wait(decision.delay_s)
            before = unit.savepoint(handler.name)
            try:
                await self._call(handler, event, unit, attempt + 1)
            except Exception as again:  # noqa: BLE001  # whatever a handler raises
                unit.rollback(before)
                error = again
            else:
                return
        raise error

    def _bury(self, record: Record, error: Exception, state: Partition) -> None:
        """Put the dead letter into the group: it leaves before the event's offset is finished."""
        kind, event_id = type(error).__qualname__, event_id_of(record)
        log.warning("dead letter", record=_place(record), event_id=event_id, error=kind, reason=str(error)[:256])
        failure = Failure("permanent", error, time.time_ns() // 1_000_000)
        state.filling.outbox.append(self.dead_letters.letter(record, failure))


async def _next_turn(unit: Unit, wait: Wait) -> Waiters | None:
    """Wait until the event in the way of *unit* has ended, or for the disk. Returns who waits behind this one then.

    Raises Abandoned when the partition was taken away meanwhile; those behind it have their turn to learn it, too.
    """
    waiters = await unit.wait_for_owner()
    try:
        await wait(0 if unit.in_the_way is not None else STORE_RETRY_S)
    except Abandoned:
        Unit(unit.partition, unit.record, waiters).end()
        raise
    return waiters


def _place(record: Record) -> str:
    return f"{record.topic}-{record.partition} offset {record.offset}"
