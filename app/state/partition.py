"""What one partition of a subscription remembers: its store, and the groups of effects that are on their way into it.

While one group is settled the next one fills. Reads look into the groups before they look into the store, so an event
sees what the events before it did although nothing of that is durable yet.
"""

from collections import deque
from typing import Any

from app.state.changelog import MARK, Mark, Processed, stored_mark
from app.state.store import Store
from app.wire.envelope import Outcome, Outgoing

Rows = dict[bytes, bytes | None]  # by their keys in the changelog; None: the row is deleted


class Group:
    """The last value of every row that its events changed, their marks, what they publish, and how each ended."""

    __slots__ = ("ended", "marks", "outbox", "rows", "size")

    def __init__(self) -> None:
        self.rows: Rows = {}
        self.marks: dict[bytes, Mark] = {}  # by the digest of the event's id
        self.outbox: list[Outgoing] = []
        self.ended: list[tuple[int, Outcome]] = []  # by offset
        self.size = 0  # bytes of its record batch, rather more than less


class Partition:
    """One partition of a subscription at work. *store* None: the subscription remembers nothing.

    *group_bytes* is what one group may have, since all of it is one record batch. *owners* says which suspended event
    a row belongs to, see `unit`. *applied* counts the groups that reached the store.
    """

    def __init__(self, number: int, store: Store | None, group_bytes: int) -> None:
        self.number = number
        self.store = store
        self.group_bytes = group_bytes
        self.owners: dict[bytes, Any] = {}  # Any: of `unit.Unit`, which knows this module
        self.applied = 0
        self.is_abandoned = False  # nothing of it may be written any more
        self.processed: Processed | None = None  # as of the last group that reached the store, or of the start
        self.filling = Group()
        self._sealed: deque[Group] = deque()

    def row(self, key: bytes) -> bytes | None:
        """The newest value of a row, settled or about to be."""
        rows = self.filling.rows
        if key in rows:
            return rows[key]
        for group in reversed(self._sealed):
            if key in group.rows:
                return group.rows[key]
        assert self.store is not None, "a table needs a store"
        return self.store.get(key)

    def mark(self, digest: bytes, *, is_known: bool, stored: bytes | None) -> Mark | None:
        """The newest mark of an event. *stored* is what the store has under it, if that *is_known*."""
        mark = self.filling.marks.get(digest)
        if mark is not None:
            return mark
        for group in reversed(self._sealed):
            if digest in group.marks:
                return group.marks[digest]
        if not is_known:
            assert self.store is not None, "marks need a store"
            stored = self.store.get(MARK + digest)
        return None if stored is None else stored_mark(stored)

    def group_for(self, size: int) -> Group:
        """The group that takes *size* more bytes: the one that fills, or a new one when it would get too large."""
        if self.filling.size + size > self.group_bytes and self.filling.ended:
            self._seal()
        self.filling.size += size
        return self.filling

    def next_to_settle(self) -> Group | None:
        """The oldest group, None when nothing has ended. Nothing joins it any more."""
        if not self._sealed:
            if not self.filling.ended:
                return None
            self._seal()
        return self._sealed[0]

    def settled(self, processed: Processed | None) -> None:
        """The oldest group is in the store, or had nothing for it."""
        self._sealed.popleft()
        self.processed = processed
        self.applied += 1

    def _seal(self) -> None:
        self._sealed.append(self.filling)
        self.filling = Group()
