"""Tests of the dead letter index: open dead letters, selection, and the order of a redrive."""

from collections.abc import Iterable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from famulus.deadletter.dead_letter import (
    Audit,
    Cause,
    DeadLetter,
    LetterId,
    Origin,
    audit_in,
    audit_of,
    audit_record,
    first_digest,
    parse_dead_letter,
)
from famulus.deadletter.failure_kind import FailureKind
from famulus.deadletter.index import Criteria, DeadLetterIndex, Entry, Plan, planned, time_of
from famulus.deadletter.record import DeadLetters, Failure
from famulus.deadletter.redelivery import outgoing, parse_redelivery, returning
from famulus.errors import DecodeError, PermanentError
from famulus.inspection.deadletters.causes import grouped

GROUP = "famulus"
LETTERS = DeadLetters("t.dead-letter", 4, GROUP, "v1")
AT = 1_800_000_000_000


def record(
    offset: int = 5, key: bytes | None = b"k", value: bytes | None = b"{}", partition: int = 1
) -> Any:
    """Return an event as it was read."""
    headers = [("ce_id", b"%d" % offset), ("ce_source", b"shop"), ("famulus-hops", b"not ours")]
    return SimpleNamespace(
        topic="t",
        partition=partition,
        offset=offset,
        timestamp=AT - 5000,
        key=key,
        value=value,
        headers=headers,
    )


def letter_record(
    of: Any, failure: Failure, letters: DeadLetters = LETTERS, *, is_large: bool = False
) -> Any:
    """Return the dead letter record of an event, without the value if *is_large*."""
    sent = letters.letter(of, failure)
    if is_large:
        assert sent.fallback is not None
        sent = sent.fallback
    return SimpleNamespace(
        topic=sent.topic,
        partition=1,
        offset=0,
        timestamp=0,
        key=sent.key,
        value=sent.value,
        headers=list(sent.headers),
    )


def failure(
    kind: FailureKind = FailureKind.PERMANENT,
    at_ms: int = AT,
    hops: int = 0,
    handler: str = "agents.t.note",
) -> Failure:
    """Return the failure of an event."""
    return Failure(kind, PermanentError("no"), at_ms, handler, 2, at_ms - 1000, hops)


def letter(
    offset: int = 5, key: bytes | None = b"k", partition: int = 1, **about: Any
) -> DeadLetter:
    """Return a parsed dead letter."""
    return parse_dead_letter(
        letter_record(record(offset, key, partition=partition), failure(**about))
    )


def audit(of: DeadLetter, at_ms: int, action: Any = "redrive", group: str = GROUP) -> Audit:
    """Return the audit record of an action on *of*."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return Audit(
        action, *of.id.origin, of.id.hops, group, of.cause.kind, of.cause.handler, "me@here", at
    )


def register(
    letters: Iterable[DeadLetter],
    audits: Iterable[Audit] = (),
    criteria: Criteria | None = None,
    *,
    is_all: bool = False,
) -> DeadLetterIndex:
    """Return the index after it has read all *audits* and *letters*."""
    made = DeadLetterIndex(GROUP, criteria or Criteria(), is_all=is_all)
    for done in audits:
        made.note(done)
    for offset, one in enumerate(letters):
        made.add(one, (1, offset))
    return made


def offsets(entries: Iterable[Entry]) -> list[int]:
    """Return the source offsets of the events."""
    return [entry.id.origin.offset for entry in entries]


# Contents of a dead letter.


def test_a_letter_says_what_failed_where() -> None:
    """Headers of the same names that the producer wrote make no difference."""
    found = parse_dead_letter(letter_record(record(), failure(hops=3)))
    assert found.id == LetterId(Origin("t", 1, 5), "", 3)
    assert found.cause == Cause("permanent", "agents.t.note", "famulus.errors.PermanentError", "")
    assert (found.message, found.event_id, found.at_ms, found.first_ms) == (
        "no",
        "shop#5",
        AT,
        AT - 1000,
    )
    assert (found.group, found.version, found.attempts, found.key) == (GROUP, "v1", 2, b"k")
    assert (found.timestamp_ms, found.digest, found.value_bytes) == (AT - 5000, "", 2)


def test_what_is_no_letter_of_ours_is_refused() -> None:
    """The headers are missing or broken, or there is no source partition."""
    broken = letter_record(record(), failure())
    broken.headers = [(name, b"x" if name == "famulus-hops" else of) for name, of in broken.headers]
    nowhere = letter_record(record(partition=-1), failure())
    for strange in (record(), SimpleNamespace(headers=[]), broken, nowhere):
        with pytest.raises(DecodeError, match="not a dead letter of ours"):
            parse_dead_letter(strange)


def test_a_letter_goes_back_as_what_the_event_was() -> None:
    """The hop count increases by one, and the dead letter's own headers are removed."""
    event = record()
    read = letter_record(event, failure(hops=3))
    sent = outgoing("back", returning(read, "redrive", read.value))
    came = parse_redelivery(SimpleNamespace(**{**vars(read), "headers": list(sent.headers)}))
    assert (came.topic, came.partition, came.offset, came.timestamp) == ("t", 1, 5, AT - 5000)
    assert (came.key, came.value, list(came.headers)) == (event.key, event.value, event.headers)
    assert (came.action, came.hops, came.edited, sent.partition) == ("redrive", 4, "", 1)


