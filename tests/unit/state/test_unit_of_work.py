"""Tests of the unit of work: an event's effects are kept together or not at all."""

import asyncio

import pytest

from famulus.serialization.records import ProducerRecord
from famulus.state.partition_state import PartitionState
from famulus.state.unit_of_work import (
    EffectsTooLargeError,
    RowConflictError,
    UnitOfWork,
    current_unit,
    enter,
)
from tests.support.in_memory.stored import partition_of, record

EVENT = ProducerRecord("t", b"k", b"v")


def unit_in(partition: PartitionState, offset: int = 0) -> UnitOfWork:
    """Return a unit of work for a record."""
    return UnitOfWork(partition, record(offset))


def live(partition: PartitionState, *touched: bytes) -> UnitOfWork:
    """Return a unit that has touched some rows and has suspended."""
    unit = unit_in(partition)
    for key in touched:
        unit.row(key)
    unit.suspend()
    return unit


def test_an_event_sees_its_own_writes_then_the_groups_then_the_store() -> None:
    """The newest value takes precedence, and a deleted row is not found."""
    partition = partition_of({b"a": b"old"})
    first, second = unit_in(partition), unit_in(partition)
    assert first.row(b"a") == b"old"
    first.write(b"a", b"new")
    assert (first.row(b"a"), second.row(b"a")) == (b"new", b"old")
    first.join()
    first.end()
    assert second.row(b"a") == b"new"
    second.write(b"a", None)
    assert (second.row(b"a"), partition.row(b"a")) == (None, b"new")
    second.join()
    assert partition.row(b"a") is None


def test_joining_leaves_rows_mark_and_events_in_the_group_that_fills() -> None:
    partition = partition_of()
    unit = unit_in(partition)
    unit.write(b"a", b"1")
    unit.publish(EVENT)
    unit.mark = (b"mark", b"seen")
    unit.join()
    group = partition.filling
    assert (group.rows, group.marks, group.outbox) == ({b"a": b"1"}, {b"mark": b"seen"}, [EVENT])
    assert group.size > len(b"a1")


def test_a_unit_that_does_not_join_leaves_nothing() -> None:
    """The event failed."""
    partition = partition_of()
    unit = unit_in(partition)
    unit.write(b"a", b"1")
    unit.publish(EVENT)
    unit.end()
    assert (partition.filling.rows, partition.filling.outbox, partition.owners) == ({}, [], {})
    assert unit_in(partition).rows == {}
    assert unit_in(partition).outbox == []


def test_a_rolled_back_attempt_keeps_what_earlier_handlers_did() -> None:
    """Each handler is retried on its own."""
    unit = unit_in(partition_of())
    unit.savepoint("first")
    unit.write(b"a", b"1")
    unit.publish(EVENT)
    for _ in range(2):
        before = unit.savepoint("second")
        assert unit.position == 0
        unit.write(b"a", b"2")
        unit.write(b"b", None)
        unit.publish(EVENT)
        assert (unit.position, unit.handler) == (1, "second")
        unit = unit.rollback(before)
        assert unit.rows == {b"a": b"1"}
        assert (len(unit.outbox), unit.position) == (1, 0)


def test_a_first_attempt_that_is_rolled_back_leaves_nothing() -> None:
    """Its savepoint is shared by all units, and must stay empty."""
    for _ in range(2):
        unit = unit_in(partition_of())
        before = unit.savepoint("h")
        assert before == ({}, 0, 0)
        unit.write(b"a", b"1")
        unit.publish(EVENT)
        unit = unit.rollback(before)
        assert (unit.rows, unit.outbox) == ({}, [])
        unit.write(b"b", b"1")


def test_a_retried_handler_reads_anew() -> None:
    """Rows that a failed attempt read do not bind the next one."""
    partition = partition_of({b"a": b"old"})
    unit, other = unit_in(partition), unit_in(partition)
    before = unit.savepoint("h")
    unit.write(b"a", unit.row(b"a"))
    unit = unit.rollback(before)
    other.write(b"a", b"new")
    other.join()
    assert unit.row(b"a") == b"new"


def test_a_unit_that_suspended_owns_what_it_touched_and_what_it_touches() -> None:
    """Another unit that reads or writes such a row must be undone."""
    partition = partition_of()
    owner = live(partition, b"before")
    owner.row(b"read")
    owner.write(b"written", b"1")
    assert set(partition.owners) == {b"before", b"read", b"written"}
    for key in partition.owners:
        for other in (unit_in(partition), live(partition)):
            with pytest.raises(RowConflictError):
                other.row(key)
            assert other.in_the_way is owner
            with pytest.raises(RowConflictError):
                other.write(key, b"blind")
            assert other.rows == {}
    owner.write(b"before", b"2")
    owner.end()
    assert partition.owners == {}
    assert unit_in(partition).row(b"before") is None


