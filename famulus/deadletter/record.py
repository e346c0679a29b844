"""Format of a dead letter: the original key, value and headers unchanged, then the cause.

Three families of headers are appended. The origin (`original-*`) and the failure time are binary:
int32 and int64 little-endian, .NET's round-trip time. The headers `__streams.errors.*` are those of
Kafka Streams (KIP-1034), as text. The headers of this package are text. Headers are identified by
name, never by length. A payload never appears in an error text, see `masking`.
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

FIRST = "original-topic"  # this package's first header; all headers before it are the sender's
KEY_BYTES_MAX = 64 * 1024  # size of a key that stays in the second fallback
MARK = "famulus-"  # prefix of this package's own headers
# Ids of the source (KIP-78 and KIP-516): a recreated topic of the same name has other offsets.
SOURCE_IDS = "cluster-id", "topic-id"
DROPPED = MARK + "headers-dropped"  # number of the sender's headers that were left out
# Time of the event. The record's timestamp is when it was written, since retention goes by that.
TIME = MARK + "timestamp"


@dataclass(frozen=True, slots=True)
class Failure:
    """Reason why an event failed for good.

    *attempts* and *first_ms* (since 1970) are those of *handler*, 0 if no handler was reached.
    """

    kind: FailureKind
    error: BaseException
    at_ms: int
    handler: str = ""
    attempts: int = 0
    first_ms: int = 0
    hops: int = 0  # how often it was redriven
    edited: str = ""  # the SHA-256 of its value before it was edited
    is_partial: bool = False  # only this handler failed, the others have handled the event

    @property
    def place(self) -> str:
        """Return where it failed: the JSON path of poison, else module and line of the handler."""
        if isinstance(self.error, DecodeError):
            return self.error.path
        return _place(self.error.__traceback__, self.handler)


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Writer of the dead letters of one subscription: their topic, and facts of this worker.

    *partitions* is the number of partitions of the topic. A dead letter keeps its partition number
    where the topic has it; otherwise the key decides.
    """

    topic: str
    partitions: int
    group: str
    version: str
    # Ids of the cluster and the source topic, "" for an unknown one.
    source_ids: Callable[[], tuple[str, str]] = lambda: ("", "")

    def letter(self, record: ConsumerRecord, failure: Failure) -> ProducerRecord:
        """Return the dead letter for *record*, which failed for good.

        Its timestamp is the time of writing, not that of the event.

        The first fallback, for a record that is too large, has the digest of the value in place of
        the value: the value can be fetched from the source topic. The second fallback has no
        headers of the sender and no large key, only the few headers of this package. Therefore no
        record can be so large that it blocks its partition.
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
    """Return the error text of *failure*, without any value of the payload."""
    # The text of poison quotes no value and is not masked: masking would also remove words of the
    # text that happen to equal a value.
    if not failure.kind.may_quote:
        return truncate(text_of(failure.error))
    return masked(text_of(failure.error), record)


def origin_headers(topic: str, partition: int, offset: int) -> Headers:
    """Return the headers of a record's origin, which precede all others of this package.

    Partition and offset are int32 and int64, little-endian.
    """
    return [
        (FIRST, topic.encode()),
        ("original-partition", struct.pack("<i", partition)),
        ("original-offset", struct.pack("<q", offset)),
    ]


def origin_of(headers: Headers) -> tuple[str, int, int]:
    """Return topic, partition and offset that a dead letter came from.

    Raises KeyError when a header is missing, and ValueError or struct.error when one is not valid.
    """
    named = {name: value or b"" for name, value in headers}
    partition: int = struct.unpack("<i", named["original-partition"])[0]
    offset: int = struct.unpack("<q", named["original-offset"])[0]
    if partition < 0 or offset < 0:
        raise ValueError("no place in a log")
    return named[FIRST].decode(), partition, offset


def event_ms_of(letter: ConsumerRecord) -> int:
    """Return the time of the event of a dead letter, milliseconds since 1970.

    Dead letters of older versions have no header for it: the event's time is their own timestamp.
    """
    with suppress(ValueError):
        return number_in(our_headers(letter.headers).get(TIME) or b"", -INT64_MAX)
    return letter.timestamp


def sender_headers(headers: Headers) -> Headers:
    """Return the headers of the sender, without any that this package added."""
    return headers[: _begin(headers)]


def our_headers(headers: Headers) -> Mapping[str, bytes]:
    """Return the headers that this package added, none for a record that it did not write."""
    return {name: value or b"" for name, value in headers[_begin(headers) :]}


def _begin(headers: Headers) -> int:
    """Return the index at which this package's headers begin.

    A sender may use headers of the same names: they count only with a `famulus-` header in the
    record.
    """
    if not any(name.startswith(MARK) and not name.startswith(CLAIM_MARK) for name, _ in headers):
        return len(headers)
    return max((at for at, (name, _) in enumerate(headers) if name == FIRST), default=len(headers))


def iso7(at_ms: int) -> bytes:
    """Return a time in .NET's round-trip format: seven fraction digits and Z."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06d}0Z".encode()


def _place(traceback: TracebackType | None, handler: str) -> str:
    """Return module and line of the innermost frame in the module of *handler*.

    Without such a frame, it is the innermost frame of all.
    """
    inside = innermost = ""
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", "?"))
        innermost = f"{module}:{traceback.tb_lineno}"
        if handler.startswith(f"{module}."):
            inside = innermost
        traceback = traceback.tb_next
    return inside or innermost
