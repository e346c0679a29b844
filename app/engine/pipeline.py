"""The life of a batch, top to bottom: this file is where to start reading.

The promise, which every other file serves:

1. No event is lost: a record below the committed offset was handled, was a duplicate, or lies in the dead letter topic.
2. Per key in order: event n+1 of a key starts only when n is settled.
3. Each event id takes effect once in tables, within what the marks remember.
4. Tables hold the effects of settled events.
5. The dead letter topic holds the events that failed for good, bytes unchanged, and says why.

Kafka -> transport (whole partition batches) -> flow (one partition: lanes, groups, offsets) -> crew (who does it) ->
**pipeline**: decode -> duplicate? -> handlers in a unit of work, again after a wait when they fail -> dead letter ->
group -> settle -> offsets finished -> Faust commits them.
"""

import itertools
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import structlog
from faust import Record as Event

from app.deadletter.record import dead_letter
from app.engine.dispatch import Dispatcher, EventTypes, Handler, OnUnknownType
from app.engine.retry import Again
from app.errors import DecodeError, InvariantError
from app.observe.metrics import Counts
from app.state import commit
from app.state.dedupe import Dedupe
from app.state.group import Group, Groups
from app.state.tables import Table
from app.state.unit import Unit
from app.wire.envelope import Outcome, Record, delivery_of, event_id_of

log = structlog.get_logger()
Order = Literal["key", "partition"]
Wait = Callable[[float], Awaitable[None]]  # seconds; raises Abandoned


class Abandoned(Exception):  # noqa: N818  # no error: the event is left for whoever has the partition next
    """The partition went away, or the worker stops, before the event was done."""


@dataclass(frozen=True)
class Pipeline:
    """Carries the events of one subscription. *dedupe* None takes every record for a new event."""

    types: EventTypes
    dispatcher: Dispatcher
    dedupe: Dedupe | None
    tables: dict[str, Table[object, object]]
    sender: commit.Sender
    counts: Counts
    on_unknown_type: OnUnknownType
    order: Order

    def lane_of(self, record: Record) -> Hashable:
        """What the record must not overtake: its key; without one its event id; or the whole partition."""
        if self.order == "partition":
            return None
        return event_id_of(record) if record.key is None else record.key

    def known(self, partition: int, records: Sequence[Record]) -> list[bool]:
        """For each record whether the store knows its event id. One look for all."""
        if self.dedupe is None:
            return [False] * len(records)
        return self.dedupe.known(partition, map(event_id_of, records))

    async def carry(self, record: Record, is_stored: bool | None, groups: Groups, wait: Wait) -> Outcome:  # noqa: FBT001  # positional for speed
        """Carry one event until nothing of it is left but settling the group: its effects, or its dead letter.

        *is_stored* is what `known` said, None when the store has changed since. Raises Abandoned when *wait* does.
        """
        try:
            event = self._decode(record)
            if event is None:
                return "ignored"
            while True:  # again when another event changed a row that this one read: see state.unit
                unit = Unit(groups, record)
                if self.dedupe is not None:
                    if self.dedupe.is_marked(unit, is_stored=is_stored):
                        return "duplicate"
                    self.dedupe.mark(unit, timestamp_ms=record.timestamp, offset=record.offset)
                    is_stored = None
                for handler in self.dispatcher.handlers_of(type(event)):
                    await self._attempt(handler, event, unit, wait)
                if unit.join():
                    return "handled"
        except (Abandoned, InvariantError):
            raise
        except Exception as error:  # noqa: BLE001  # whatever a handler raised for the last time
            self._bury(record, error, groups)
            return "dead_lettered"

    async def settle(self, group: Group, may_apply: Callable[[], bool]) -> None:
        """Make a group's effects durable. Raises what Kafka raises; then nothing of it is finished, all comes again."""
        await commit.settle(group, self.tables, self.sender, may_apply)

    def _decode(self, record: Record) -> Event | None:
        """The event, or None when nobody here handles its type and that is fine."""
        event = self.types.decode(record)
        if event is None and self.on_unknown_type != "ignore":
            if self.on_unknown_type == "fail":
                raise InvariantError(f"{_place(record)} is of a type that nobody here handles")
            raise DecodeError("$", "a type that nobody here handles")
        return event

    async def _attempt(self, handler: Handler, event: Event, unit: Unit, wait: Wait) -> None:
        """Run one handler until it succeeds or is given up; then its last error is raised."""
        for attempt in itertools.count(1):
            before = unit.savepoint(handler.name)
            try:
                with unit:
                    delivery = delivery_of(unit.record, unit.event_id, attempt) if handler.wants_delivery else None
                    await self.dispatcher.call(handler, event, delivery)
            except Exception as error:
                unit.rollback(before)
                decision = handler.retry.decide(error, attempt)
                if not isinstance(decision, Again):
                    raise
                self.counts.retried += 1
                place = _place(unit.record)
                log.info("again", record=place, handler=handler.name, attempt=attempt, delay_s=decision.delay_s)
            else:
                return
            await wait(decision.delay_s)

    def _bury(self, record: Record, error: Exception, groups: Groups) -> None:
        """Put the dead letter into the group: it leaves before the event's offset is finished."""
        kind, event_id = type(error).__qualname__, event_id_of(record)
        log.warning("dead letter", record=_place(record), event_id=event_id, error=kind, reason=str(error)[:256])
        groups.filling.outbox.append(dead_letter(record, error, datetime.now(UTC)))


def _place(record: Record) -> str:
    return f"{record.topic}-{record.partition} offset {record.offset}"