def test_an_edit_is_known_by_the_first_value_ever() -> None:
    """The dead letter may lack the value, and the event may be edited a second time."""
    large = letter_record(record(value=b"x" * 2000), failure(), is_large=True)
    for read in (letter_record(record(), failure()), large):
        first = returning(read, "redrive", b"1", first_digest(read, parse_dead_letter(read)))
        again = letter_record(
            record(value=b"1"),
            Failure(FailureKind.PERMANENT, PermanentError("no"), AT, edited=first.edited),
        )
        second = returning(again, "redrive", b"2", first_digest(again, parse_dead_letter(again)))
        assert len(first.edited) == 64
        assert first.edited == second.edited == returning(again, "drop", b"1").edited
    assert first.edited == parse_dead_letter(large).digest
    assert parse_dead_letter(large).value_bytes == 2000


def test_what_was_done_is_read_again() -> None:
    """Records that are not audit records are refused."""
    read = letter_record(record(), failure(hops=1))
    sent = returning(read, "drop", read.value)
    kept = audit_record(
        "t.dead-letter.audit", audit_of(parse_dead_letter(read), sent, "me@here", AT, "test data")
    )
    assert kept.key == b"t/1/5"
    found = audit_in(SimpleNamespace(**{**vars(read), "value": kept.value}))
    assert (found.id, found.at_ms, found.action, found.note) == (
        parse_dead_letter(read).id,
        AT,
        "drop",
        "test data",
    )
    assert (found.group, found.failure, found.handler, found.who) == (
        GROUP,
        "permanent",
        "agents.t.note",
        "me@here",
    )
    with pytest.raises(msgspec.DecodeError):
        audit_in(read)


def test_a_cause_has_a_name_that_stays() -> None:
    """Another place, handler or error makes another cause.

    Another index into a list does not.
    """

    def cause(path: str) -> Cause:
        poison = Failure(FailureKind.POISON, DecodeError(path, "Expected `int`"), AT)
        return parse_dead_letter(letter_record(record(), poison)).cause

    assert Cause("permanent", "a.b", "E", "m:1").id == "6c5e34d2"
    assert len({Cause("permanent", "a.b", "E", place).id for place in ("m:1", "m:2")}) == 2
    assert cause("$.items[0].price").id == cause("$.items[17].price").id
    assert cause("$.items[0].price").id != cause("$.items[0].quantity").id


# Open dead letters.


def test_a_letter_that_stands_twice_is_one() -> None:
    """The first one counts.

    A worker died between writing the dead letter and finishing its event.
    """
    made = register([letter(5), letter(6), letter(5, at_ms=AT + 1)])
    assert [(e.id.origin.offset, e.place) for e in made.entries()] == [(5, (1, 0)), (6, (1, 1))]


def test_what_was_done_is_open_no_more() -> None:
    """With *is_all* the entry states what was done."""
    letters = [letter(5), letter(6), letter(7)]
    done = [audit(letters[0], AT + 1), audit(letters[1], AT + 2, "drop")]
    assert offsets(register(letters, done).entries()) == [7]
    every = register(letters, done, is_all=True).entries()
    assert [e.settled and (e.settled.what, e.settled.at_ms) for e in every] == [
        ("redriven", AT + 1),
        ("dropped", AT + 2),
        None,
    ]


