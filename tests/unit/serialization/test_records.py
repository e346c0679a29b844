"""Tests of the envelope: identity and headers of an event."""

from dataclasses import dataclass
from uuid import uuid5

from famulus.serialization.records import (
    NAMESPACE,
    Headers,
    cause_of,
    delivery_of,
    derived_id,
    event_id_of,
    event_type_of,
    headers_of,
    with_own,
)


@dataclass
class FakeRecord:
    """A record as it arrives from Kafka."""

    topic: str = "order-events"
    partition: int = 3
    offset: int = 42
    timestamp: int = 1_700_000_000_000
    key: bytes | None = b"k"
    value: bytes | None = b"{}"
    headers: Headers = ()


def test_identity_is_source_and_id() -> None:
    """Two sources may use the same id for different events."""
    one = FakeRecord(headers=[("ce_source", b"shop"), ("ce_id", b"1")])
    other = FakeRecord(headers=[("ce_source", b"web"), ("ce_id", b"1")])
    assert event_id_of(one) == event_id_of(FakeRecord(offset=99, headers=one.headers))
    assert event_id_of(one) != event_id_of(other)


def test_without_an_id_the_place_in_the_log_is_the_identity() -> None:
    """Two equal records without an id may both be intended, so they are two events."""
    assert event_id_of(FakeRecord()) != event_id_of(FakeRecord(offset=43))


def test_headers_are_cloudevents_binary_mode() -> None:
    """The headers have all required attributes of CloudEvents."""
    headers = headers_of(
        event_id="1",
        event_type="orders.OrderCreated",
        source="shop",
        time="2026-01-02T00:00:00+00:00",
    )
    assert dict(headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"1",
        "ce_type": b"orders.OrderCreated",
        "ce_source": b"shop",
        "ce_time": b"2026-01-02T00:00:00+00:00",
        "content-type": b"application/json",
    }
    assert event_type_of(headers) == "orders.OrderCreated"
    assert event_type_of([]) is None


def test_bytes_that_are_no_text_still_make_an_identity() -> None:
    """A foreign header never raises."""
    record = FakeRecord(headers=[("ce_id", b"\xff\x00"), ("ce_type", b"\xfe")])
    assert "\\xff" in event_id_of(record)
    assert event_type_of(record.headers) == "\\xfe"


def test_derived_ids_are_stable_and_distinct() -> None:
    """The id depends on cause, handler and position."""
    assert derived_id("a", "h", 0) == derived_id("a", "h", 0)
    assert (
        len(
            {
                derived_id("a", "h", 0),
                derived_id("a", "h", 1),
                derived_id("a", "g", 0),
                derived_id("b", "h", 0),
            }
        )
        == 4
    )


def test_the_idempotency_key_is_stable_across_attempts() -> None:
    """An external service gets one key at every attempt of a handler."""
    record = FakeRecord()
    first, second = (delivery_of(record, "id", attempt) for attempt in (1, 2))
    assert first.idempotency_key == second.idempotency_key
    assert (first.topic, first.partition, first.offset, second.attempt) == (
        "order-events",
        3,
        42,
        2,
    )


def test_derived_ids_are_uuids_of_version_5() -> None:
    """Other programs can compute them: the namespace never changes."""
    assert str(NAMESPACE) == "50ac5b66-615e-4227-b4eb-f4a479eb611a"
    for position in range(50):
        assert derived_id("shop#1", "agents.h", position) == str(
            uuid5(NAMESPACE, f"shop#1|agents.h|{position}")
        )


def test_a_chain_of_events_has_the_id_of_its_first_one() -> None:
    """Each event also names the one before it."""
    first = FakeRecord(headers=[("ce_id", b"1"), ("ce_source", b"shop")])
    second = FakeRecord(headers=[("ce_id", b"2"), *cause_of(first).story])
    assert dict(cause_of(second).story) == {"ce_correlationid": b"1", "ce_causationid": b"2"}
    deliveries = [delivery_of(record, "id", 1) for record in (first, second)]
    assert [(d.correlation_id, d.causation_id) for d in deliveries] == [("1", None), ("1", "1")]


def test_a_cause_without_an_id_is_named_by_its_place() -> None:
    """The coordinates are its identity everywhere else too."""
    assert dict(cause_of(FakeRecord()).story)["ce_causationid"] == b"order-events/3/42"
    assert (
        delivery_of(FakeRecord(), event_id_of(FakeRecord()), 1).correlation_id
        == "order-events/3/42"
    )


def test_a_trace_context_is_handed_on_as_it_is() -> None:
    """No other headers are passed on."""
    trace = [("traceparent", b"00-1"), ("tracestate", b"a=b"), ("baggage", b"\xff")]
    assert cause_of(FakeRecord(headers=[("mine", b"1"), *reversed(trace)])).trace == trace
    assert cause_of(FakeRecord()).trace == []


def test_what_the_user_gives_takes_the_place_of_ours() -> None:
    """A header occurs once, and a trace state belongs to its parent."""
    ours = [("ce_id", b"1"), ("traceparent", b"2"), ("tracestate", b"3"), ("baggage", b"4")]
    assert with_own(ours, []) == ours
    assert with_own(ours, [("ce_id", b"5")]) == [*ours[1:], ("ce_id", b"5")]
    assert with_own(ours, [("traceparent", b"6")]) == [
        ("ce_id", b"1"),
        ("baggage", b"4"),
        ("traceparent", b"6"),
    ]
