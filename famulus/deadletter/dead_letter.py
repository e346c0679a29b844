"""A dead letter as it is read: where its event comes from, why it failed, what else failed like that, what was done.

What was done about letters is written into a topic beside theirs, and read again before they are: a
letter that was sent back, or dropped, is done with. That also makes both resumable: what was
written down is not sent again.
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

CAUSE_BYTES = 4  # of the digest that names a cause
_number = re.compile(r"[0-9]{1,18}")  # a partition or an offset: such an offset has 64 bits
_index = re.compile(r"\[\d+\]")  # in a JSON path: which element of a list is no other cause


class Origin(NamedTuple):
    """Where an event stood when it was handled for the first time."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def of(cls, text: str) -> "Origin":
        """The origin that is written as TOPIC/PARTITION/OFFSET.

        Raises ValueError when it is none.
        """
        topic, partition, offset = [*text.rsplit("/", 2), "", ""][:3]
        if not (topic and _number.fullmatch(partition) and _number.fullmatch(offset)):
            raise ValueError(f"{text[:300]!r} is not TOPIC/PARTITION/OFFSET")
        return cls(topic, int(partition), int(offset))


@dataclass(frozen=True)
class Cause:
    """What letters have in common that failed for one cause.

    *place*: of the fault, in the bytes or in the code.
    """

    kind: str
    handler: str
    error: str
    place: str

    @cached_property
    def id(self) -> str:
        """Its short name, the same wherever and whenever it is asked for."""
        text = f"{self.kind}\0{self.handler}\0{self.error}\0{self.place}"
        return blake2b(text.encode(), digest_size=CAUSE_BYTES).hexdigest()


class LetterId(NamedTuple):
    """Which failure of which event a letter tells of: a letter that stands twice in its topic has the same.

    *only* names the handler where no other is concerned; *hops* is how often the event had been
    sent back by then.
    """

    origin: Origin
    only: str
    hops: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What a dead letter says.

    *digest* is that of the value, if it was too large to be in the letter.

    *timestamp_ms* is that of the event, *at_ms* when it failed for good.
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
    source_id: str = ""  # of the topic that its event stood in, "" when a letter does not say


def parse_dead_letter(record: ConsumerRecord) -> DeadLetter:
    """What *record* says. Raises DecodeError when it is no dead letter of ours."""
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
    except (KeyError, ValueError, OverflowError, OSError, struct.error):  # of times, too
        raise DecodeError(
            "$", "not a dead letter of ours: its headers do not say what failed where"
        ) from None


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def first_digest(record: ConsumerRecord, letter: DeadLetter) -> str:
    """The SHA-256 of the value that the event of *letter*, which *record* is, had before anybody changed it."""
    return letter.edited or letter.digest or sha256(record.value or b"").hexdigest()


# What was done.

Done = Literal["redrive", "drop"]


class Audit(msgspec.Struct, frozen=True, omit_defaults=True):
    """That *who* sent a letter back, or dropped it, at *at*; by what it says itself, and why it was done (*note*)."""

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
        """Of which letter."""
        return LetterId(Origin(self.topic, self.partition, self.offset), self.only, self.hops)

    @property
    def at_ms(self) -> int:
        """When, in milliseconds since 1970."""
        return round(self.at.timestamp() * 1000)


_audit = msgspec.json.Decoder(Audit)


def audit_of(letter: DeadLetter, sent: Redelivery, who: str, at_ms: int, note: str) -> Audit:
    """That *letter* was sent back as *sent*."""
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
    """The record that keeps it, by its event's origin."""
    return ProducerRecord(topic, str(audit.id.origin).encode(), msgspec.json.encode(audit))


def audit_in(record: ConsumerRecord) -> Audit:
    """What such a record says.

    Raises ValueError, or what msgspec raises, for one that says nothing.
    """
    audit = _audit.decode(record.value or b"")
    if (
        not 0
        <= min(audit.partition, audit.offset, audit.hops)
        <= max(audit.partition, audit.offset)
        <= INT64_MAX
    ):
        raise ValueError("its numbers are no place in a log")
    # An hour of no time zone is none of ours.
    return msgspec.structs.replace(audit, at=audit.at.astimezone(UTC))