def test_what_another_group_did_is_not_ours() -> None:
    """Dead letters of another group are only counted."""
    other = DeadLetters("t.dead-letter", 4, "billing", "v1")
    theirs = parse_dead_letter(letter_record(record(6), failure(), other))
    made = register([letter(5), theirs], [audit(letter(5), AT + 1, group="billing")])
    assert (offsets(made.entries()), made.others) == ([5], {"billing": 1})


def test_a_letter_that_came_back_is_one_of_its_own() -> None:
    """The earlier dead letter is closed even if no audit record says that it was redriven."""
    letters = [letter(5), letter(5, hops=1, at_ms=AT + 9)]
    for done in ([], [audit(letters[0], AT + 1)]):
        assert [e.id.hops for e in register(letters, done).entries()] == [1]
    every = register(letters, is_all=True).entries()
    assert [(e.id.hops, e.settled and e.settled.what) for e in every] == [
        (0, "failed again"),
        (1, None),
    ]


def test_an_event_that_was_read_and_failed_anew_is_open_again() -> None:
    """The event was replayed, or its source topic was recreated.

    Earlier actions do not apply to it.
    """
    before = [letter(5), letter(5, hops=1, at_ms=AT + 1000)]
    done = [audit(before[0], AT + 500), audit(before[1], AT + 1500)]
    made = register([*before, letter(5, at_ms=AT + 2000)], done)
    assert [(e.id.hops, e.at_ms) for e in made.entries()] == [(0, AT + 2000)]


def test_letters_of_two_handlers_of_one_event_are_two() -> None:
    """If only one handler failed, only that one gets the event again."""
    scope = ("famulus-scope", b"handler")
    reads = [
        letter_record(record(), failure(handler=f"agents.t.{name}")) for name in ("note", "mail")
    ]
    for read in reads:
        read.headers.append(scope)
    letters = [parse_dead_letter(read) for read in reads]
    assert [e.id.only for e in register(letters).entries()] == ["agents.t.mail", "agents.t.note"]
    assert returning(reads[1], "redrive", b"").handler == "agents.t.mail"


# Selection.


@pytest.mark.parametrize(
    ("criteria", "takes"),
    [
        (Criteria(), True),
        (Criteria(origin=Origin("t", 1, 5)), True),
        (Criteria(origin=Origin("t", 2, 5)), False),
        (Criteria(key="k"), True),
        (Criteria(key="K"), False),
        (Criteria(event_id="shop#5"), True),
        (Criteria(event_id="5"), True),
        (Criteria(event_id="shop"), False),
        (Criteria(cause=letter().cause.id, since_ms=AT, until_ms=AT + 1), True),
        (Criteria(since_ms=AT + 1), False),
        (Criteria(until_ms=AT), False),
        (Criteria(cause="00000000"), False),
    ],
)
def test_criteria_must_all_hold(criteria: Criteria, takes: bool) -> None:  # a table
    """An event id may omit its source.

    The start of a period is inclusive and its end exclusive.
    """
    assert criteria.takes(letter()) is takes


def test_a_key_is_said_as_it_is_shown() -> None:
    """A key that is not text is escaped, and a dead letter without a key has none."""
    assert Criteria(key="\\xff").takes(letter(key=b"\xff"))
    assert not Criteria(key="").takes(letter(key=None))


def test_times_are_iso_or_so_long_ago() -> None:
    """Times without an offset are UTC."""
    noon = round(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp() * 1000)
    assert time_of("2026-01-31T12:00", 0) == time_of("2026-01-31T13:00+01:00", 0) == noon
    assert time_of("2026-01-31", 0) == noon - 12 * 3_600_000
    assert [AT - time_of(text, AT) for text in ("30s", "5m", "2h", "1.5d")] == [
        30_000,
        300_000,
        7_200_000,
        129_600_000,
    ]
    for text in ("", "tomorrow", "2", "h", "-2h"):
        with pytest.raises(ValueError, match=r"such as 30m, 2h or 3d"):
            time_of(text, AT)


def test_an_origin_is_read_as_it_is_written() -> None:
    assert Origin.of(str(Origin("order-events", 3, 1042))) == Origin("order-events", 3, 1042)
    for text in ("", "t", "t/1", "t/1/x", "/1/2", "t/-1/2"):
        with pytest.raises(ValueError, match="TOPIC/PARTITION/OFFSET"):
            Origin.of(text)


