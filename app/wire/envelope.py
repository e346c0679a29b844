"""What travels beside the bytes of an event: its id, its type, where it came from.

Written as CloudEvents 1.0 Kafka headers in binary mode (`ce_id`, `ce_type`, `ce_source`, `ce_time`, `content-type`).
Records without them are read too: their id is their place in the log, their type comes from the subscription.
Pure: no Kafka, no event loop, no clock (time is an argument).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from typing import Literal, Protocol

Headers = Sequence[tuple[str, bytes]]
Outcome = Literal["handled", "duplicate", "dead_lettered", "ignored"]  # how a record ended


class Record(Protocol):
    """One record as it was read from Kafka; aiokafka's ConsumerRecord has this shape."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record that is ready to leave. *partition* None lets the key decide, *timestamp_ms* None means now.

    *fallback* leaves in its place when it is too large.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None
    timestamp_ms: int | None = None
    fallback: "Outgoing | None" = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One arrival of an event: where it stood in the log, and which attempt this is (1 is the first)."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    headers: Headers
    event_id: str
    attempt: int

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this event: hand it to an outside service that removes duplicates."""
        return self.event_id


def delivery_of(record: Record, event_id: str, attempt: int) -> Delivery:
    """The delivery of *record* for the handler that asks for one."""
    return Delivery(
        record.topic, record.partition, record.offset, record.timestamp, record.key, record.headers, event_id, attempt
    )


def event_id_of(record: Record) -> str:
    """What makes this event the same event when it comes again: `ce_source` and `ce_id`, else its place in the log.

    Two records with equal values and no id are two events: both may be meant.
    """
    source = identifier = b""
    for name, value in record.headers:
        if name == "ce_id":
            identifier = value
        elif name == "ce_source":
            source = value
    if identifier:
        return f"{source.decode('utf-8', 'backslashreplace')}#{identifier.decode('utf-8', 'backslashreplace')}"
    return f"{record.topic}/{record.partition}/{record.offset}"


def event_type_of(headers: Headers) -> str | None:
    """The type that the sender wrote into `ce_type`, or None. It is a name to look up, never a class to load."""
    for name, value in headers:
        if name == "ce_type":
            return value.decode("utf-8", "backslashreplace")
    return None


def headers_of(*, event_id: str, event_type: str, source: str, time: datetime) -> list[tuple[str, bytes]]:
    """The headers of an event that leaves (CloudEvents 1.0, Kafka protocol binding, binary mode)."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_type", event_type.encode()),
        ("ce_source", source.encode()),
        ("ce_time", time.isoformat().encode()),
        ("content-type", b"application/json"),
    ]


def derived_id(cause_id: str, handler: str, position: int) -> str:
    """The id of the *position*-th event that *handler* publishes because of *cause_id*.

    The same cause gives the same id, so that an event published twice is recognised as one by whoever reads it.
    """
    return blake2b(f"{cause_id}|{handler}|{position}".encode(), digest_size=16).hexdigest()
