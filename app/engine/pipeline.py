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
from app.state.unit import Unit, enter
from app.wire.envelope import Outcome, Record, delivery_of, event_id_of

log = structlog.get_logger()
Order = Literal["key", "partition"]
Work = tuple[Record, bool, int]  # the record, whether its mark was stored when it was looked up, and `applied` then
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

    def lanes_of(self, records: Sequence[Record]) -> list[Hashable]:
        """What each record must not overtake: its key; without one its event id; or the whole partition."""
        if self.order == "partition":
            return [None] * len(records)
        return [event_id_of(record) if record.key is None else record.key for record in records]

    def known(self, partition: int, records: Sequence[Record]) -> list[bool]:
        """For each record whether the store knows its event id. One look for all."""
        if self.dedupe is None:
            return [False] * len(records)
        return self.dedupe.known(partition, map(event_id_of, records))

    async def carry(self, work: Work, groups: Groups, wait: Wait) -> Outcome:
        """Carry one event until nothing of it is left but settling the group: its effects, or its dead letter.

        Raises Abandoned when *wait* does.
        """
        record, is_known, applied = work
        try:
            event = self.types.decode(record)
            if event is None:
                return self._unknown(record)
            handlers = self.dispatcher.handlers_of(type(event))
            while True:  # again when another event changed a row that this one read: see state.unit
                unit = Unit(groups, record)
                enter(unit)
                if self.dedupe is not None:
                    if self.dedupe.is_marked(unit, is_stored=is_known if applied == groups.applied else None):
                        return "duplicate"
                    self.dedupe.mark(unit, timestamp_ms=record.timestamp, offset=record.offset)
                for handler in handlers:
                    before = unit.savepoint(handler.name)
                    try:
                        await (handler.target(event) if handler.is_plain else self._call(handler, event, unit, 1))
                    except Exception as error:  # noqa: BLE001  # whatever a handler raises
                        unit.rollback(before)
                        await self._retry(handler, event, unit, error, wait)
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

    async def _retry(self, handler: Handler, event: Event, unit: Unit, error: Exception, wait: Wait) -> None:
        """After a failed first attempt: run the handler again until it succeeds, or raise its last error."""
        for attempt in itertools.count(1):
            decision = handler.retry.decide(error, attempt)
            if not isinstance(decision, Again):
                raise error
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

    def _bury(self, record: Record, error: Exception, groups: Groups) -> None:
        """Put the dead letter into the group: it leaves before the event's offset is finished."""
        kind, event_id = type(error).__qualname__, event_id_of(record)
        log.warning("dead letter", record=_place(record), event_id=event_id, error=kind, reason=str(error)[:256])
        groups.filling.outbox.append(dead_letter(record, error, datetime.now(UTC)))


def _place(record: Record) -> str:
    return f"{record.topic}-{record.partition} offset {record.offset}"
