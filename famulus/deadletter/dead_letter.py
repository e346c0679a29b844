"""Dead letters as read from their topic, and the audit records about them.

A dead letter has its event's origin and the cause of the failure. Audit records say what was done
about a dead letter. Their topic stands beside that of the dead letters and is read first: a
dead letter that was redriven or dropped is settled. An interrupted redrive or drop can therefore be
resumed, because a dead letter with an audit record is not sent again.
"""

import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from hashlib import blake2b, sha256
from typing import Literal, NamedTuple

import msgspec

from famulus.deadletter.record import MARK, event_ms_of, origin_of, our_headers
from famulus.deadletter.redelivery import COUNT_MAX, Redelivery
from famulus.errors import DecodeError
from famulus.serialization.records import ConsumerRecord, ProducerRecord
from famulus.serialization.stray_records import INT64_MAX, number_in

CAUSE_BYTES = 4  # size of the digest that identifies a cause
_number = re.compile(r"[0-9]{1,18}")  # a partition or an offset; 18 digits fit in 64 bits
_index = re.compile(r"\[\d+\]")  # in a JSON path: all elements of a list are one cause


class Origin(NamedTuple):
    """Position at which an event was handled for the first time."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def of(cls, text: str) -> "Origin":
        """Return the origin written as TOPIC/PARTITION/OFFSET in *text*.

        Raises ValueError when it has another form.
        """
        topic, partition, offset = [*text.rsplit("/", 2), "", ""][:3]
        if not (topic and _number.fullmatch(partition) and _number.fullmatch(offset)):
            raise ValueError(f"{text[:300]!r} is not TOPIC/PARTITION/OFFSET")
        return cls(topic, int(partition), int(offset))


@dataclass(frozen=True)
class Cause:
    """Properties that all dead letters of one cause share.

    *place* is that of the fault: a JSON path in the value, or a line of code.
    """

    kind: str
    handler: str
    error: str
    place: str

    @cached_property
    def id(self) -> str:
        """Return a short digest, which is the same on every machine."""
        text = f"{self.kind}\0{self.handler}\0{self.error}\0{self.place}"
        return blake2b(text.encode(), digest_size=CAUSE_BYTES).hexdigest()


class LetterId(NamedTuple):
    """Identity of a failure; copies of a dead letter in its topic have the same ID.

    *only* is the handler if no other handler is affected, else empty. *hops* is how often the event
    had been redriven when it failed.
    """

    origin: Origin
    only: str
    hops: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Contents of a dead letter.

    *digest* is the SHA-256 of the value if that was too large to be kept, else empty.
    *timestamp_ms* is the time of the event, *at_ms* that of the final failure and *first_ms* that
    of the first one, all since 1970.
    """

    id: LetterId
    group: str
    cause: Cause
    message: str
    at_ms: int
    first_ms: int
    attempts: int
    event_id: str
    version: str
    edited: str
    key: bytes | None
    timestamp_ms: int
    digest: str
    value_bytes: int
    source_id: str = ""  # id of the event's source topic, "" when unknown


def parse_dead_letter(record: ConsumerRecord) -> DeadLetter:
    """Return the contents of the dead letter in *record*.

    Raises DecodeError when it is not a dead letter that this package wrote.
    """
    ours = our_headers(record.headers)

    def text(name: str) -> str:
        return ours.get(name, b"").decode("utf-8", "backslashreplace")

    try:
        place = _index.sub("[]", text("__streams.errors.stacktrace"))
        origin = Origin(*origin_of(list(ours.items())))
        kind, hops = ours[MARK + "failure"].decode(), number_in(ours[MARK + "hops"], 0, COUNT_MAX)
        attempts = number_in(ours.get(MARK + "attempts") or b"0", 0, COUNT_MAX)
        size = ours.get(MARK + "value-bytes") or b"%d" % len(record.value or b"")
        handler = text(MARK + "handler")
        return DeadLetter(
            LetterId(origin, handler if MARK + "scope" in ours else "", hops),
            text(MARK + "group"),
            Cause(kind, handler, text("__streams.errors.exception"), place),
            text("__streams.errors.message"),
            _ms(text("error-timestamp")),
            _ms(text(MARK + "first-failure")),
            attempts,
            text(MARK + "event-id"),
            text(MARK + "version"),
            text(MARK + "edited"),
            record.key,
            event_ms_of(record),
            text(MARK + "value-sha256"),
            number_in(size),
            text(MARK + "topic-id"),
        )
    except (KeyError, ValueError, OverflowError, OSError, struct.error):  # some are of `_ms`
        raise DecodeError(
            "$", "not a dead letter of ours: its headers do not say what failed where"
        ) from None


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def first_digest(record: ConsumerRecord, letter: DeadLetter) -> str:
    """Return the SHA-256 of the event's value as it was before any edit.

    *record* is the record of the dead letter.
    """
    return letter.edited or letter.digest or sha256(record.value or b"").hexdigest()


# Audit records.

Done = Literal["redrive", "drop"]


class Audit(msgspec.Struct, frozen=True, omit_defaults=True):
    """Audit record: *who* redrove or dropped a dead letter at time *at*, and why (*note*).

    *who* is as the client stated it.
    """

    action: Done
    topic: str
    partition: int
    offset: int
    hops: int
    group: str
    failure: str
    handler: str
    who: str
    at: datetime
    edited: str | None = None
    note: str = ""
    only: str = ""

    @property
    def id(self) -> LetterId:
        """Return the identity of the dead letter."""
        return LetterId(Origin(self.topic, self.partition, self.offset), self.only, self.hops)

    @property
    def at_ms(self) -> int:
        """Return the time in milliseconds since 1970."""
        return round(self.at.timestamp() * 1000)


_audit = msgspec.json.Decoder(Audit)


def audit_of(letter: DeadLetter, sent: Redelivery, who: str, at_ms: int, note: str) -> Audit:
    """Return the audit record of a dead letter that is redriven or dropped as *sent*."""
    action: Done = "drop" if sent.action == "drop" else "redrive"
    return Audit(
        action,
        *letter.id.origin,
        letter.id.hops,
        letter.group,
        letter.cause.kind,
        letter.cause.handler,
        who,
        datetime.fromtimestamp(at_ms / 1000, UTC),
        sent.edited or None,
        note,
        letter.id.only,
    )


def audit_record(topic: str, audit: Audit) -> ProducerRecord:
    """Return the Kafka record of *audit*, whose key is the origin of the event."""
    return ProducerRecord(topic, str(audit.id.origin).encode(), msgspec.json.encode(audit))


def audit_in(record: ConsumerRecord) -> Audit:
    """Return the audit record in *record*.

    Raises ValueError, or what msgspec raises, when it is not a valid one.
    """
    audit = _audit.decode(record.value or b"")
    if (
        not 0
        <= min(audit.partition, audit.offset, audit.hops)
        <= max(audit.partition, audit.offset)
        <= INT64_MAX
    ):
        raise ValueError("its numbers are no place in a log")
    # All times have a time zone, so that they can be compared with each other.
    return msgspec.structs.replace(audit, at=audit.at.astimezone(UTC))
