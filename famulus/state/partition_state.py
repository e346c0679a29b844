"""What one partition of a subscription remembers: its store, and the groups of effects that are on their way into it.

While one group is settled the next one fills. Reads look into the groups before they look into the
store, so an event sees what the events before it did although nothing of that is durable yet.
"""

from collections import Counter, deque
from collections.abc import Callable
from itertools import islice
from typing import Any

from famulus.serialization.records import Outcome, ProducerRecord
from famulus.state.changelog import SourcePosition, size_of
from famulus.state.failure_state import FailureState
from famulus.state.identity import ChangelogPartition
from famulus.state.rocksdb_store import Store

RECENT = 8  # groups; more than are settled between looking a record up and handling it
Finished = Callable[[int], None]
Rows = dict[bytes, bytes | None]  # by their keys in the changelog; None: the row is deleted


class Checkpoint:
    """The last value of every row that its events changed, their marks, what they publish, and how each ended."""

    __slots__ = ("handled", "has_passed", "marks", "others", "outbox", "returned", "rows", "size")

    def __init__(self) -> None:
        self.rows: Rows = {}
        self.marks: dict[bytes, bytes] = {}  # as the store keeps them
        self.outbox: list[ProducerRecord] = []
        # The offsets of those that ended like that, which nearly all do.
        self.handled: list[int] = []
        self.others: list[tuple[int, Outcome]] = []  # those that ended otherwise, by offset
        # Those that came back: whom to tell which offset.
        self.returned: list[tuple[Finished, int, Outcome]] = []
        # The partition was read further, without a record: that alone is to be settled.
        self.has_passed = False
        self.size = 0  # bytes of its record batch, rather more than less

    @property
    def is_empty(self) -> bool:
        """Whether nothing of it is to be settled."""
        return not (
            self.handled
            or self.others
            or self.returned
            or self.rows
            or self.outbox
            or self.has_passed
        )

    def ended(self, offset: int, outcome: Outcome) -> None:
        """One of its events has ended."""
        if outcome == "handled":
            self.handled.append(offset)
        else:
            self.others.append((offset, outcome))

    @property
    def events(self) -> int:
        """How many ended in it."""
        return len(self.handled) + len(self.others) + len(self.returned)

    def offsets(self) -> list[int]:
        """Those of the events that ended in it, in no order; without those that came back, which have none here."""
        return self.handled + [offset for offset, _ in self.others]

    def outcomes(self) -> Counter[Outcome]:
        """How many of them ended how."""
        found = Counter(outcome for _, outcome in self.others)
        found["handled"] += len(self.handled)
        return found


class PartitionState:
    """One partition of a subscription at work. *store* None: the subscription remembers nothing.

    *group_bytes* is what one group may have, since all of it is one record batch. *topic* is the
    source's name, by which tables know whether they are its own. *owners* says which suspended
    event a row or a mark belongs to, see `unit`. *applied* counts the groups that reached the
    store.
    """

    def __init__(self, number: int, store: Store | None, group_bytes: int, topic: str = "") -> None:
        self.number = number
        self.topic = topic
        self.store = store
        self.home: ChangelogPartition | None = None  # of the state
        self.source_id = ""  # of the topic that is read, "" when it is not known
        self.group_bytes = group_bytes
        self.owners: dict[bytes, Any] = {}  # Any: of `unit.Unit`, which knows this module
        self.applied = 0
        self.is_abandoned = False  # nothing of it may be written any more
        # As of the last group that reached the store, or of the start.
        self.processed: SourcePosition | None = None
        self.failure_state = FailureState()
        self.filling = Checkpoint()
        self._sealed: deque[Checkpoint] = deque()
        self._warm: Rows = {}  # what the store holds of rows that were settled lately
        self._warm_bytes = 0
        # Marks of the last groups that were settled.
        self._recent: deque[dict[bytes, bytes]] = deque(maxlen=RECENT)

    def row(self, key: bytes) -> bytes | None:
        """The newest value of a row, settled or about to be."""
        rows = self.filling.rows
        if key in rows:
            return rows[key]
        for group in reversed(self._sealed):
            if key in group.rows:
                return group.rows[key]
        if key in self._warm:
            return self._warm[key]
        assert self.store is not None, "a table needs a store"
        return self.store.get(key)

    def mark(self, key: bytes, applied: int, stored: bytes | None) -> bytes | None:
        """The newest mark of an event, as the store keeps it.

        *stored* is what the store had under it when *applied* groups had reached it, -1: nobody
        looked.
        """
        if key in self.filling.marks:
            return self.filling.marks[key]
        for group in reversed(self._sealed):
            if key in group.marks:
                return group.marks[key]
        since = self.applied - applied
        if not since:
            return stored
        if applied < 0 or since > len(self._recent):
            assert self.store is not None, "marks need a store"
            return self.store.get(key)
        for marks in islice(self._recent, since):
            if key in marks:
                return marks[key]
        return stored

    def group_for(self, size: int) -> Checkpoint:
        """The group that takes *size* more bytes: the one that fills, or a new one when it would get too large."""
        if self.filling.size + size > self.group_bytes and not self.filling.is_empty:
            self._seal()
        self.filling.size += size
        return self.filling

    def note(self, key: bytes, value: bytes | None) -> None:
        """Have a row of the engine's own settled with the group that fills, if anything is remembered at all."""
        if self.store is not None:
            self.group_for(size_of(key, value)).rows[key] = value

    @property
    def is_settled(self) -> bool:
        """Whether nothing is to be settled."""
        return not self._sealed and self.filling.is_empty

    @property
    def is_filling(self) -> bool:
        """Whether the next group to be settled is the one that fills, so that it may wait for more."""
        return not self._sealed

    def next_to_settle(self) -> Checkpoint | None:
        """The oldest group, None when there is nothing to settle. Nothing joins it any more."""
        if not self._sealed:
            if self.filling.is_empty:
                return None
            self._seal()
        return self._sealed[0]

    def settled(self, processed: SourcePosition | None) -> None:
        """The oldest group is in the store, or had nothing for it."""
        group = self._sealed.popleft()
        self.processed = processed
        self.applied += 1
        self._recent.appendleft(group.marks)
        self._warm_bytes += group.size
        if self._warm_bytes > self.group_bytes:
            self._warm, self._warm_bytes = group.rows, group.size
        else:
            self._warm.update(group.rows)

    def _seal(self) -> None:
        self._sealed.append(self.filling)
        self.filling = Checkpoint()
