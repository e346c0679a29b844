"""Records and their headers: an event's id, type and origin.

Headers are written as CloudEvents 1.0 in Kafka's binary mode (`ce_id`, `ce_type`, `ce_source`,
`ce_time`, `content-type`), with two extensions for the lineage. `ce_causationid` is the id of the
event that caused this one, `ce_correlationid` that of the first event of the chain. Structured mode
is read as well, see `cloudevents`. Records without any of these headers are read, too: the id is
then made from topic, partition and offset, and the type comes from the subscription. Pure: no
Kafka, no event loop, no clock (time is an argument).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha1
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

from famulus.errors import DecodeError
from famulus.serialization.cloudevents import envelope_in, is_structured

# A header of another producer may have the value None, so readers use `value or b""`.
Headers = Sequence[tuple[str, bytes]]
Outcome = Literal["handled", "duplicate", "dead_lettered", "ignored"]  # how a record ended
# Namespace of derived ids; a change of it changes all of them.
NAMESPACE = UUID("50ac5b66-615e-4227-b4eb-f4a479eb611a")
_namespace = sha1(NAMESPACE.bytes, usedforsecurity=False)
_variant = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
TRACE = ("traceparent", "tracestate", "baggage")  # W3C Trace Context and Baggage


class ConsumerRecord(Protocol):
    """A record as it was read from Kafka; aiokafka's ConsumerRecord has this shape."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(slots=True)
