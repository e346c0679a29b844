"""Tests of pauses: records of the admin topic, their scopes, and the effect of a resume."""

import msgspec
import pytest

from famulus.control.pauses import Action, AuditInfo, Pauses, PauseScope, change_records
from famulus.errors import OperatingError

WHY = AuditInfo("ann@desk", "2026-01-01T10:02:00Z", "moving")


def paused(*keys: str) -> Pauses:
    """Return the pauses after one of each of *keys*."""
    pauses = Pauses()
    for key in keys:
        pauses.take(key.encode(), msgspec.json.encode(WHY))
    return pauses


@pytest.mark.parametrize(
    "target", [PauseScope(), PauseScope("t"), PauseScope("t", 0), PauseScope("a.b-c_d", 12)]
)
def test_a_key_names_its_target(target: PauseScope) -> None:
    assert PauseScope.parsed(str(target)) == target


@pytest.mark.parametrize(
    "key", [b"", None, b"/3", b"t/x", b"t/-1", b"t/3/4", "t/\u0663".encode(), b"\xff"]
)
def test_other_keys_are_refused(key: bytes | None) -> None:
    pauses = Pauses()
    with pytest.raises(ValueError, match=r".+"):
        pauses.take(key, msgspec.json.encode(WHY))
    assert not pauses.of


def test_a_value_that_says_nothing_is_refused() -> None:
    """The earlier pause stays in effect."""
    pauses = paused("t")
    with pytest.raises(msgspec.MsgspecError):
        pauses.take(b"t", b"{}")
    assert pauses.why("t", 0)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("*", {("t", 0), ("t", 1), ("u", 0)}),
        ("t", {("t", 0), ("t", 1)}),
        ("t/1", {("t", 1)}),
        ("v", set()),
    ],
)
def test_a_pause_is_of_what_it_names(key: str, expected: set[tuple[str, int]]) -> None:
    pauses = paused(key)
    assert {at for at in [("t", 0), ("t", 1), ("u", 0)] if pauses.why(*at)} == expected


def test_the_words_say_who_when_and_why() -> None:
    assert (
        paused("t/1").why("t", 1) == "t/1 is paused since 2026-01-01T10:02:00Z by ann@desk: moving"
    )
    assert paused("*").why("t", 1).startswith("everything is paused since ")


def test_a_tombstone_ends_a_pause_and_no_other() -> None:
    """A tombstone for a scope that is not paused has no effect."""
    pauses = paused("t", "u/0")
    pauses.take(b"t", None)
    pauses.take(b"v", None)
    assert not pauses.why("t", 0)
    assert pauses.rows() == [
        {
            "topic": "u",
            "partition": 0,
            "by": "ann@desk",
            "at": "2026-01-01T10:02:00Z",
            "note": "moving",
        }
    ]


def test_a_resume_lifts_what_it_covers() -> None:
    """The resume of a topic includes its partitions.

    Without a pause there is nothing to do.
    """
    pauses = paused("t", "t/1", "u/0")
    assert pauses.lifted(PauseScope("t")) == [PauseScope("t"), PauseScope("t", 1)]
    assert pauses.lifted(PauseScope()) == [PauseScope("t"), PauseScope("t", 1), PauseScope("u", 0)]
    assert pauses.lifted(PauseScope("u")) == [PauseScope("u", 0)]
    assert pauses.lifted(PauseScope("u", 1)) == []


@pytest.mark.parametrize(
    ("key", "target", "says"),
    [("t", PauseScope("t", 1), "since t is"), ("*", PauseScope("t"), "since everything is")],
)
def test_a_part_does_not_go_on_while_the_whole_is_paused(
    key: str, target: PauseScope, says: str
) -> None:
    """A resume would report success without an effect."""
    with pytest.raises(OperatingError, match=says):
        paused(key).lifted(target)


@pytest.mark.parametrize("action", ["pause", "resume"])
def test_a_change_is_written_down_before_it_is_done(action: Action) -> None:
    """The audit record comes first in the batch."""
    audit, record = change_records("g", action, [PauseScope("t", 1)], WHY)
    assert (audit.topic, record.topic, record.key) == ("g.admin.audit", "g.admin", b"t/1")
    assert msgspec.json.decode(audit.value or b"") == {
        "action": action,
        "what": "t/1",
        "by": "ann@desk",
        "at": "2026-01-01T10:02:00Z",
        "note": "moving",
    }
    pauses = paused("t/1")
    pauses.take(record.key, record.value)
    assert bool(pauses.why("t", 1)) == (action == "pause")


def test_the_widest_pause_is_the_one_that_lets_a_partition_go_on() -> None:
    """The order of the pauses does not matter."""
    pauses = paused("t/0", "t", "*", "u")
    assert pauses.over("t", 0) == (PauseScope(), WHY)
    pauses.take(b"*", None)
    assert pauses.over("t", 0) == (PauseScope("t"), WHY)
    assert pauses.over("v", 0) is None
