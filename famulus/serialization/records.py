"""What travels beside the bytes of an event: its id, its type, where it came from.

Written as CloudEvents 1.0 Kafka headers in binary mode (`ce_id`, `ce_type`, `ce_source`, `ce_time`,
`content-type`), with two extensions that tell a story: `ce_causationid` is the id of the event
because of which this one was published, `ce_correlationid` that of the first event of the chain.
Structured mode is read as well, see `cloudevents`. Records without any of it are read too: their id
is their place in the log, their type comes from the subscription. Pure: no Kafka, no event loop, no
clock (time is an argument).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha1
from typing import Literal, NamedTuple, Protocol
from uuid import UUID

from famulus.errors import DecodeError
from famulus.serialization.cloudevents import envelope_in, is_structured

# A stranger's may have no value, None: whoever reads one says `value or b""`.
Headers = Sequence[tuple[str, bytes]]
Outcome = Literal["handled", "duplicate", "dead_lettered", "ignored"]  # how a record ended
# Of the ids that are derived: another one would change them all.
NAMESPACE = UUID("50ac5b66-615e-4227-b4eb-f4a479eb611a")
_namespace = sha1(NAMESPACE.bytes, usedforsecurity=False)
_variant = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
TRACE = ("traceparent", "tracestate", "baggage")  # W3C Trace Context and Baggage


class ConsumerRecord(Protocol):
    """One record as it was read from Kafka; aiokafka's ConsumerRecord has this shape."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@dataclass(slots=True)
class RecordCopy:
    """A record that we made of one that was read: with what it stood for, or as it was before it came here."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


# Not frozen: there is one for every event, and that takes four times as long.
@dataclass(slots=True)
class ProducerRecord:
    """A record that is ready to leave.

    *partition* None lets the key decide, *timestamp_ms* None means now.

    *fallback* leaves in its place when it is too large. *size* is remembered when somebody has
    worked it out, 0 until then; nothing else of one is ever changed.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None
    timestamp_ms: int | None = None
    fallback: "ProducerRecord | None" = None
    # Of a record batch of its own, not compressed.
    size: int = field(default=0, init=False, compare=False)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One arrival of an event: where it stood in the log, and which attempt this is (1 is the first).

    *attributes* has the CloudEvents attributes as headers, in whichever mode they came.
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
        """The same for every attempt at this event: hand it to an outside service that removes duplicates."""
        return self.event_id

    @property
    def correlation_id(self) -> str:
        """What all events of one chain have in common: the id of its first event, this one's if it is the first."""
        return (
            _text(self.attributes, "ce_correlationid")
            or _text(self.attributes, "ce_id")
            or self.event_id
        )

    @property
    def causation_id(self) -> str | None:
        """The id of the event because of which this one was published, None when it does not say."""
        return _text(self.attributes, "ce_causationid")


def delivery_of(record: ConsumerRecord, event_id: str, attempt: int) -> Delivery:
    """The delivery of *record* for the handler that asks for one."""
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
    """What makes this event the same event when it comes again: `ce_source` and `ce_id`, else its place in the log.

    Two records with equal values and no id are two events: both may be meant.
    """
    return event_id_bytes_of(record).decode()


def event_id_bytes_of(record: ConsumerRecord) -> bytes:
    """The same as bytes, without a way through text where there is no need: this is asked of every event."""
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
    except DecodeError:  # decoding says so, too
        return place_of(record).encode()
    return f"{envelope.source}#{envelope.id}".encode()


def _readable(raw: bytes) -> bytes:
    return raw.decode("utf-8", "backslashreplace").encode()


def place_of(record: ConsumerRecord) -> str:
    """Where *record* stands in the log, TOPIC/PARTITION/OFFSET: which one it is, when it has no id."""
    return f"{record.topic}/{record.partition}/{record.offset}"


def attributes_of(record: ConsumerRecord) -> Headers:
    """The attributes of the event in *record* as binary mode has them: its headers, or what its envelope says."""
    for name, _ in record.headers:
        if name == "ce_id":  # structured mode may have them as well: copies
            return record.headers
    if is_structured(record):
        try:
            return envelope_in(record).headers()
        except DecodeError:
            return record.headers
    return record.headers


class Lineage(NamedTuple):
    """What an event hands on to those that are published because of it.

    *story* is who they come from, *trace* the trace context that its sender gave it, as it is.
    """

    story: Headers
    trace: list[tuple[str, bytes]]


def cause_of(record: ConsumerRecord) -> Lineage:
    """What the event in *record* hands on. Its id, where it has none, is its place in the log."""
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
    """The type that the sender wrote into `ce_type`, or None.

    It is a name to look up, never a class to load.
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


def headers_of(  # what a CloudEvent has
    *,
    event_id: str,
    event_type: str,
    source: str,
    time: str,
    subject: str = "",
    story: Headers = (),
) -> list[tuple[str, bytes]]:
    """The headers of an event that leaves (CloudEvents 1.0, Kafka protocol binding, binary mode).

    *time* is in ISO 8601, *subject* what the event is about, *story* what its `Cause` hands on.
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
    """*headers* and what the user gave, which takes the place of ours of the same name.

    A trace context is one thing: the state of ours does not go with a parent that the user gave.
    """
    if not own:
        return headers
    given = {name for name, _ in own}
    if "traceparent" in given:
        given.add("tracestate")
    return [*(header for header in headers if header[0] not in given), *own]


def derived_id(cause_id: str, handler: str, position: int) -> str:
    """The id of the *position*-th event that *handler* publishes because of *cause_id*.

    The same cause gives the same id, so that an event published twice is recognised as one by
    whoever reads it. It is a UUID of version 5 (RFC 9562), by name in our namespace.
    """
    digest = _namespace.copy()
    digest.update(f"{cause_id}|{handler}|{position}".encode())
    text = digest.hexdigest()
    # What `uuid.uuid5` makes of it, which takes five times as long.
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{_variant[text[16]]}{text[17:20]}-{text[20:32]}"
