"""Tests of the control state beside pauses: seeks, concurrency, and the offsets of a seek."""

import msgspec
import pytest
from aiokafka import TopicPartition

from famulus.control.concurrency import WIDTH_MAX, ConcurrencyOverride, ConcurrencyOverrides
from famulus.control.control_state import ControlState
from famulus.control.seek_planner import (
    PlannedSeek,
    SeekTarget,
    _to,
    consequences,
    seek_target,
    time_ms_of,
)
from famulus.control.seeks import SeekId, SeekRequest, Seeks
from famulus.errors import ConfigError

AT = "2026-01-01T10:02:00Z"
PLACE = TopicPartition("t", 0)


def order(offset: int) -> bytes:
    """Return the value of a seek request."""
    return msgspec.json.encode(SeekRequest(offset, "ann@desk", AT, "why"))


def state_after(*records: tuple[str, bytes | None]) -> ControlState:
    """Return the control state after *records*."""
    found = ControlState()
    for key, value in records:
        found.take(key.encode(), value)
    return found


def test_the_newest_order_of_a_partition_counts() -> None:
    """Earlier requests stay known, because they are finished together with it."""
    seeks = state_after(
        ("seek:t/0/a", order(5)), ("seek:t/1/a", order(6)), ("seek:t/0/b", order(7))
    ).seeks
    newest = seeks.newest("t", 0)
    assert newest is not None
    assert (newest[0].id, newest[1].offset) == ("b", 7)
    assert [name.id for name in seeks.names("t", 0)] == ["a", "b"]
    assert [(row["partition"], row["offset"]) for row in seeks.rows()] == [(0, 7), (1, 6)]
    seeks.forget(seeks.names("t", 0))
    assert seeks.newest("t", 0) is None
    assert seeks.newest("t", 1) is not None


def test_a_tombstone_ends_its_own_order_alone() -> None:
    """A request that was made meanwhile still counts."""
    seeks = state_after(
        ("seek:t/0/a", order(5)), ("seek:t/0/b", order(7)), ("seek:t/0/a", None)
    ).seeks
    assert [str(name) for name in seeks.names("t", 0)] == ["seek:t/0/b"]


@pytest.mark.parametrize(
    "key", ["seek:", "seek:t/0", "seek:t/x/a", "seek:t/0/", "seek:/0/a", "seek:t/0/a/b"]
)
def test_what_names_no_order_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="is not seek:"):
        Seeks().take(key, order(1))


def test_a_name_is_read_back() -> None:
    seeks = Seeks()
    name = SeekId("a.b-c_d", 12, "x")
    assert "is to go on at offset 3" in seeks.take(str(name), order(3))
    assert seeks.names("a.b-c_d", 12) == [name]


def test_a_concurrency_holds_until_its_tombstone() -> None:
    """The key `*` sets the concurrency of each worker."""
    five = msgspec.json.encode(ConcurrencyOverride(5, "ann@desk", AT))
    concurrency_overrides = state_after(
        ("concurrency:t", five), ("concurrency:*", five)
    ).concurrency_overrides
    assert (
        concurrency_overrides.get("t", 9),
        concurrency_overrides.get("u", 9),
        concurrency_overrides.get("*", 9),
    ) == (5, 9, 5)
    assert [row["topic"] for row in concurrency_overrides.rows()] == [None, "t"]
    assert "that of the settings" in concurrency_overrides.take("concurrency:t", None)
    assert concurrency_overrides.get("t", 9) == 9


@pytest.mark.parametrize(
    ("key", "count"),
    [
        ("concurrency:", 1),
        ("concurrency:t/0", 1),
        ("concurrency:t", 0),
        ("concurrency:t", WIDTH_MAX + 1),
    ],
)
def test_a_concurrency_has_bounds(key: str, count: int) -> None:
    """The earlier override stays in effect."""
    concurrency_overrides = ConcurrencyOverrides()
    with pytest.raises(ValueError, match=r".+"):
        concurrency_overrides.take(
            key, msgspec.json.encode(ConcurrencyOverride(count, "ann@desk", AT))
        )
    assert not concurrency_overrides.of


