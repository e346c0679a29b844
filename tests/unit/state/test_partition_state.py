"""Tests of a partition's state: cached rows, recognised events, and where reading begins."""

from typing import Any

import pytest

from famulus.processing.offset_tracker import OnCommitAhead, StartError, start_offset
from famulus.state.changelog import MARK, SeenMark, SourcePosition, store_mark
from famulus.state.dedupe import Dedupe, mark_key
from famulus.state.partition_state import Checkpoint, PartitionState
from famulus.state.unit_of_work import RowConflictError, UnitOfWork
from models.orders import OrderCreated
from models.stock import StockReserved
from tests.support.in_memory.stored import Memory, partition_of, record

KEY = mark_key(b"id")
OLD, NEW, NEWER = (store_mark(n, n) for n in (1, 2, 3))
NOBODY_LOOKED = -1


def ended(
    partition: PartitionState, size: int, key: bytes = b"a", value: bytes | None = b"1"
) -> None:
    """Add an event that wrote a row to the open checkpoint."""
    group = partition.group_for(size)
    group.rows[key] = value
    partition.filling.ended(0, "handled")


def test_a_row_is_looked_for_in_the_newest_group_first() -> None:
    """The order is open checkpoint, settled checkpoints, store.

    A deleted row is not found.
    """
    partition = partition_of({b"a": b"0", b"b": b"0"})
    ended(partition, 1, b"a", b"1")
    group = partition.next_to_settle()
    assert partition.next_to_settle() is group
    assert (partition.row(b"a"), partition.row(b"b")) == (b"1", b"0")
    ended(partition, 1, b"a", None)
    assert partition.row(b"a") is None
    partition.settled(SourcePosition(1))
    assert (partition.applied, partition.processed) == (1, SourcePosition(1))
    assert partition.row(b"a") is None
    assert partition.next_to_settle() is not group
    partition.settled(None)
    assert partition.row(b"a") is None
    assert partition.next_to_settle() is None


def test_a_row_that_was_settled_lately_needs_no_look_into_the_store() -> None:
    """A row is cached until more than one checkpoint's bytes were settled after it."""
    partition = partition_of({b"a": b"1", b"b": b"1"}, group_bytes=100)
    store: Any = partition.store
    for key in (b"a", b"b"):
        ended(partition, 60, key)
        partition.next_to_settle()
        partition.settled(None)
    assert (partition.row(b"b"), store.asked) == (b"1", [])
    assert (partition.row(b"a"), store.asked) == (b"1", [b"a"])


def test_a_group_is_split_between_events_only() -> None:
    """The limit does not hold for a checkpoint in which no event has ended yet."""
    partition = partition_of(group_bytes=100)
    first = partition.group_for(60)
    assert partition.group_for(60) is first
    first.ended(0, "handled")
    second = partition.group_for(60)
    assert second is not first
    second.ended(1, "handled")
    assert partition.group_for(40) is second
    assert partition.next_to_settle() is first
    assert (first.size, second.size) == (120, 100)


def test_marks_are_looked_for_as_rows_are() -> None:
    """Marks that were read from the store for a whole fetch are used unless they are outdated."""
    partition = partition_of({KEY: OLD})
    store: Any = partition.store
    assert partition.mark(KEY, 0, None) is None
    assert store.asked == []
    assert partition.mark(KEY, NOBODY_LOOKED, None) == OLD
    partition.filling.marks[KEY] = NEW
    partition.filling.ended(0, "handled")
    partition.next_to_settle()
    assert partition.mark(KEY, 0, None) == NEW
    partition.filling.marks[KEY] = NEWER
    assert partition.mark(KEY, 0, None) == NEWER


@pytest.mark.parametrize(
    ("event_type", "stream_ms", "is_recognised"),
    [
        (OrderCreated, 1099, True),
        (OrderCreated, 1100, False),
        (StockReserved, 1299, True),
        (StockReserved, 1300, False),
    ],
)
def test_the_edge_of_the_window(event_type: Any, stream_ms: int, *, is_recognised: bool) -> None:
    """An event is forgotten when the window's length has passed, and recognised 1 ms before.

    The length may depend on the type.
    """
    dedupe = Dedupe(100, {StockReserved: 300})
    partition = partition_of({KEY: store_mark(1000, 7)})
    unit = UnitOfWork(partition, record())
    raw = unit.earlier(KEY, NOBODY_LOOKED, None)
    assert raw is not None
    mark = dedupe.remembered(raw, event_type, stream_ms)
    assert mark == (SeenMark(1000, 7) if is_recognised else None)
    assert (dedupe.longest_ms, dedupe.period_ms) == (300, 37)


