"""The unit of work: what one event changes. A handler that raises discards it, one that succeeds leaves it behind.

A group is what the units of one batch left behind; it is settled in one go. Reads look into the unit, then into the
group, then into the store, so an event sees what the events before it did although nothing of that is durable yet.
"""

from collections.abc import Callable
from contextvars import ContextVar, Token
from typing import Self

from app.wire.envelope import Outgoing

Rows = dict[bytes, bytes | None]  # None: the row was deleted
Savepoint = tuple[dict[str, Rows], int]  # the rows, and how many events were to be published


class Group:
    """The effects of the events of one partition that are settled together, the last value of every row."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.rows: dict[str, Rows] = {}
        self.outbox: list[Outgoing] = []

    def row(self, table: str, key: bytes, stored: Callable[[int, bytes], bytes | None]) -> bytes | None:
        """The newest value of a row: of this group, else what *stored* says."""
        rows = self.rows.get(table)
        if rows is not None and key in rows:
            return rows[key]
        return stored(self.partition, key)


class Unit:
    """The effects of one event. Tables write into it, the event bus fills its outbox."""

    __slots__ = ("_first", "_token", "event_id", "group", "handler", "outbox", "rows")

    def __init__(self, group: Group, event_id: str) -> None:
        self.group = group
        self.event_id = event_id
        self.handler = ""
        self._first = 0  # place in the outbox of the first event that the current handler publishes
        self.rows: dict[str, Rows] = {}
        self.outbox: list[Outgoing] = []
        self._token: Token[Unit | None] | None = None

    def row(self, table: str, key: bytes, stored: Callable[[int, bytes], bytes | None]) -> bytes | None:
        """The newest value of a row as this event sees it."""
        rows = self.rows.get(table)
        if rows is not None and key in rows:
            return rows[key]
        return self.group.row(table, key, stored)

    def write(self, table: str, key: bytes, value: bytes | None) -> None:
        """Set a row, or delete it with None."""
        self.rows.setdefault(table, {})[key] = value

    @property
    def position(self) -> int:
        """How many events the current handler has published so far."""
        return len(self.outbox) - self._first

    def savepoint(self, handler: str) -> Savepoint:
        """Begin an attempt of *handler*; `rollback` with the result undoes what the attempt did."""
        self.handler = handler
        self._first = len(self.outbox)
        return {table: dict(rows) for table, rows in self.rows.items()}, self._first

    def rollback(self, to: Savepoint) -> None:
        """Undo everything since `savepoint`."""
        self.rows, kept = to
        del self.outbox[kept:]

    def join(self) -> None:
        """The event succeeded: its effects become part of the group."""
        for table, rows in self.rows.items():
            self.group.rows.setdefault(table, {}).update(rows)
        self.group.outbox += self.outbox

    def __enter__(self) -> Self:
        self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        _current.reset(self._token)


_current: ContextVar[Unit | None] = ContextVar("unit", default=None)


def current_unit() -> Unit | None:
    """The unit of the event in hand, None outside a handler."""
    return _current.get()
