"""The dead letter: the original key, value and headers byte for byte, and behind them why it is here.

Three families of headers, with names of their own each: the mission's four in its own encoding
(int32 and int64 little-endian, .NET's round-trip time), `__streams.errors.*` of Kafka Streams
(KIP-1034) as text, and ours as text. They are read by name, never by length. A payload never
appears in an error text, see `masking`.
"""

import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from types import TracebackType

from famulus.deadletter.failure_kind import FailureKind
from famulus.deadletter.masking import masked, truncate
from famulus.errors import DecodeError
from famulus.formatting import text_of
from famulus.serialization.claim_check import MARK as CLAIM_MARK
from famulus.serialization.records import ConsumerRecord, Headers, ProducerRecord, event_id_of
from famulus.serialization.stray_records import INT64_MAX, number_in

FIRST = "original-topic"  # of our headers: everything before it is the sender's
KEY_BYTES_MAX = 64 * 1024  # of a key that stays in a letter of which little is left
MARK = "famulus-"  # what the names of our own begin with
# Of the source, by KIP-78 and KIP-516: a topic made anew has other offsets.
SOURCE_IDS = "cluster-id", "topic-id"
DROPPED = MARK + "headers-dropped"  # how many of the sender's there were
# Of the event: the letter's own time is when it was written, by which it is kept.
TIME = MARK + "timestamp"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an event failed for good.

    *attempts* and *first_ms* (since 1970) are those of *handler*, if it got so far.
    """

    kind: FailureKind
    error: BaseException
    at_ms: int
    handler: str = ""
    attempts: int = 0
    first_ms: int = 0
    hops: int = 0  # how often it was redriven
    edited: str = ""  # the SHA-256 of its value before somebody changed it
    is_partial: bool = False  # only its handler failed, the others are done with the event

    @property
    def place(self) -> str:
        """Where it went wrong: the JSON path of poison, else module and line of the handler."""
        if isinstance(self.error, DecodeError):
            return self.error.path
        return _place(self.error.__traceback__, self.handler)


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Where the dead letters of one subscription go, and what they say of this worker.

    *partitions* is what the topic has: a letter keeps the number of its partition where that exists
    there, else its key decides.
    """

    topic: str
    partitions: int
    group: str
    version: str
    # Of cluster and source, "" where none is known.
    source_ids: Callable[[], tuple[str, str]] = lambda: ("", "")

    def letter(self, record: ConsumerRecord, failure: Failure) -> ProducerRecord:
        """The dead letter for *record*, which failed for good.

        Its time is when it is written, not that of the event.

        Its fallback, for what is too large, has no value, but its digest: it can be fetched from
        where it came from. What is too large even then has no headers of the sender's, and no large
        key: only our few are left, so nothing that somebody sends can keep its partition from going
        on.
        """
        sent, why = sender_headers(record.headers), self._why(record, failure)
        partition = record.partition if record.partition < self.partitions else None
        noted: Headers = ()
        if record.value is not None:
            noted = [
                (MARK + "value-sha256", sha256(record.value).hexdigest().encode()),
                (MARK + "value-bytes", b"%d" % len(record.value)),
            ]
        key = record.key if len(record.key or b"") <= KEY_BYTES_MAX else None
        bare = [*why, *noted, (DROPPED, b"%d" % len(sent))]
        last = ProducerRecord(self.topic, key, None, bare, partition)
        slim = ProducerRecord(
            self.topic, record.key, None, [*sent, *why, *noted], partition, fallback=last
        )
        fallback = last if record.value is None else slim
        return ProducerRecord(
            self.topic, record.key, record.value, [*sent, *why], partition, fallback=fallback
        )

    def _why(self, record: ConsumerRecord, failure: Failure) -> Headers:
        error = type(failure.error)
        message = message_of(record, failure)
        return [
            *origin_headers(record.topic, record.partition, record.offset),
            ("error-timestamp", iso7(failure.at_ms)),
            (
                "__streams.errors.exception",
                truncate(f"{error.__module__}.{error.__qualname__}").encode(),
            ),
            ("__streams.errors.message", message.encode()),
            ("__streams.errors.stacktrace", truncate(failure.place).encode()),
            ("__streams.errors.topic", record.topic.encode()),
            ("__streams.errors.partition", b"%d" % record.partition),
            ("__streams.errors.offset", b"%d" % record.offset),
            *(
                (MARK + name, of.encode())
                for name, of in zip(SOURCE_IDS, self.source_ids(), strict=True)
                if of
            ),
            (MARK + "failure", failure.kind.encode()),
            (MARK + "group", truncate(self.group).encode()),
            (MARK + "handler", truncate(failure.handler).encode()),
            (MARK + "attempts", b"%d" % failure.attempts),
            (MARK + "first-failure", iso7(failure.first_ms or failure.at_ms)),
            (MARK + "event-id", truncate(event_id_of(record)).encode()),
            (MARK + "hops", b"%d" % failure.hops),
            (TIME, b"%d" % record.timestamp),
            (MARK + "version", truncate(self.version).encode()),
            *([(MARK + "edited", failure.edited.encode())] if failure.edited else []),
            *([(MARK + "scope", b"handler")] if failure.is_partial else []),
        ]


