"""The unit of work: what one event changes.

A handler that raises discards it, one that succeeds leaves it behind.

A unit belongs to one attempt of one handler. What a later attempt, or the next handler of the
event, keeps of it is in the unit that comes after it. So a task that outlives its handler has the
unit of that handler alone: it can neither change the next attempt nor leave anything where nobody
looks.

Handlers of many keys are in hand at once. One that never suspends runs in one piece, so nothing
comes between what it reads and what it writes. When one suspends, every row that it has touched, or
touches from then on, belongs to it until it ends. Another event that touches such a row is undone
on the spot, waits for the owner's end, and is handled again: no update is lost, nothing half done
is read, and since nobody waits while owning anything, nobody waits for ever.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from itertools import islice

import svcs

from famulus.errors import AttemptEndedError, PermanentError
from famulus.serialization.records import (
    ConsumerRecord,
    Lineage,
    ProducerRecord,
    cause_of,
    event_id_of,
)
from famulus.state.changelog import MARK_BYTES, RECORD_OVERHEAD
from famulus.state.partition_state import PartitionState, Rows
from famulus.state.rocksdb_store import StoreError

# The rows; how many events were to be published, how many rows touched.
Savepoint = tuple[Rows, int, int]
NOTHING: Savepoint = ({}, 0, 0)
NO_ROWS: Rows = {}  # never written to: what many units would have of their own for nothing
NO_TOUCHED: dict[bytes, None] = {}
NO_OUTBOX: list[ProducerRecord] = []
NO_READS: list["Callable[[Rows], None]"] = []
# Events that wait for one to end, in the order of their coming.
Waiters = deque["asyncio.Future[Waiters]"]


class RowConflictError(BaseException):  # no error, and no Exception: handlers must let it pass
    """A row belongs to another event in hand: this event is undone, and handled again after that one."""


class EffectsTooLargeError(PermanentError):
    """What one event changes does not fit into one record batch."""


class UnitOfWork:
    """The effects of one event as of one attempt of one handler.

    Tables write into it, the event bus publishes through it.
    """

    # There is one for every event: slots are read in half the time, and most of it is made when it
    # is needed.
    __slots__ = (
        "_cause",
        "_event_id",
        "_first",
        "_touched",
        "_unchecked",
        "bytes_redeemed",
        "handler",
        "in_the_way",
        "is_discarded",
        "is_ended",
        "is_live",
        "is_resting",
        "is_stopped",
        "is_timed_out",
        "is_undone",
        "mark",
        "outbox",
        "partition",
        "reads",
        "record",
        "rows",
        "services",
        "unawaited",
        "waiters",
    )

    def __init__(
        self, partition: PartitionState, record: ConsumerRecord, waiters: Waiters | None = None
    ) -> None:
        self.partition, self.record, self.waiters = partition, record, waiters
        self.handler = ""
        self.rows, self.outbox = NO_ROWS, NO_OUTBOX
        # What its handler has called and not awaited, so that nothing of it was done.
        self.unawaited = ""
        # Of the event's handlers, once one has asked for any; closed before an attempt ends badly.
        self.services: svcs.Container | None = None
        # What checks the values that were read, and can be changed in place, at the end.
        self.reads = NO_READS
        self.mark: tuple[bytes, bytes] | None = None  # that it leaves, as the store keeps it
        # Owns a row that this one touched, or has its mark.
        self.in_the_way: UnitOfWork | None = None
        # To be handled again: another one is in the way, or the store could not be read.
        self.is_undone = False
        self.is_live = False  # it has suspended, and owns what it touched, and its mark
        self.is_ended = False
        self.is_discarded = False  # it has ended, and nothing that it did counts
        self.is_stopped = False  # the worker stops: what cancels it now is that
        self.is_resting = False  # it has not ended, but nobody is at work on it
        self.is_timed_out = False  # its attempt was cancelled because it took too long
        self.bytes_redeemed = 0  # of its payload, which its record does not carry
        self._touched = NO_TOUCHED  # a set in the order of touching
        # Of `outbox`: may have to be replaced before they leave.
        self._unchecked: list[ProducerRecord] | None = None
        self._event_id = ""
        self._cause: Lineage | None = None
        self._first = 0  # place in the outbox of the first event that the current handler publishes

    @property
    def event_id(self) -> str:
        """What makes the event the same event when it comes again.

        Made when somebody asks for it.
        """
        self._event_id = self._event_id or event_id_of(self.record)
        return self._event_id

    @property
    def cause(self) -> Lineage:
        """What the event hands on to those that are published because of it.

        Made when somebody asks for it.
        """
        if self._cause is None:
            self._cause = cause_of(self.record)
        return self._cause

    # Rows.

    def row(self, key: bytes) -> bytes | None:
        """The newest value of a row as this event sees it.

        Raises Unwound when the row belongs to another one, StoreError when the disk does not let us
        look now; then the event is undone, whatever its handler makes of that.
        """
        if key in self.rows:
            return self.rows[key]
        self.touch(key)
        try:
            return self.partition.row(key)
        except StoreError:
            self.is_undone = True
            raise

    def earlier(self, key: bytes, applied: int, stored: bytes | None) -> bytes | None:
        """The mark that the event left when it was seen before, see `Partition.mark`.

        Raises as `row` does.
        """
        if self.partition.owners:
            self._check_owner(key)
        try:
            return self.partition.mark(key, applied, stored)
        except StoreError:
            self.is_undone = True
            raise

    def leave(self, key: bytes, mark: bytes) -> None:
        """Leave a mark under *key*, which no other event in hand may have: `earlier` has said so just now."""
        self.mark = key, mark
        if self.is_live:
            self.partition.owners[key] = self

    def write(self, key: bytes, value: bytes | None) -> None:
        """Set a row, or delete it with None.

        Raises as `row` does, and TypeError when the event is done.
        """
        if self.is_ended:
            raise TypeError("a table was changed after the event that it was changed for was done")
        if key not in self._touched:
            self.touch(key)
        if self.rows is NO_ROWS:
            self.rows = {}
        self.rows[key] = value

    def touch(self, key: bytes) -> None:
        """Have a row belong to this event while it is in hand.

        Raises Unwound when it does to another.
        """
        if self.partition.owners:
            self._check_owner(key)
        if self.is_live:
            self.partition.owners[key] = self
        if self._touched is NO_TOUCHED:
            self._touched = {key: None}
        else:
            self._touched[key] = None

    def _check_owner(self, key: bytes) -> None:
        owner = self.partition.owners.get(key)
        if owner is not None and owner is not self:
            self.in_the_way, self.is_undone = owner, True
            raise RowConflictError

    def check_later(self, check: Callable[[Rows], None]) -> None:
        """Have *check* look at what was written when the event joins. It may raise."""
        if self.reads is NO_READS:
            self.reads = []
        self.reads.append(check)

    # Events to publish.

    def publish(self, record: ProducerRecord) -> None:
        """Let *record* leave with the event's other effects."""
        if self.outbox is NO_OUTBOX:
            self.outbox = []
        self.outbox.append(record)

    def publish_unchecked(self, record: ProducerRecord) -> None:
        """The same for a record that leaves only once `replace` has said what leaves in its place."""
        self.publish(record)
        if self._unchecked is None:
            self._unchecked = []
        self._unchecked.append(record)

    def replace(self, record: ProducerRecord, by: ProducerRecord | None) -> None:
        """Let *by*, or nothing, leave in the place of *record*, which was published unchecked.

        Does nothing once the attempt has ended: *record* did not leave with it.
        """
        if self.is_ended:
            return
        self._unchecked = [other for other in self._unchecked or () if other is not record] or None
        for place, published in enumerate(self.outbox):
            if published is record:
                self.outbox[place : place + 1] = [] if by is None else [by]
                return

    @property
    def position(self) -> int:
        """How many events the current handler has published so far."""
        return len(self.outbox) - self._first

    # Attempts.

    def savepoint(self, handler: str) -> Savepoint:
        """Begin an attempt of *handler*; `rollback` with the result undoes what the attempt did."""
        self.handler = handler
        if self._touched is NO_TOUCHED and self.outbox is NO_OUTBOX:
            return NOTHING
        self._first = len(self.outbox)
        return dict(self.rows) if self.rows else NO_ROWS, self._first, len(self._touched)

    def rollback(self, to: Savepoint) -> "UnitOfWork":
        """End the attempt, and undo everything since `savepoint`.

        Returns the unit that is left of the event.
        """
        rows, kept, touched = to
        if self.is_live:
            for key in islice(self._touched, touched, None):
                self.partition.owners.pop(key, None)
        self._pass_on()
        self.is_discarded = True
        return self._left(
            dict(rows) if rows else NO_ROWS, self.outbox[:kept], islice(self._touched, touched)
        )

    def passed(self) -> "UnitOfWork":
        """End the attempt, which has succeeded.

        Returns the unit of the event's next handler, with its effects.
        """
        unit = self._left(self.rows, self._checked(), self._touched)
        unit.reads = self.reads
        return unit

    def _left(
        self, rows: Rows, outbox: list[ProducerRecord], touched: Iterable[bytes]
    ) -> "UnitOfWork":
        """What is left of the event for its next attempt. This unit has ended, and owns nothing."""
        unit = UnitOfWork(self.partition, self.record, self.waiters)
        unit.handler, unit.mark = self.handler, self.mark
        unit.rows, unit.outbox, unit._touched = (
            rows,
            outbox or NO_OUTBOX,
            dict.fromkeys(touched) or NO_TOUCHED,
        )
        unit.in_the_way, unit.is_undone = self.in_the_way, self.is_undone
        unit.is_timed_out, unit.is_stopped, unit.is_live = (
            self.is_timed_out,
            self.is_stopped,
            self.is_live,
        )
        unit._event_id, unit._cause, unit._first = self._event_id, self._cause, len(outbox)
        unit.bytes_redeemed, self.bytes_redeemed = self.bytes_redeemed, 0
        unit.services, self.services = self.services, None
        if self.is_live:
            self.partition.owners.update(dict.fromkeys(unit._owned(), unit))
        self.waiters, self.is_live, self.is_ended = None, False, True
        return unit

    def _checked(self) -> list[ProducerRecord]:
        """What may leave: a task that outlives its handler has to send what it has not checked by itself."""
        if self._unchecked is None:
            return self.outbox
        return [
            record
            for record in self.outbox
            if not any(record is other for other in self._unchecked)
        ]

    def join(self) -> None:
        """Make the effects, and the event's mark, part of the group that fills.

        Raises EffectsTooLargeError, and what a check of `check_later` raises; then nothing is done.
        """
        for check in self.reads:
            check(self.rows)
        rows, partition, size = self.rows, self.partition, MARK_BYTES
        for key, value in rows.items():
            size += (
                len(key) + RECORD_OVERHEAD
                if value is None
                else len(key) + len(value) + RECORD_OVERHEAD
            )
        if size > partition.group_bytes:
            raise EffectsTooLargeError(
                f"its effects on tables take {size} bytes, at most {partition.group_bytes} are "
                "settled at once"
            )
        group = partition.group_for(size)
        if rows:
            group.rows.update(rows)
        if self.mark is not None:
            group.marks[self.mark[0]] = self.mark[1]
        if self.outbox:
            group.outbox += self._checked()

    # Owning.

    def suspend(self) -> None:
        """The handler waits for something: from now on what it touched is its own."""
        if not (self.is_live or self.is_ended):
            self.is_live = True
            self.partition.owners.update(dict.fromkeys(self._owned(), self))

    def discard(self) -> None:
        """The event is undone: nothing that it did counts, and nothing belongs to it any more."""
        self.is_discarded = True
        self.end()

    def end(self) -> None:
        """The event is done, or left to somebody else: nothing belongs to it any more."""
        self.is_ended = True
        if self.is_live:
            for key in self._owned():
                self.partition.owners.pop(key, None)
        if self.waiters:
            self._pass_on()

    def _owned(self) -> Iterable[bytes]:
        """What belongs to this event when it has suspended."""
        return self._touched if self.mark is None else (*self._touched, self.mark[0])

    def turn(self) -> "asyncio.Future[Waiters] | None":
        """After `end`: done when the event that was in the way has ended; says who waits behind this one then.

        None when there is nobody to wait for.
        """
        owner = self.in_the_way
        if owner is None or owner.is_ended:
            return None
        if owner.waiters is None:
            owner.waiters = deque()
        turn: asyncio.Future[Waiters] = asyncio.get_running_loop().create_future()
        owner.waiters.append(turn)
        return turn

    def _pass_on(self) -> None:
        """Wake the first one that waits; the others wait for that one from now on, lest they all run in vain."""
        while self.waiters:
            first = self.waiters.popleft()
            if not first.done():
                first.set_result(self.waiters)
                self.waiters = None


_current: ContextVar[UnitOfWork | None] = ContextVar("unit", default=None)
# Make a unit the one of the event in hand in this task, until the next one is entered.
enter = _current.set
# The unit of the event in hand, None outside a handler. It may have ended: see `current_attempt`.
current_unit: Callable[[], UnitOfWork | None] = _current.get


def current_attempt() -> UnitOfWork | None:
    """Return the unit of the attempt in hand, None outside a handler.

    A task that outlives its handler is outside of it. Raises AttemptEndedError when that attempt
    has failed.
    """
    unit = current_unit()
    if unit is None or not unit.is_ended:
        return unit
    if unit.is_discarded:
        raise AttemptEndedError(
            f"handler {unit.handler} has failed or timed out, and a task that it left behind "
            "goes on: await what a "
            f"handler starts before it returns, or start it with `context=contextvars.Context()`"
        )
    return None
