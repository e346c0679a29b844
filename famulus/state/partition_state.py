"""State of one partition: its store, and the checkpoints on their way to it.

While one checkpoint is written the next one is open. Reads look into the checkpoints before they
look into the store, so an event sees the effects of earlier events that are not yet durable.
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

RECENT = 8  # more checkpoints than are written between the lookup of a record and its handling
Finished = Callable[[int], None]
Rows = dict[bytes, bytes | None]  # by changelog key; None deletes the row


class Checkpoint:
    """The effects of many events, made durable together.

    A checkpoint has the last value of each row that changed, the events' marks, the records to
    publish, and the outcome of each event.
    """

    __slots__ = ("handled", "has_passed", "marks", "others", "outbox", "returned", "rows", "size")

    def __init__(self) -> None:
        self.rows: Rows = {}
        self.marks: dict[bytes, bytes] = {}  # encoded as in the store
        self.outbox: list[ProducerRecord] = []
        # Offsets of events with the outcome "handled", which nearly all have.
        self.handled: list[int] = []
        self.others: list[tuple[int, Outcome]] = []  # events with another outcome
        # Redeliveries: the callback, and the offset to call it with.
        self.returned: list[tuple[Finished, int, Outcome]] = []
        # The partition was read on without a record, such as over transaction markers: the new
        # position alone is to be written.
        self.has_passed = False
        self.size = 0  # upper bound of the bytes of its record batch

    @property
    def is_empty(self) -> bool:
        """Return True if the checkpoint has nothing to write."""
        return not (
            self.handled
            or self.others
            or self.returned
            or self.rows
            or self.outbox
            or self.has_passed
        )

    def ended(self, offset: int, outcome: Outcome) -> None:
        """Note the outcome of the event at *offset*."""
        if outcome == "handled":
            self.handled.append(offset)
        else:
            self.others.append((offset, outcome))

    @property
    def events(self) -> int:
        """Return the number of events that ended in this checkpoint."""
        return len(self.handled) + len(self.others) + len(self.returned)

    def offsets(self) -> list[int]:
        """Return the source offsets of the events that ended, in no order.

        Redeliveries are left out, since they have no offset in the source partition.
        """
        return self.handled + [offset for offset, _ in self.others]

    def outcomes(self) -> Counter[Outcome]:
        """Count the events by outcome, without redeliveries."""
        found = Counter(outcome for _, outcome in self.others)
        found["handled"] += len(self.handled)
        return found


class PartitionState:
    """State of one partition of a subscription while it is processed.

    *store* is None for a subscription without state. *group_bytes* limits one checkpoint, since all
    of it is one record batch. *topic* is the source's name, by which tables check that they belong
    to the same subscription. *owners* maps a row or a mark to the suspended event that owns it, see
    `unit_of_work`. *applied* counts the checkpoints that reached the store.
    """

    def __init__(self, number: int, store: Store | None, group_bytes: int, topic: str = "") -> None:
        self.number = number
        self.topic = topic
        self.store = store
        self.home: ChangelogPartition | None = None  # where the state is logged
        self.source_id = ""  # id of the source topic, "" when unknown
        self.group_bytes = group_bytes
        self.owners: dict[bytes, Any] = {}  # Any: `UnitOfWork`, which imports this module
        self.applied = 0
        self.is_abandoned = False  # nothing may be written any more
        # As of the last checkpoint that reached the store, or of the start.
        self.processed: SourcePosition | None = None
        self.failure_state = FailureState()
        self.filling = Checkpoint()
        self._sealed: deque[Checkpoint] = deque()
        self._warm: Rows = {}  # cache: rows of the store that were written lately
        self._warm_bytes = 0
        # Marks of the last checkpoints that reached the store.
        self._recent: deque[dict[bytes, bytes]] = deque(maxlen=RECENT)

    def row(self, key: bytes) -> bytes | None:
        """Return the newest value of a row, whether or not it is durable yet."""
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
        """Return the newest mark of an event, encoded as in the store.

        *stored* is the store's value when *applied* checkpoints had reached it. *applied* is -1
        when the store was not read.
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
        """Return the checkpoint that takes *size* more bytes.

        The open one is closed, and a new one opened, when it would get too large.
        """
        if self.filling.size + size > self.group_bytes and not self.filling.is_empty:
            self._seal()
        self.filling.size += size
        return self.filling

    def note(self, key: bytes, value: bytes | None) -> None:
        """Add a row of the engine's own to the open checkpoint.

        Does nothing for a subscription without state.
        """
        if self.store is not None:
            self.group_for(size_of(key, value)).rows[key] = value

    @property
    def is_settled(self) -> bool:
        """Return True if there is nothing to write."""
        return not self._sealed and self.filling.is_empty

    @property
    def is_filling(self) -> bool:
        """Return True if the next checkpoint to write is the open one.

        The caller may then wait for more events to join it.
        """
        return not self._sealed

    def next_to_settle(self) -> Checkpoint | None:
        """Return the oldest checkpoint, closed for further events.

        Returns None when there is nothing to write.
        """
        if not self._sealed:
            if self.filling.is_empty:
                return None
            self._seal()
        return self._sealed[0]

    def settled(self, processed: SourcePosition | None) -> None:
        """Note that the oldest checkpoint is in the store, or had nothing to write there."""
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