class RecordCopy:
    """A changed copy of a record that was read.

    Either a claim check with its payload, or a redelivery as it was before it came to this topic.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


# Not frozen: one is made for every event, and a frozen class takes four times as long.
@dataclass(slots=True)
class ProducerRecord:
    """A record that is ready to be sent.

    *partition* None lets the partitioner choose by key, *timestamp_ms* None means now. *fallback*
    leaves in its place when it is too large. *size* is in bytes, 0 until it was computed. No other
    field is ever changed.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None
    timestamp_ms: int | None = None
    fallback: "ProducerRecord | None" = None
    # Bytes of a record batch with this record alone, not compressed.
    size: int = field(default=0, init=False, compare=False)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery of an event: its position in the log and the number of the attempt.

    The first attempt is 1. *attributes* has the CloudEvents attributes as headers, whether they
    came in binary or structured mode.
    """

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    headers: Headers
    event_id: str
    attempt: int
    attributes: Headers = ()

    @property
    def idempotency_key(self) -> str:
        """Return an id that stays the same for every attempt at this event.

        An outside service that removes duplicates can use it.
        """
        return self.event_id

    @property
    def correlation_id(self) -> str:
        """Return the id of the first event of the chain.

        For the first event itself, this is its own id.
        """
        return (
            _text(self.attributes, "ce_correlationid")
            or _text(self.attributes, "ce_id")
            or self.event_id
        )

    @property
    def causation_id(self) -> str | None:
        """Return the id of the event that caused this one, None when it is not given."""
        return _text(self.attributes, "ce_causationid")


def delivery_of(record: ConsumerRecord, event_id: str, attempt: int) -> Delivery:
    """Return the delivery of *record*, for handlers that ask for one."""
    return Delivery(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.headers,
        event_id,
        attempt,
        attributes_of(record),
    )


def event_id_of(record: ConsumerRecord) -> str:
    """Return the id that identifies an event when it is read again.

    The id is made from `ce_source` and `ce_id`, or from topic, partition and offset where there is
    no `ce_id`. Two records with equal values and no id are therefore two events, as both may be
    intended.
    """
    return event_id_bytes_of(record).decode()


def event_id_bytes_of(record: ConsumerRecord) -> bytes:
    """Return the id of `event_id_of` as bytes.

    This is called for every event, so it avoids decoding text where possible.
    """
    source = identifier = b""
    for name, value in record.headers:
        if name == "ce_id":
            identifier = value
        elif name == "ce_source":
            source = value or b""
    if identifier:
        if not (identifier.isascii() and source.isascii()):
            source, identifier = _readable(source), _readable(identifier)
        return source + b"#" + identifier
    if not record.headers or not is_structured(record):
        return place_of(record).encode()
    try:
        envelope = envelope_in(record)
    except DecodeError:  # decoding the event raises the same error
        return place_of(record).encode()
    return f"{envelope.source}#{envelope.id}".encode()


def _readable(raw: bytes) -> bytes:
    return raw.decode("utf-8", "backslashreplace").encode()


def place_of(record: ConsumerRecord) -> str:
    """Return the position of *record* in the log as TOPIC/PARTITION/OFFSET.

    The position identifies a record that has no id.
    """
    return f"{record.topic}/{record.partition}/{record.offset}"


def attributes_of(record: ConsumerRecord) -> Headers:
    """Return the CloudEvents attributes of *record* as headers of binary mode.

    These are its own headers, or those made from its envelope.
    """
    for name, _ in record.headers:
        if name == "ce_id":  # in structured mode headers may repeat the attributes
            return record.headers
    if is_structured(record):
        try:
            return envelope_in(record).headers()
        except DecodeError:
            return record.headers
    return record.headers


class Lineage(NamedTuple):
    """Headers that an event passes on to the events that it causes.

    *story* has the correlation and causation ids, *trace* the trace context of its sender,
    unchanged.
    """

    story: Headers
    trace: list[tuple[str, bytes]]


def cause_of(record: ConsumerRecord) -> Lineage:
    """Return the lineage that the event in *record* passes on.

    Topic, partition and offset stand for the id of an event that has none.
    """
    named = dict(record.headers)
    if not named.get("ce_id"):
        named.update(attributes_of(record))
    identifier = named.get("ce_id") or place_of(record).encode()
    return Lineage(
        [
            ("ce_correlationid", named.get("ce_correlationid") or identifier),
            ("ce_causationid", identifier),
        ],
        [(name, named[name]) for name in TRACE if named.get(name)],
    )


def event_type_of(headers: Headers) -> str | None:
    """Return the sender's `ce_type`, or None.

    The value is a name to look up, never a class to load.
    """
    for name, value in headers:
        if name == "ce_type":
            return (value or b"").decode("utf-8", "backslashreplace")
    return None


def _text(headers: Headers, wanted: str) -> str | None:
    for name, value in headers:
        if name == wanted:
            return (value or b"").decode("utf-8", "backslashreplace")
    return None


def headers_of(
    *,
    event_id: str,
    event_type: str,
    source: str,
    time: str,
    subject: str = "",
    story: Headers = (),
) -> list[tuple[str, bytes]]:
    """Return the headers of an event to publish.

    The format is CloudEvents 1.0, Kafka protocol binding, binary mode. *time* is in ISO 8601.
    *subject* is the text of the event's key. *story* has the headers of its cause's `Lineage`.
    """
    kind, origin = _kind_and_origin(event_type, source)
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        kind,
        origin,
        ("ce_time", time.encode()),
        ("content-type", b"application/json"),
        *story,
    ]
    if subject:
        headers.append(("ce_subject", subject.encode()))
    return headers


@lru_cache(maxsize=1_000)
def _kind_and_origin(event_type: str, source: str) -> Headers:
    return ("ce_type", event_type.encode()), ("ce_source", source.encode())


def with_own(headers: list[tuple[str, bytes]], own: Headers) -> list[tuple[str, bytes]]:
    """Return *headers* with those in *own*, which replace others of the same name.

    A trace context counts as a whole: with a `traceparent` in *own*, the `tracestate` of *headers*
    is dropped, too.
    """
    if not own:
        return headers
    given = {name for name, _ in own}
    if "traceparent" in given:
        given.add("tracestate")
    return [*(header for header in headers if header[0] not in given), *own]


def derived_id(cause_id: str, handler: str, position: int) -> str:
    """Return the id of the event number *position* that *handler* publishes for *cause_id*.

    The id depends on these three alone, so readers recognise an event that is published twice. The
    id is a UUID of version 5 (RFC 9562) in NAMESPACE.
    """
    digest = _namespace.copy()
    digest.update(f"{cause_id}|{handler}|{position}".encode())
    text = digest.hexdigest()
    # The same text as from `uuid.uuid5`, which takes five times as long.
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{_variant[text[16]]}{text[17:20]}-{text[20:32]}"
