"""Groups: the effects of many events of one partition, settled in one go.

One group fills while the one before it is settled. Reads look into both before they look into the store, so an event
sees what the events before it did although nothing of that is durable yet.
"""

from collections.abc import Callable

from app.wire.envelope import Outcome, Outgoing

Rows = dict[bytes, bytes | None]  # None: the row was deleted
Stored = Callable[[int, bytes], bytes | None]  # a settled row by partition and key


class Group:
    """The last value of every row that its events changed, what they publish, and how each event ended."""

    __slots__ = ("ended", "outbox", "partition", "rows")

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.rows: dict[str, Rows] = {}
        self.outbox: list[Outgoing] = []
        self.ended: list[tuple[int, Outcome]] = []  # by offset

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to make durable."""
        return not (self.rows or self.outbox)


class Groups:
    """The two groups of one partition. *joined* counts units, *applied* the groups that reached the stores."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.filling = Group(partition)
        self.joined = 0
        self.applied = 0
        self._settling: Group | None = None

    def row(self, table: str, key: bytes, stored: Stored) -> bytes | None:
        """The newest value of a row: of the filling group, of the one that is settled now, else what *stored* says."""
        for group in (self.filling, self._settling):
            if group is not None:
                rows = group.rows.get(table)
                if rows is not None and key in rows:
                    return rows[key]
        return stored(self.partition, key)

    def next_to_settle(self) -> Group | None:
        """The group that has filled, None when it is empty; another one fills from now on."""
        if self.filling.is_empty:
            return None
        self._settling, self.filling = self.filling, Group(self.partition)
        return self._settling

    def settled(self) -> None:
        """The stores hold the effects of the group that was settled."""
        self._settling = None
        self.applied += 1