def test_a_unit_that_never_suspends_owns_nothing() -> None:
    """No other event can run in between."""
    partition = partition_of()
    unit_in(partition).row(b"a")
    assert partition.owners == {}
    ended = unit_in(partition)
    ended.row(b"a")
    ended.end()
    ended.suspend()  # its task waits for another event by now
    assert partition.owners == {}


def test_a_row_that_was_read_stays_as_it_is_until_the_owner_ends() -> None:
    """The owner can rely on the value that it has read."""
    partition = partition_of({b"n": b"1"})
    slow = live(partition, b"n")
    fast = unit_in(partition)
    with pytest.raises(RowConflictError):
        fast.write(b"n", b"3")
    slow.write(b"n", b"2" + (slow.row(b"n") or b""))
    slow.join()
    slow.end()
    again = unit_in(partition)
    again.write(b"n", b"3" + (again.row(b"n") or b""))
    again.join()
    assert partition.row(b"n") == b"321"


def test_a_failed_attempt_frees_the_rows_that_it_alone_touched() -> None:
    """Other events may use them during the back-off."""
    partition = partition_of()
    unit = unit_in(partition)
    unit.touch(b"mark")
    unit.write(b"first", b"1")
    before = unit.savepoint("second")
    unit.row(b"first")
    unit.row(b"second")
    unit.suspend()
    unit.write(b"third", b"1")
    unit = unit.rollback(before)
    assert list(partition.owners) == [b"mark", b"first"]
    unit_in(partition).write(b"third", b"2")


async def test_those_that_wait_are_woken_one_at_a_time_in_their_order() -> None:
    """If all were woken at once, all but one would run in vain."""
    partition = partition_of()
    owner = live(partition, b"a")
    order: list[int] = []
    inside = 0

    async def event(number: int) -> None:
        nonlocal inside
        waiters = None
        while True:
            unit = UnitOfWork(partition, record(number), waiters)
            order.append(number)
            try:
                unit.row(b"a")
            except RowConflictError:
                unit.end()
                turn = unit.turn()
                waiters = await turn if turn is not None else None
                continue
            inside += 1
            assert inside == 1
            unit.suspend()
            await asyncio.sleep(0)
            inside -= 1
            unit.end()
            return

    tasks = [asyncio.create_task(event(number)) for number in range(4)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert order == [0, 1, 2, 3]
    owner.end()
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    assert order == [0, 1, 2, 3] * 2
    assert partition.owners == {}


async def test_waiting_for_an_owner_that_has_ended_is_over_at_once() -> None:
    """Such a wait would never be ended.

    A waiter that was cancelled is skipped.
    """
    partition = partition_of()
    owner = live(partition, b"a")
    late, cancelled, last = (unit_in(partition) for _ in range(3))
    for unit in (late, cancelled, last):
        with pytest.raises(RowConflictError):
            unit.row(b"a")
    gone, waits = cancelled.turn(), last.turn()
    assert gone is not None
    assert waits is not None
    gone.cancel()
    owner.end()
    assert late.turn() is None
    assert not await asyncio.wait_for(waits, 5)


def test_what_is_too_large_for_one_batch_is_refused_and_leaves_nothing() -> None:
    """The limit is that of a checkpoint, which is one record batch."""
    partition = partition_of(group_bytes=500)
    unit = unit_in(partition)
    unit.write(b"a", b"x" * 500)
    unit.publish(EVENT)
    unit.mark = (b"mark", b"seen")
    with pytest.raises(EffectsTooLargeError, match="at most 500"):
        unit.join()
    group = partition.filling
    assert (group.rows, group.marks, group.outbox, group.size) == ({}, {}, [], 0)


def test_a_write_after_the_end_is_the_handlers_mistake() -> None:
    """A task that the handler left behind must not write into a settled unit."""
    unit = unit_in(partition_of())
    unit.end()
    with pytest.raises(TypeError, match="after the event"):
        unit.write(b"a", b"1")


async def test_every_task_has_the_unit_that_it_entered() -> None:
    assert current_unit() is None

    async def handle(number: int) -> None:
        unit = unit_in(partition_of(), number)
        enter(unit)
        await asyncio.sleep(0)
        assert current_unit() is unit

    await asyncio.gather(handle(1), handle(2))
    assert current_unit() is None
