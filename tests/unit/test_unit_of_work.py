"""The unit of work: a handler's effects are kept together or not at all, and the next event sees them."""

import pytest

from app.state.unit import Group, Unit, current_unit
from app.wire.envelope import Outgoing

RECORD = Outgoing("t", b"k", b"v")


def stored(partition: int, key: bytes) -> bytes | None:
    """A store that holds one row."""
    return {b"stored": b"old"}.get(key)


def test_an_event_sees_its_own_writes_then_the_groups_then_the_store() -> None:
    """The newest value wins, a deleted row is gone."""
    group = Group(0)
    first, second = Unit(group, "1"), Unit(group, "2")
    assert first.row("table", b"stored", stored) == b"old"
    first.write("table", b"stored", b"new")
    assert first.row("table", b"stored", stored) == b"new"
    assert second.row("table", b"stored", stored) == b"old"
    first.join()
    assert second.row("table", b"stored", stored) == b"new"
    second.write("table", b"stored", None)
    assert second.row("table", b"stored", stored) is None
    assert second.row("other", b"stored", stored) == b"old"


def test_a_unit_that_does_not_join_leaves_nothing() -> None:
    """What a failed event wrote and published is forgotten."""
    group = Group(0)
    unit = Unit(group, "1")
    unit.write("table", b"a", b"1")
    unit.outbox.append(RECORD)
    assert (group.rows, group.outbox) == ({}, [])


def test_a_rolled_back_attempt_keeps_what_earlier_handlers_did() -> None:
    """Each handler is retried on its own."""
    unit = Unit(Group(0), "1")
    unit.savepoint("first")
    unit.write("table", b"a", b"1")
    unit.outbox.append(RECORD)
    before = unit.savepoint("second")
    unit.write("table", b"a", b"2")
    unit.write("table", b"b", b"2")
    unit.outbox.append(RECORD)
    assert unit.position == 1
    unit.rollback(before)
    assert unit.rows == {"table": {b"a": b"1"}}
    assert (len(unit.outbox), unit.position) == (1, 0)


def test_only_the_handler_in_hand_has_a_unit() -> None:
    """Outside there is none, also after an error."""
    assert current_unit() is None
    unit = Unit(Group(0), "1")
    with pytest.raises(ValueError, match="x"), unit:
        assert current_unit() is unit
        raise ValueError("x")
    assert current_unit() is None
