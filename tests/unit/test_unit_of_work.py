"""The unit of work: a handler's effects are kept together or not at all, and the next event sees them."""

import asyncio
from types import SimpleNamespace
from typing import Any

from app.state.group import Groups

from app.state.unit import Unit, current_unit, enter
from app.wire.envelope import Outgoing

RECORD = Outgoing("t", b"k", b"v")


def record(offset: int) -> Any:
    """A record without headers."""
    return SimpleNamespace(topic="t", partition=0, offset=offset, headers=())


def stored(partition: int, key: bytes) -> bytes | None:
    """A store that holds one row."""
    return {b"stored": b"old"}.get(key)


def test_an_event_sees_its_own_writes_then_the_groups_then_the_store() -> None:
    """The newest value wins, a deleted row is gone."""
    groups = Groups(0)
    first, second = Unit(groups, record(1)), Unit(groups, record(2))
    assert first.row("table", b"stored", stored) == b"old"
    first.write("table", b"stored", b"new")
    assert first.row("table", b"stored", stored) == b"new"
    assert second.row("other", b"stored", stored) == b"old"
    assert first.join()
    assert second.row("table", b"stored", stored) == b"new"
    second.write("table", b"stored", None)
    assert second.row("table", b"stored", stored) is None


def test_a_unit_that_read_what_another_changed_does_not_join() -> None:
    """No update is lost, whether the other one's group still fills, is settled now, or was settled."""
    for how_far in range(3):
        groups, store = Groups(0), {b"n": b"1"}

        def read(partition: int, key: bytes, store: dict[bytes, bytes] = store) -> bytes | None:
            return store.get(key)

        slow, fast = Unit(groups, record(1)), Unit(groups, record(2))
        slow.write("t", b"n", b"2" + (slow.row("t", b"n", read) or b""))
        fast.write("t", b"n", b"3" + (fast.row("t", b"n", read) or b""))
        assert fast.join()
        if how_far:
            group = groups.next_to_settle()
            assert group is not None
        if how_far == 2:
            store[b"n"] = b"31"
            groups.settled()
        assert slow.row("t", b"n", read) == b"21"  # its own world until its end
        assert not slow.join()
        again = Unit(groups, record(1))
        assert again.row("t", b"n", read) == b"31"
        again.write("t", b"n", b"231")
        assert again.join()


def test_a_retried_handler_reads_anew() -> None:
    """What a failed attempt read does not bind the next one."""
    groups = Groups(0)
    unit, other = Unit(groups, record(1)), Unit(groups, record(2))
    before = unit.savepoint("h")
    assert unit.row("t", b"stored", stored) == b"old"
    other.write("t", b"stored", b"new")
    assert other.join()
    unit.rollback(before)
    assert unit.row("t", b"stored", stored) == b"new"
    assert unit.join()


def test_a_unit_that_does_not_join_leaves_nothing() -> None:
    """What a failed event wrote and published is forgotten."""
    groups = Groups(0)
    unit = Unit(groups, record(1))
    unit.write("table", b"a", b"1")
    unit.publish(RECORD)
    assert (groups.filling.rows, groups.filling.outbox) == ({}, [])


def test_a_rolled_back_attempt_keeps_what_earlier_handlers_did() -> None:
    """Each handler is retried on its own."""
    unit = Unit(Groups(0), record(1))
    unit.savepoint("first")
    unit.write("table", b"a", b"1")
    unit.publish(RECORD)
    before = unit.savepoint("second")
    unit.write("table", b"a", b"2")
    unit.write("table", b"b", b"2")
    unit.publish(RECORD)
    assert unit.position == 1
    unit.rollback(before)
    assert unit.rows == {"table": {b"a": b"1"}}
    assert (len(unit.outbox), unit.position) == (1, 0)


async def test_every_task_has_the_unit_that_it_entered() -> None:
    """Outside there is none; two tasks do not see each other's."""
    assert current_unit() is None

    async def handle(number: int) -> None:
        unit = Unit(Groups(0), record(number))
        enter(unit)
        await asyncio.sleep(0)
        assert current_unit() is unit

    await asyncio.gather(handle(1), handle(2))
    assert current_unit() is None
