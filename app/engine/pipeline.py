"""The life of a batch, top to bottom: this file is where to start reading.

The promise, which every other file serves:

1. No event is lost: a record below the committed offset was handled, was a duplicate, or lies in the dead letter topic.
2. Per key in order: event n+1 of a key starts only when n is settled.
3. Each event id takes effect once in tables, within what the marks remember.
4. Tables hold the effects of settled events.
5. The dead letter topic holds the events that failed for good, bytes unchanged, and says why.

Kafka -> transport (whole partition batches) -> **pipeline**: decode -> duplicate? -> handlers in a unit of work, again
after a wait when they fail -> dead letter -> settle the group -> offsets finished -> Faust commits them.
"""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from faust import Record as Event

from app.deadletter.record import dead_letter
from app.engine.dispatch import Dispatcher, EventTypes, Handler, OnUnknownType
from app.engine.offsets import PartitionOffsets
from app.engine.retry import Again
from app.errors import DecodeError
from app.observe.metrics import Counts, Outcome
from app.state.commit import Sender, settle
from app.state.dedupe import Dedupe
from app.state.tables import Table
from app.state.unit import Group, Unit
from app.wire.envelope import Record, delivery_of, event_id_of

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one partition as they were fetched, oldest first, and the ledger that they are entered in."""

    records: Sequence[Record]
    offsets: PartitionOffsets


@dataclass(frozen=True)
class Pipeline:
    """Carries the batches of one subscription."""

    types: EventTypes
    dispatcher: Dispatcher
    dedupe: Dedupe
    tables: Mapping[str, Table[object, object]]
    sender: Sender
    counts: Counts
    on_unknown_type: OnUnknownType

    async def carry(self, batch: Batch) -> None:
        """Carry every record of *batch* to its end and settle them all.

        Returns when every effect is durable. Raises what Kafka raises when it cannot be made durable; then nothing of
        this batch is finished and all of it comes again.
        """
        group = Group(batch.records[0].partition)
        ids = [event_id_of(record) for record in batch.records]
        known = self.dedupe.known(group, ids)
        outcomes: list[Outcome] = [
            "duplicate"
            if seen or self.dedupe.is_marked(group, event_id)
            else await self._carry_one(record, event_id, group)
            for record, event_id, seen in zip(batch.records, ids, known, strict=True)
        ]
        await settle(group, self.tables, self.sender)
        for record, outcome in zip(batch.records, outcomes, strict=True):
            batch.offsets.finished(record.offset)
            self.counts.add(outcome)

    async def _carry_one(self, record: Record, event_id: str, group: Group) -> Outcome:
        """One event: decoded, handled, its effects joined to the group; or its dead letter put beside them."""
        try:
            event = self._decode(record)
            if event is None:
                return "ignored"
            unit = Unit(group, event_id)
            for handler in self.dispatcher.handlers_of(type(event)):
                await self._attempt(handler, event, record, unit)
        except Exception as error:  # noqa: BLE001  # whatever a handler raised for the last time
            self._bury(record, event_id, error, group)
            return "dead_lettered"
        self.dedupe.mark(unit, timestamp_ms=record.timestamp, offset=record.offset)
        unit.join()
        return "handled"

    def _decode(self, record: Record) -> Event | None:
        """The event, or None when nobody here handles its type and that is fine."""
        event = self.types.decode(record)
        if event is None and self.on_unknown_type == "dead_letter":
            raise DecodeError("$", "a type that nobody here handles")
        return event

    async def _attempt(self, handler: Handler, event: Event, record: Record, unit: Unit) -> None:
        """Run one handler until it succeeds or is given up; then its last error is raised."""
        for attempt in itertools.count(1):
            before = unit.savepoint(handler.name)
            try:
                with unit:
                    await self.dispatcher.call(handler, event, delivery_of(record, unit.event_id, attempt))
            except Exception as error:
                unit.rollback(before)
                decision = handler.retry.decide(error, attempt)
                if not isinstance(decision, Again):
                    raise
                self.counts.retried += 1
                place = _place(record, unit.event_id)
                log.info("again", **place, handler=handler.name, attempt=attempt, delay_s=decision.delay_s)
            else:
                return
            await asyncio.sleep(decision.delay_s)

    def _bury(self, record: Record, event_id: str, error: Exception, group: Group) -> None:
        """Put the dead letter into the group: it leaves before the event's offset is finished."""
        log.warning("dead letter", **_place(record, event_id), error=type(error).__qualname__, reason=str(error)[:256])
        group.outbox.append(dead_letter(record, error, datetime.now(UTC)))


def _place(record: Record, event_id: str) -> dict[str, object]:
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset, "event_id": event_id}
