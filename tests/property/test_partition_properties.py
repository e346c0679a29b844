"""Properties of the state of a partition on its way to the store: each lookup finds the newest.

Rows and marks are looked up in memory where possible: in checkpoints, in recently settled rows, and
in the answer of the store to a whole fetch some checkpoints ago. An answer from memory may never be
older than the store and the checkpoints together.
"""

from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from famulus.state.changelog import MARK, RECORD_OVERHEAD
from famulus.state.partition_state import RECENT, Checkpoint, PartitionState
from famulus.state.unit_of_work import UnitOfWork
from tests.support.in_memory.stored import Memory, record

GROUP_BYTES = 400
rows = st.sampled_from([b"a", b"b", b"c", b"d"])
marks = st.sampled_from([MARK + b"1" * 16, MARK + b"2" * 16, MARK + b"3" * 16])
values = st.none() | st.integers(0, 100).map(lambda size: b"v" * size)


class Interleavings(RuleBasedStateMachine):
    """Random events, sealed and settled checkpoints, and lookups that are used much later."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Memory({b"a": b"old", MARK + b"1" * 16: b"old"})
        store: Any = self.store
        self.partition = PartitionState(0, store, GROUP_BYTES)
        self.newest: dict[bytes, bytes | None] = dict(self.store.rows)
        self.looks: list[tuple[bytes, int, bytes | None]] = [(MARK + b"2" * 16, -1, None)]
        self.sealed: Checkpoint | None = None
        self.events = 0
        self.largest = GROUP_BYTES

    @rule(changes=st.dictionaries(rows, values, max_size=2), mark=st.none() | marks)
    def join(self, changes: dict[bytes, bytes | None], mark: bytes | None) -> None:
        """Finish an event."""
        self.events += 1
        unit = UnitOfWork(self.partition, record(self.events))
        for key, value in changes.items():
            unit.write(key, value)
        if mark is not None:
            unit.mark = mark, b"%d" % self.events
            self.newest[mark] = unit.mark[1]
        unit.join()
        unit.end()
        self.newest.update(changes)
        self.partition.filling.ended(self.events, "handled")

    @rule(key=marks)
    def look(self, key: bytes) -> None:
        """Keep the store's answer for later."""
        self.looks.append((key, self.partition.applied, self.store.rows.get(key)))

    @precondition(lambda self: self.sealed is None)
    @rule()
    def seal(self) -> None:
        """Begin to settle the oldest checkpoint."""
        self.sealed = self.partition.next_to_settle()

    @precondition(lambda self: self.sealed is not None)
    @rule(closed=st.lists(rows, max_size=2))
    def write(self, closed: list[bytes]) -> None:
        """Write the checkpoint to the store, and delete rows of closed windows.

        Only rows that no later event wrote are deleted.
        """
        group = self.sealed
        assert group is not None
        for key in closed:
            if all(
                key not in other.rows for other in (*self.partition._sealed, self.partition.filling)
            ):
                group.rows[key] = self.newest[key] = None
                group.size += len(key) + RECORD_OVERHEAD
        for key, value in {**group.rows, **group.marks}.items():
            if value is None:
                self.store.rows.pop(key, None)
            else:
                self.store.rows[key] = value
        self.everything_is_the_newest()
        self.partition.settled(None)
        self.sealed, self.largest = None, max(self.largest, group.size)

    @rule(data=st.data())
    def settle_many(self, data: st.DataObject) -> None:
        """Settle more checkpoints than are remembered between a lookup and its use."""
        for _ in range(data.draw(st.integers(1, RECENT + 1))):
            self.join({b"c": b"x"}, data.draw(marks))
            self.sealed = self.sealed or self.partition.next_to_settle()
            self.write([])

    @invariant()
    def everything_is_the_newest(self) -> None:
        """Check every row, and every mark with every earlier lookup."""
        for key in (b"a", b"b", b"c", b"d"):
            assert self.partition.row(key) == self.newest.get(key)
        for key, applied, stored in self.looks:
            assert self.partition.mark(key, applied, stored) == self.newest.get(key)

    @invariant()
    def what_is_kept_of_settled_rows_is_bounded(self) -> None:
        """Check the limits: rows by the bytes of the largest checkpoint, marks by checkpoints."""
        warm = self.partition._warm
        assert (
            sum(len(k) + len(v or b"") + RECORD_OVERHEAD for k, v in warm.items()) <= self.largest
        )
        assert len(self.partition._recent) <= RECENT


Interleavings.TestCase.settings = settings(max_examples=150, stateful_step_count=30)
test_whoever_looks_sees_the_newest: Callable[..., Any] = Interleavings.TestCase
