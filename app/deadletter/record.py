"""The dead letter: the original key and value byte for byte, the original headers, and why it is here.

The mission's four headers are written in its own encoding, and read by name, never by length. Messages are cut, and
carry types and names only: a payload never appears in an error text.
"""

import struct
from datetime import datetime

from app.wire.envelope import Headers, Outgoing, Record

SUFFIX = ".dead-letter"
ERROR_BYTES_MAX = 256  # of an error text; headers stay small so that a dead letter fits where its original did
OURS = ("original-topic", "original-partition", "original-offset", "error-timestamp", "error-class", "error-message")


def dead_letter_topic(topic: str) -> str:
    """Where the dead letters of *topic* go."""
    return topic + SUFFIX


def dead_letter(record: Record, error: Exception, at: datetime) -> Outgoing:
    """The dead letter for *record*, which failed for good with *error* at the time *at* (UTC)."""
    return Outgoing(
        dead_letter_topic(record.topic),
        record.key,
        record.value,
        [*(h for h in record.headers if h[0] not in OURS), *failure_headers(record, error, at)],
        partition=record.partition,
        timestamp_ms=record.timestamp,
    )


def failure_headers(record: Record, error: Exception, at: datetime) -> Headers:
    """Where the record came from and what went wrong: int32 and int64 little-endian, .NET's round-trip time format."""
    message = str(error).encode("utf-8", "backslashreplace")[:ERROR_BYTES_MAX]
    return [
        ("original-topic", record.topic.encode()),
        ("original-partition", struct.pack("<i", record.partition)),
        ("original-offset", struct.pack("<q", record.offset)),
        ("error-timestamp", f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond:06d}0Z".encode()),
        ("error-class", type(error).__qualname__.encode()),
        ("error-message", message.decode("utf-8", "ignore").encode()),
    ]


def origin_of(headers: Headers) -> tuple[str, int, int]:
    """Topic, partition and offset that a dead letter came from. Raises KeyError when a header is missing."""
    named = dict(headers)
    partition: int = struct.unpack("<i", named["original-partition"])[0]
    offset: int = struct.unpack("<q", named["original-offset"])[0]
    return named["original-topic"].decode(), partition, offset