def test_an_event_that_is_in_hand_is_waited_for() -> None:
    """The event owns its mark, so that two copies with different keys do not both take effect."""
    partition = partition_of()
    first, second = UnitOfWork(partition, record(0)), UnitOfWork(partition, record(1))
    assert first.earlier(KEY, 0, None) is None
    first.leave(KEY, OLD)
    first.suspend()
    with pytest.raises(RowConflictError):
        second.earlier(KEY, 0, None)
    assert second.in_the_way is first


def test_an_event_that_waited_before_it_was_looked_up_owns_its_mark_at_once() -> None:
    """The event was deferred, for a claim check for example, and may not suspend again."""
    partition = partition_of()
    first, second = UnitOfWork(partition, record(0)), UnitOfWork(partition, record(1))
    first.suspend()
    first.earlier(KEY, 0, None)
    first.leave(KEY, OLD)
    with pytest.raises(RowConflictError):
        second.earlier(KEY, 0, None)
    first.end()
    assert partition.owners == {}


def test_an_attempt_that_is_undone_leaves_the_mark_with_its_event() -> None:
    """The rows that it touched are free again."""
    partition = partition_of()
    first, second = UnitOfWork(partition, record(0)), UnitOfWork(partition, record(1))
    first.earlier(KEY, 0, None)
    first.leave(KEY, OLD)
    before = first.savepoint("h")
    first.write(b"row", b"1")
    first.suspend()
    first = first.rollback(before)
    second.touch(b"row")
    with pytest.raises(RowConflictError):
        second.earlier(KEY, 0, None)
    first.end()
    assert partition.owners == {}


def test_a_group_knows_how_its_events_ended() -> None:
    group = Checkpoint()
    group.ended(3, "handled")
    group.ended(4, "duplicate")
    group.ended(1, "handled")
    group.returned.append((print, 7, "handled"))
    assert (group.events, sorted(group.offsets())) == (4, [1, 3, 4])
    assert group.outcomes() == {"handled": 2, "duplicate": 1}


def test_events_are_recognised_by_their_ids_or_as_the_subscription_says() -> None:
    """Ids need no decoding and are looked up in the store all at once.

    An identity needs the decoded event.
    """
    records = [
        record(1, headers=[("ce_id", b"x")]),
        record(2, headers=[("ce_id", b"x")]),
        record(3),
    ]
    keys = Dedupe(1).keys(records)
    assert keys[0] == keys[1] != keys[2] == mark_key(b"t/0/3")
    assert {(key[:1], len(key)) for key in keys} == {(MARK, 17)}
    partition = partition_of({keys[0]: b"mark"})
    assert Dedupe(1).stored(partition, keys) == [b"mark", b"mark", None]
    by_product = Dedupe(1, identity=lambda event: event.product_id)
    assert by_product.keys(records) == []
    event: Any = type(
        "E", (), {"product_id": 5, "_options": type("O", (), {"namespace": "shop.E"})}
    )()
    assert by_product.keys_of(event, records[0]) == [mark_key(b"shop.E\0005"), mark_key(b"5")]
    assert isinstance(partition.store, Memory)


@pytest.mark.parametrize(
    ("processed", "committed", "begin", "end", "policy", "start", "says"),
    [
        (5, 5, 0, 9, "ignore", 5, ""),
        (5, None, 0, 9, "ignore", 5, ""),
        (9, 9, 0, 9, "fail", 9, ""),
        (5, 3, 0, 9, "fail", 5, "behind"),
        (5, 7, 0, 9, "ignore", 5, "not followed"),
        (5, 7, 0, 9, "follow", 7, "; followed"),
        (2, 4, 6, 9, "follow", 6, "; followed"),
        (2, 4, 6, 9, "ignore", 6, "never handled"),
        (2, None, 6, 9, "ignore", 6, "records 2 to 5 are gone"),
        (2, 1, 6, 9, "ignore", 6, "records 2 to 5 are gone"),
    ],
)
def test_reading_begins_where_the_state_says(  # noqa: PLR0917  # pytest passes them by name
    processed: int,
    committed: int | None,
    begin: int,
    end: int,
    policy: OnCommitAhead,
    start: int,
    says: str,
) -> None:
    """The state takes precedence.

    A commit from elsewhere is followed only if the policy asks for it.
    """
    found = start_offset(processed, committed, begin, end, policy)
    assert found.offset == start
    assert says in found.disagreement
    assert bool(found.disagreement) == bool(says)


def test_a_state_that_does_not_belong_to_the_topic_is_refused() -> None:
    """A commit from elsewhere is refused as well if the policy asks for it."""
    with pytest.raises(StartError, match="made anew"):
        start_offset(10, None, 0, 9, "follow")
    with pytest.raises(StartError, match="somebody else"):
        start_offset(5, 7, 0, 9, "fail")
