"""The envelope: what makes an event the same event, and what its headers look like."""

from dataclasses import dataclass
from datetime import UTC, datetime

from app.wire.envelope import Headers, delivery_of, derived_id, event_id_of, event_type_of, headers_of


@dataclass
class FakeRecord:
    """A record as it comes from Kafka."""

    topic: str = "order-events"
    partition: int = 3
    offset: int = 42
    timestamp: int = 1_700_000_000_000
    key: bytes | None = b"k"
    value: bytes | None = b"{}"
    headers: Headers = ()


def test_identity_is_source_and_id() -> None:
    """Two sources may use the same id for two events."""
    one = FakeRecord(headers=[("ce_source", b"shop"), ("ce_id", b"1")])
    other = FakeRecord(headers=[("ce_source", b"web"), ("ce_id", b"1")])
    assert event_id_of(one) == event_id_of(FakeRecord(offset=99, headers=one.headers))
    assert event_id_of(one) != event_id_of(other)


def test_without_an_id_the_place_in_the_log_is_the_identity() -> None:
    """Two equal records without an id are two events: both may be meant."""
    assert event_id_of(FakeRecord()) != event_id_of(FakeRecord(offset=43))


def test_headers_are_cloudevents_binary_mode() -> None:
    """What leaves carries the required CloudEvents attributes and is read back by name."""
    headers = headers_of(
        event_id="1", event_type="orders.OrderCreated", source="shop", time=datetime(2026, 1, 2, tzinfo=UTC)
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
    """A header from a stranger never raises."""
    record = FakeRecord(headers=[("ce_id", b"\xff\x00"), ("ce_type", b"\xfe")])
    assert "\\xff" in event_id_of(record)
    assert event_type_of(record.headers) == "\\xfe"


def test_derived_ids_are_stable_and_distinct() -> None:
    """The same cause, handler and position give the same id, and no other does."""
    assert derived_id("a", "h", 0) == derived_id("a", "h", 0)
    assert (
        len({derived_id("a", "h", 0), derived_id("a", "h", 1), derived_id("a", "g", 0), derived_id("b", "h", 0)}) == 4
    )


def test_the_idempotency_key_is_stable_across_attempts() -> None:
    """An outside service sees one key however often a handler runs."""
    record = FakeRecord()
    first, second = (delivery_of(record, "id", attempt) for attempt in (1, 2))
    assert first.idempotency_key == second.idempotency_key
    assert (first.topic, first.partition, first.offset, second.attempt) == ("order-events", 3, 42, 2)
