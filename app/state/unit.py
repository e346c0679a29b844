"""The unit of work: what one event changes. A handler that raises discards it, one that succeeds leaves it behind.

Handlers of many keys are in hand at once. When one that suspended finds at its end that another event has changed a row
that it read, its unit is thrown away and the event is handled again: no update is lost and nothing half done is read.
"""

from contextvars import ContextVar

from app.state.group import Groups, Rows, Stored
from app.wire.envelope import Outgoing, Record, event_id_of

Savepoint = tuple[dict[str, Rows], int, int]  # the rows; how many events were to be published, how many rows read
NOTHING: Savepoint = ({}, 0, 0)
NO_ROWS: dict[str, Rows] = {}  # never written to: what many units would have of their own for nothing
NO_OUTBOX: list[Outgoing] = []
NO_READS: dict[tuple[str, bytes], tuple[bytes | None, Stored]] = {}


class Unit:
    """The effects of one event. Tables write into it, the event bus publishes through it."""

    # Most of it is made when it is needed: there is a unit for every event.
    handler = ""
    rows = NO_ROWS
    outbox = NO_OUTBOX
    _event_id = ""
    _first = 0  # place in the outbox of the first event that the current handler publishes
    _reads = NO_READS

    def __init__(self, groups: Groups, record: Record) -> None:
        self.groups = groups
        self.record = record
        self._began = groups.joined

    @property
    def event_id(self) -> str:
        """What makes the event the same event when it comes again. Made when somebody asks for it."""
        self._event_id = self._event_id or event_id_of(self.record)
        return self._event_id

    def row(self, table: str, key: bytes, stored: Stored) -> bytes | None:
        """The newest value of a row as this event sees it."""
        rows = self.rows.get(table)
        if rows is not None and key in rows:
            return rows[key]
        read = self._reads.get((table, key))
        if read is not None:
            return read[0]  # the same answer as before, whatever happened meanwhile; `join` will tell
        value = self.groups.row(table, key, stored)
        self._note(table, key, value, stored)
        return value

    def lacks(self, table: str, key: bytes, stored: Stored) -> bool:
        """Whether a row is in no group, of which the caller knows that *stored* had none. Counts as read."""
        value = self.groups.row(table, key, _nothing)
        self._note(table, key, value, stored)
        return value is None

    def _note(self, table: str, key: bytes, value: bytes | None, stored: Stored) -> None:
        if self._reads is NO_READS:
            self._reads = {}
        self._reads[table, key] = value, stored

    def publish(self, record: Outgoing) -> None:
        """Let *record* leave with the event's other effects."""
        if self.outbox is NO_OUTBOX:
            self.outbox = []
        self.outbox.append(record)

    def write(self, table: str, key: bytes, value: bytes | None) -> None:
        """Set a row, or delete it with None."""
        if self.rows is NO_ROWS:
            self.rows = {}
        self.rows.setdefault(table, {})[key] = value

    @property
    def position(self) -> int:
        """How many events the current handler has published so far."""
        return len(self.outbox) - self._first

    def savepoint(self, handler: str) -> Savepoint:
        """Begin an attempt of *handler*; `rollback` with the result undoes what the attempt did."""
        self.handler = handler
        if not (self._reads or self.rows or self.outbox):
            return NOTHING
        self._first = len(self.outbox)
        return {table: dict(rows) for table, rows in self.rows.items()}, self._first, len(self._reads)

    def rollback(self, to: Savepoint) -> None:
        """Undo everything since `savepoint`."""
        rows, kept, reads = to
        self.rows = {table: dict(of_table) for table, of_table in rows.items()}
        del self.outbox[kept:]
        while len(self._reads) > reads:
            self._reads.popitem()

    def join(self) -> bool:
        """Make the effects part of the filling group. False, and nothing done, when a row read here has changed."""
        groups = self.groups
        if groups.joined != self._began and any(
            groups.row(table, key, stored) != value for (table, key), (value, stored) in self._reads.items()
        ):
            return False
        if self.rows or self.outbox:
            groups.joined += 1
            group = groups.filling
            for table, rows in self.rows.items():
                group.rows.setdefault(table, {}).update(rows)
            group.outbox += self.outbox
        return True


def _nothing(partition: int, key: bytes) -> bytes | None:  # noqa: ARG001  # as `Stored` has it
    return None


_current: ContextVar[Unit | None] = ContextVar("unit", default=None)
enter = _current.set  # make a unit the one of the event in hand in this task, until the next one is entered


def current_unit() -> Unit | None:
    """The unit of the event in hand, None outside a handler."""
    return _current.get()