def test_causes_are_counted() -> None:
    """The most frequent cause comes first."""
    letters = [
        letter(1, b"a"),
        letter(2, b"b", at_ms=AT + 5),
        letter(3, b"a"),
        letter(4, None, kind=FailureKind.TIMEOUT),
    ]
    made = register(letters)
    first, second = grouped(made.entries(), made.messages)
    assert (first.count, first.keys, first.first_ms, first.last_ms) == (3, [b"a", b"b"], AT, AT + 5)
    assert (first.newest.id.origin.offset, first.message) == (2, "no")
    assert (second.cause.kind, second.count, second.keys) == ("timeout", 1, [])


# Plans: what is sent, in which order.


def plan(letters: Iterable[DeadLetter], criteria: Criteria, **how: Any) -> Plan:
    """Return the plan of a redrive."""
    how = {"by_partition": False, "hops_max": 10, "limit": None, **how}
    return planned(
        register(letters, criteria=criteria, is_all=how.pop("is_all", False)).entries(), **how
    )


PARKED: Any = {"kind": FailureKind.PARKED, "handler": ""}


def test_they_go_in_the_order_of_the_log() -> None:
    """The dead letters have another order.

    One that failed again is behind the events that are parked for it.
    """
    letters = [letter(6, **PARKED), letter(7, **PARKED), letter(5, hops=1), letter(3, partition=0)]
    assert [e.id.origin[1:] for e in plan(letters, Criteria()).chosen] == [
        (0, 3),
        (1, 5),
        (1, 6),
        (1, 7),
    ]


def test_what_waits_takes_along_what_it_waits_for() -> None:
    """All earlier dead letters of the same key and partition are added, and no others."""
    letters = [
        letter(3, b"other"),
        letter(4, None),
        letter(5),
        letter(6, **PARKED),
        letter(7, **PARKED),
        letter(8, **PARKED),
        letter(2, partition=2),
    ]
    found = plan(letters, Criteria(origin=Origin("t", 1, 7)))
    assert (offsets(found.chosen), offsets(found.added)) == ([5, 6, 7], [5, 6])
    assert offsets(plan(letters, Criteria(origin=Origin("t", 1, 7)), is_drop=True).chosen) == [7]
    assert offsets(plan(letters, Criteria(origin=Origin("t", 1, 5))).chosen) == [5]


def test_letters_of_a_key_that_do_not_wait_are_free() -> None:
    """No dead letter of the key is parked up to the selected one."""
    letters = [letter(5), letter(6), letter(7, **PARKED)]
    assert offsets(plan(letters, Criteria(origin=Origin("t", 1, 6))).chosen) == [6]


def test_where_the_partition_has_an_order_all_of_it_waits() -> None:
    """The keys do not matter then."""
    letters = [letter(5, b"a"), letter(6, b"b", **PARKED), letter(7, None, **PARKED)]
    criteria = Criteria(origin=Origin("t", 1, 7))
    assert offsets(plan(letters, criteria, by_partition=True).chosen) == [5, 6, 7]
    assert offsets(plan(letters, criteria).chosen) == [7]


def test_what_was_sent_too_often_stays_and_what_waits_for_it() -> None:
    """Dead letters that do not wait for it are sent."""
    letters = [
        letter(5, hops=10),
        letter(6, **PARKED),
        letter(7, b"other"),
        letter(8, b"third", hops=10),
        letter(9, b"third"),
    ]
    found = plan(letters, Criteria())
    assert [offsets(e) for e in (found.chosen, found.refused, found.held)] == [[7, 9], [5, 8], [6]]
    assert offsets(plan(letters, Criteria(), hops_max=None).chosen) == [5, 6, 7, 8, 9]


def test_a_limit_takes_the_first_ones() -> None:
    """A parked event is then never sent without those that it waits for."""
    letters = [letter(5), letter(6, **PARKED), letter(7, **PARKED)]
    assert offsets(plan(letters, Criteria(origin=Origin("t", 1, 7)), limit=2).chosen) == [5, 6]
    assert offsets(plan(letters, Criteria(), limit=0).chosen) == []


def test_what_failed_again_is_not_sent_twice() -> None:
    """With *is_all* only its newest dead letter is sent, too."""
    found = plan([letter(5), letter(5, hops=1, at_ms=AT + 1)], Criteria(), is_all=True)
    assert [e.id.hops for e in found.chosen] == [1]