def message_of(record: ConsumerRecord, failure: Failure) -> str:
    """What is wrong, without a word of the payload."""
    # The text of poison cannot be masked: its values cannot be told from the words around them.
    if not failure.kind.may_quote:
        return truncate(text_of(failure.error))
    return masked(text_of(failure.error), record)


def origin_headers(topic: str, partition: int, offset: int) -> Headers:
    """Where a record came from, in the mission's encoding. They are the first ones of ours."""
    return [
        (FIRST, topic.encode()),
        ("original-partition", struct.pack("<i", partition)),
        ("original-offset", struct.pack("<q", offset)),
    ]


def origin_of(headers: Headers) -> tuple[str, int, int]:
    """Topic, partition and offset that a dead letter came from.

    Raises KeyError when a header is missing, ValueError or struct.error when one does not say what
    it should.
    """
    named = {name: value or b"" for name, value in headers}
    partition: int = struct.unpack("<i", named["original-partition"])[0]
    offset: int = struct.unpack("<q", named["original-offset"])[0]
    if partition < 0 or offset < 0:
        raise ValueError("no place in a log")
    return named[FIRST].decode(), partition, offset


def event_ms_of(letter: ConsumerRecord) -> int:
    """Return the time of the event in *letter*, milliseconds since 1970.

    Letters of earlier commits do not say it: they were written with the event's time as their own.
    """
    with suppress(ValueError):
        return number_in(our_headers(letter.headers).get(TIME) or b"", -INT64_MAX)
    return letter.timestamp


def sender_headers(headers: Headers) -> Headers:
    """The headers that the record had before we added ours, if we did."""
    return headers[: _begin(headers)]


def our_headers(headers: Headers) -> Mapping[str, bytes]:
    """The headers that we added, none if this record did not pass through our hands."""
    return {name: value or b"" for name, value in headers[_begin(headers) :]}


def _begin(headers: Headers) -> int:
    """Where ours begin.

    A sender may have headers of the same names; only with our mark behind them they are ours.
    """
    if not any(name.startswith(MARK) and not name.startswith(CLAIM_MARK) for name, _ in headers):
        return len(headers)
    return max((at for at, (name, _) in enumerate(headers) if name == FIRST), default=len(headers))


def iso7(at_ms: int) -> bytes:
    """A time as .NET's round-trip format has it: seven fraction digits and Z."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06d}0Z".encode()


def _place(traceback: TracebackType | None, handler: str) -> str:
    """Module and line of the innermost step in the module of *handler*, else of the innermost step of all."""
    inside = innermost = ""
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", "?"))
        innermost = f"{module}:{traceback.tb_lineno}"
        if handler.startswith(f"{module}."):
            inside = innermost
        traceback = traceback.tb_next
    return inside or innermost