def test_all_kinds_stand_in_one_topic() -> None:
    """A topic may have the name of a kind."""
    pause = msgspec.json.encode({"by": "ann", "at": AT})
    found = state_after(("seek/3", pause), ("concurrency/3", pause), ("seek:t/0/a", order(5)))
    assert {str(target) for target in found.pauses.of} == {"seek/3", "concurrency/3"}
    assert "was resumed" in found.take(b"seek/3", None)


def test_a_place_is_said_in_one_way() -> None:
    """Times without a zone are UTC."""
    assert seek_target(edge=None, offset=0, time=None) == SeekTarget(offset=0)
    assert seek_target(edge="end", offset=None, time=None) == SeekTarget(edge="end")
    assert (
        seek_target(time="1970-01-01T00:00:01")
        == SeekTarget(time_ms=1000)
        == SeekTarget(time_ms=time_ms_of("1970-01-01T01:00:01+01:00"))
    )
    for asked in ({"edge": None, "offset": None}, {"edge": "end", "offset": 3}):
        with pytest.raises(ValueError, match="say one of edge, offset"):
            seek_target(**asked)
    with pytest.raises(ValueError, match="is no time such as"):
        seek_target(time="yesterday")


@pytest.mark.parametrize(
    ("where", "to"),
    [
        (SeekTarget(edge="beginning"), 10),
        (SeekTarget(edge="end"), 90),
        (SeekTarget(offset=10), 10),
        (SeekTarget(offset=90), 90),
        (SeekTarget(shift_by=-5), 45),
        (SeekTarget(shift_by=-500), 10),
        (SeekTarget(shift_by=500), 90),
        (SeekTarget(time_ms=1), 77),
    ],
)
def test_every_place_is_an_offset_of_the_log(where: SeekTarget, to: int) -> None:
    """Shifts stay within the log."""
    assert _to(PLACE, (10, 90), 50, 77, where) == to


@pytest.mark.parametrize("offset", [9, 91])
def test_an_offset_outside_of_the_log_is_refused(offset: int) -> None:
    """The error names the range."""
    with pytest.raises(ConfigError, match=f"t/0 has the offsets 10 to 90, not {offset}"):
        _to(PLACE, (10, 90), 50, 90, SeekTarget(offset=offset))


@pytest.mark.parametrize(
    ("committed", "to", "again"),
    [(50, 40, 10), (50, 60, -10), (None, 30, -20), (5, 10, 0), (95, 90, 0)],
)
def test_a_move_says_how_many_come_again(committed: int | None, to: int, again: int) -> None:
    """Deleted records do not count, and a negative number is that of skipped records."""
    move = PlannedSeek(PLACE, 10, 90, committed, to)
    assert move.again == again
    assert (move.as_json()["again"], move.as_json()["skipped"]) == (max(again, 0), max(-again, 0))


def test_it_is_said_what_the_state_has_to_do_with_it() -> None:
    """A seek back has effects unless the state recognises duplicates."""
    back = [PlannedSeek(PLACE, 0, 90, 50, 40)]
    [known] = consequences(back, {"t": 3600.0})
    assert "duplicates and not handled" in known
    assert "(for 1 h)" in known
    assert "state replay --topic t" in known
    [unknown] = consequences(back, {"t": None})
    assert "tables count them twice" in unknown
    assert consequences(back, {}) == ["t: 10 records are handled again"]
    assert consequences([PlannedSeek(PLACE, 0, 90, 50, 60)], {"t": 3600.0}) == [
        "t: 10 records are skipped, no handler gets them"
    ]
    assert consequences([PlannedSeek(PLACE, 0, 90, 50, 50)], {"t": 3600.0}) == []
