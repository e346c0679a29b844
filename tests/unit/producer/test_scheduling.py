"""Tests of scheduled events without a broker: where and how long they wait, and never too short."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famulus.errors import DecodeError
from famulus.producer.scheduling import (
    WAITS_S,
    NotScheduledError,
    Scheduled,
    due_ms_of,
    scheduled,
    scheduling_topic,
)
from famulus.serialization.records import ProducerRecord, RecordCopy

NOW_MS = 1_800_000_000_000
NOW = datetime.fromtimestamp(NOW_MS / 1000, UTC)
TOPIC = "famulus.scheduled"
EVENT = ProducerRecord(
    "orders", b"k", b"{}", [("ce_id", b"1"), ("famulus-schedule-due", b"the sender's own")]
)


def written(outgoing: ProducerRecord, at_ms: int = NOW_MS) -> RecordCopy:
    """Return *outgoing* as a consumer reads it."""
    assert outgoing.partition is not None
    return RecordCopy(
        outgoing.topic,
        outgoing.partition,
        0,
        at_ms,
        outgoing.key,
        outgoing.value,
        tuple(outgoing.headers),
    )


def test_the_topic_belongs_to_the_group() -> None:
    assert scheduling_topic("famulus") == TOPIC


@given(ahead_ms=st.integers(1, 400 * 86_400_000), late_ms=st.integers(0, 5_000))
def test_it_arrives_as_it_was_never_early_and_after_few_hops(ahead_ms: int, late_ms: int) -> None:
    """A worker takes it from each wait at the end of that wait, or some time later."""
    due_ms = NOW_MS + ahead_ms
    now_ms, hops, event = NOW_MS, 0, Scheduled(EVENT, due_ms)
    while now_ms < due_ms:
        waiting = event.to_wait(TOPIC, now_ms)
        event = scheduled(written(waiting, now_ms))
        assert waiting.topic == TOPIC
        assert waiting.partition is not None
        assert now_ms < event.until_ms <= due_ms
        assert event.until_ms - now_ms == min(WAITS_S[waiting.partition] * 1000, due_ms - now_ms)
        now_ms, hops = event.until_ms + late_ms, hops + 1
    assert event.due_ms == due_ms
    assert (event.record.topic, event.record.key, event.record.value) == (
        EVENT.topic,
        EVENT.key,
        EVENT.value,
    )
    assert list(event.record.headers) == list(EVENT.headers)
    assert event.record.partition is None
    assert hops <= 400 + 4 + 6 + 6 + 10 + 6 + 10


@given(st.lists(st.tuples(st.integers(0, 1_000), st.integers(1_001, 10**9)), min_size=2))
def test_all_of_a_partition_but_the_shortest_are_in_order(events: list[tuple[int, int]]) -> None:
    """No event waits behind one that has to wait longer."""
    until: dict[int, int] = {}
    for at_ms, due_ms in sorted(events):
        waiting = Scheduled(EVENT, due_ms).to_wait(TOPIC, at_ms)
        assert waiting.partition is not None
        until_ms = scheduled(written(waiting, at_ms)).until_ms
        before = until.get(waiting.partition, 0)
        assert until_ms >= before or (waiting.partition == 0 and before - until_ms <= 1_000)
        until[waiting.partition] = until_ms


def test_what_its_topic_did_not_take_waits_and_keeps_its_time() -> None:
    """The event waits for ten seconds although it is due."""
    again = scheduled(written(Scheduled(EVENT, NOW_MS).to_try_again(TOPIC, NOW_MS + 7), NOW_MS + 7))
    assert (again.due_ms, again.until_ms) == (NOW_MS, NOW_MS + 7 + 10_000)
    assert list(again.record.headers) == list(EVENT.headers)


@pytest.mark.parametrize("ahead_ms", [-3_600_000, 3_600_000, 10**12])
def test_a_wrong_clock_holds_up_nothing_and_makes_nothing_early(ahead_ms: int) -> None:
    """The wait of the partition is the maximum; only the event's own header says when it is due."""
    due_ms = NOW_MS + 3_000
    waiting = Scheduled(EVENT, due_ms).to_wait(TOPIC, NOW_MS).headers
    headers = [*waiting[:-1], ("famulus-schedule-until", b"%d" % (NOW_MS + ahead_ms))]
    event = scheduled(RecordCopy(TOPIC, 0, 0, NOW_MS, b"k", b"{}", headers))
    assert event.until_ms <= NOW_MS + 1_000
    assert event.due_ms == due_ms


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("ce_id", b"1"),),
        (
            ("famulus-schedule-topic", b"t"),
            ("famulus-schedule-due", b"x"),
            ("famulus-schedule-until", b"1"),
        ),
        (
            ("famulus-schedule-topic", b"\xff"),
            ("famulus-schedule-due", b"1"),
            ("famulus-schedule-until", b"1"),
        ),
    ],
)
def test_a_record_of_somebody_else_is_none(headers: tuple[tuple[str, bytes], ...]) -> None:
    """The headers are missing or cannot be read."""
    with pytest.raises(DecodeError, match="do not say where it goes"):
        scheduled(RecordCopy(TOPIC, 0, 0, NOW_MS, None, b"{}", headers))


def test_a_part_of_a_millisecond_is_a_whole_one() -> None:
    """Rounding down would make the event early."""
    assert due_ms_of(NOW + timedelta(microseconds=1), NOW_MS, 1) == NOW_MS + 1
    assert due_ms_of(NOW + timedelta(milliseconds=1), NOW_MS, 1) == NOW_MS + 1


def test_a_moment_is_the_same_in_every_time_zone() -> None:
    """Only a time without a zone is refused."""
    due = NOW + timedelta(hours=1)
    assert due_ms_of(due.astimezone(timezone(timedelta(hours=5))), NOW_MS, 1) == NOW_MS + 3_600_000


def test_a_time_that_cannot_be_waited_for() -> None:
    """The error names the remedy."""
    with pytest.raises(NotScheduledError, match="no time zone"):
        due_ms_of(NOW.replace(tzinfo=None), NOW_MS, 1)
    with pytest.raises(NotScheduledError, match="more than 1 hours ahead"):
        due_ms_of(NOW + timedelta(hours=1, milliseconds=1), NOW_MS, 1)
    with pytest.raises(NotScheduledError, match=r"set Kafka\.ScheduleMaxH"):
        due_ms_of(NOW + timedelta(seconds=1), NOW_MS, 0)


def test_what_has_passed_needs_no_setting() -> None:
    """Such an event is published at once."""
    assert due_ms_of(NOW, NOW_MS, 0) == NOW_MS
