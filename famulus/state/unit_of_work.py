"""Unit of work: the changes made by one event.

The unit of a handler that raises is discarded; that of a handler that succeeds is kept.

A unit belongs to one attempt of one handler. A later attempt, or the event's next handler, gets a
new unit with the changes to keep. A task that outlives its handler has only the unit of that
handler, so it can neither change the next attempt nor add changes that would be lost silently.

Handlers of many keys run concurrently. A handler that never suspends runs without interruption, so
nothing comes between its reads and its writes. When a handler suspends, its event owns every row
that it has touched or touches from then on, until it ends. Another event that touches such a row is
undone at once, waits for the owner to end, and is handled again. As a result no update is lost and
no partial change is read. There are no deadlocks either, since no event waits while it owns rows.
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

# The rows, the number of records in the outbox, and the number of rows touched.
Savepoint = tuple[Rows, int, int]
NOTHING: Savepoint = ({}, 0, 0)
# Shared empty containers, never written to, since most units need none of their own.
NO_ROWS: Rows = {}
NO_TOUCHED: dict[bytes, None] = {}
NO_OUTBOX: list[ProducerRecord] = []
NO_READS: list["Callable[[Rows], None]"] = []
# Events that wait for another one to end, first come first.
Waiters = deque["asyncio.Future[Waiters]"]


class RowConflictError(BaseException):  # not an Exception, so that handlers do not catch it
    """A row is owned by another event in flight.

    This event is undone, and handled again after the owner has ended.
    """


class EffectsTooLargeError(PermanentError):
    """The changes made by one event do not fit into one record batch."""


class UnitOfWork:
    """The effects of one event during one attempt of one handler.

    Tables write into the unit, and the event bus publishes through it.
    """

    # There is one unit for every event. Slots are read in half the time, and most parts are only
    # made when they are needed.
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
        # Name of a coroutine that the handler called and did not await, so that it had no effect.
        self.unawaited = ""
        # Services of the event's handlers, made on first use. Closed before a failed attempt is
        # rolled back, and before the event ends.
        self.services: svcs.Container | None = None
        # Checks, run at the end, of mutable values that were read.
        self.reads = NO_READS
        self.mark: tuple[bytes, bytes] | None = None  # key and value that it leaves
        # The unit that owns a row that this one touched, or the mark of the same event id.
        self.in_the_way: UnitOfWork | None = None
        # To be handled again, because of a row conflict or because the store could not be read.
        self.is_undone = False
        self.is_live = False  # it has suspended, and owns its mark and the rows that it touched
        self.is_ended = False
        self.is_discarded = False  # it has ended, and its effects are dropped
        self.is_stopped = False  # the worker stops, which is why the handler gets cancelled
        self.is_resting = False  # the event is deferred: not ended, and no task works on it
        self.is_timed_out = False  # its attempt was cancelled because it took too long
        self.bytes_redeemed = 0  # size of its payload, if a claim check stands for it
        self._touched = NO_TOUCHED  # keys in the order of touching
        # Records of `outbox` that may have to be replaced before they leave.
        self._unchecked: list[ProducerRecord] | None = None
        self._event_id = ""
        self._cause: Lineage | None = None
        self._first = 0  # index in the outbox of the current handler's first event

    @property
    def event_id(self) -> str:
        """Return the id of the event, which is made on first use.

        The id is the same at each redelivery.
        """
        self._event_id = self._event_id or event_id_of(self.record)
        return self._event_id

    @property
    def cause(self) -> Lineage:
        """Return the lineage for events that this one causes, which is made on first use."""
        if self._cause is None:
            self._cause = cause_of(self.record)
        return self._cause

    # Rows.

    def row(self, key: bytes) -> bytes | None:
        """Return the newest value of a row as this event sees it.

        Raises RowConflictError when another event owns the row, and StoreError when the disk
        refuses for now. In both cases the event is undone, even if its handler catches the error.
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
        """Return the mark that the event left when it was seen before, see `PartitionState.mark`.

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
        """Set the mark that the event leaves under *key*.

        The caller has just called `earlier`, so no other event in flight owns the key.
        """
        self.mark = key, mark
        if self.is_live:
            self.partition.owners[key] = self

    def write(self, key: bytes, value: bytes | None) -> None:
        """Set a row, or delete it with None.

        Raises RowConflictError when another event owns the row, and TypeError when the event has
        ended.
        """
        if self.is_ended:
            raise TypeError("a table was changed after the event that it was changed for was done")
        if key not in self._touched:
            self.touch(key)
        if self.rows is NO_ROWS:
            self.rows = {}
        self.rows[key] = value

    def touch(self, key: bytes) -> None:
        """Make the event own a row if it has suspended, or once it suspends.

        Raises RowConflictError when another event owns the row.
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
        """Run *check* with the written rows when the event joins its checkpoint.

        An error that *check* raises makes `join` fail.
        """
        if self.reads is NO_READS:
            self.reads = []
        self.reads.append(check)

    # Events to publish.

    def publish(self, record: ProducerRecord) -> None:
        """Add *record* to the event's effects."""
        if self.outbox is NO_OUTBOX:
            self.outbox = []
        self.outbox.append(record)

    def publish_unchecked(self, record: ProducerRecord) -> None:
        """Add *record* to the effects, to leave only after `replace` was called for it."""
        self.publish(record)
        if self._unchecked is None:
            self._unchecked = []
        self._unchecked.append(record)

    def replace(self, record: ProducerRecord, by: ProducerRecord | None) -> None:
        """Publish *by*, or nothing, instead of *record*, which was published unchecked.

        Does nothing once the attempt has ended, since *record* did not leave with it.
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
        """Return how many events the current handler has published so far."""
        return len(self.outbox) - self._first

    # Attempts.

    def savepoint(self, handler: str) -> Savepoint:
        """Begin an attempt of *handler*.

        Returns a savepoint; `rollback` to it undoes the changes of the attempt.
        """
        self.handler = handler
        if self._touched is NO_TOUCHED and self.outbox is NO_OUTBOX:
            return NOTHING
        self._first = len(self.outbox)
        return dict(self.rows) if self.rows else NO_ROWS, self._first, len(self._touched)

    def rollback(self, to: Savepoint) -> "UnitOfWork":
        """End the attempt, and undo everything since `savepoint`.

        Returns the unit for the event's next attempt.
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

        Returns the unit for the event's next handler, which includes the effects so far.
        """
        unit = self._left(self.rows, self._checked(), self._touched)
        unit.reads = self.reads
        return unit

    def _left(
        self, rows: Rows, outbox: list[ProducerRecord], touched: Iterable[bytes]
    ) -> "UnitOfWork":
        """Return a unit with the given effects for the event's next attempt.

        The current unit ends, and its ownership of rows moves to the new one.
        """
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
        """Return the records that may leave with the event.

        Unchecked records are left out. A task that outlives its handler has to send those by
        itself.
        """
        if self._unchecked is None:
            return self.outbox
        return [
            record
            for record in self.outbox
            if not any(record is other for other in self._unchecked)
        ]

    def join(self) -> None:
        """Add the effects and the event's mark to the open checkpoint.

        Raises EffectsTooLargeError, and the errors of checks from `check_later`. Nothing is added
        then.
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
        """Note that the handler suspends: from now on the event owns the rows that it touched."""
        if not (self.is_live or self.is_ended):
            self.is_live = True
            self.partition.owners.update(dict.fromkeys(self._owned(), self))

    def discard(self) -> None:
        """End the unit and drop all of its effects, since the event is undone."""
        self.is_discarded = True
        self.end()

    def end(self) -> None:
        """End the unit and release all rows that the event owns.

        The event is done, or is left to another owner of the partition. The first event that waits
        for it is woken.
        """
        self.is_ended = True
        if self.is_live:
            for key in self._owned():
                self.partition.owners.pop(key, None)
        if self.waiters:
            self._pass_on()

    def _owned(self) -> Iterable[bytes]:
        """Return the keys of rows and mark that the event owns once it has suspended."""
        return self._touched if self.mark is None else (*self._touched, self.mark[0])

    def turn(self) -> "asyncio.Future[Waiters] | None":
        """Return a future that is done when the owner of the conflicting row has ended.

        Call this after `end`. The result of the future is the queue of events that then wait behind
        this one. Returns None when the owner has already ended.
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
        """Wake the first waiter and let the others wait for that one.

        If all were woken at once, most would run in vain and be undone again.
        """
        while self.waiters:
            first = self.waiters.popleft()
            if not first.done():
                first.set_result(self.waiters)
                self.waiters = None


_current: ContextVar[UnitOfWork | None] = ContextVar("unit", default=None)
# Set the current unit of this task, until the next one is entered.
enter = _current.set
# Return the current unit, None outside a handler. It may have ended: see `current_attempt`.
current_unit: Callable[[], UnitOfWork | None] = _current.get


def current_attempt() -> UnitOfWork | None:
    """Return the unit of the current attempt, None outside a handler.

    A task that outlives its handler counts as outside. Raises AttemptEndedError when the attempt
    that started the task has failed.
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
