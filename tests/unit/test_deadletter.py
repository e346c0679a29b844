"""The dead letter: original bytes, the mission's headers in its own encoding, nothing of the payload in the error."""

import struct
from datetime import UTC, datetime
from types import SimpleNamespace

from app.deadletter.record import dead_letter, origin_of
from app.errors import PermanentError

AT = datetime(2026, 11, 23, 20, 15, 59, 123456, tzinfo=UTC)
RECORD = SimpleNamespace(
    topic="order-events", partition=7, offset=2**40, timestamp=1234, key=b"\xff", value=None, headers=[("ce_id", b"1")]
)


def test_key_value_and_headers_are_unchanged() -> None:
    """Null stays null, bytes stay bytes, the record's time and partition are kept."""
    letter = dead_letter(RECORD, PermanentError("no"), AT)
    assert (letter.topic, letter.key, letter.value) == ("order-events.dead-letter", b"\xff", None)
    assert (letter.partition, letter.timestamp_ms) == (7, 1234)
    assert ("ce_id", b"1") in letter.headers


def test_the_four_headers_have_the_missions_encoding() -> None:
    """Text, int32 and int64 little-endian, .NET's round-trip time with seven fraction digits and Z."""
    headers = dict(dead_letter(RECORD, PermanentError("no"), AT).headers)
    assert headers["original-topic"] == b"order-events"
    assert headers["original-partition"] == struct.pack("<i", 7)
    assert headers["original-offset"] == struct.pack("<q", 2**40)
    assert headers["error-timestamp"] == b"2026-11-23T20:15:59.1234560Z"
    assert origin_of(list(headers.items())) == ("order-events", 7, 2**40)


def test_a_second_failure_replaces_the_headers() -> None:
    """Headers do not grow however often an event fails."""
    first = dead_letter(RECORD, PermanentError("no"), AT)
    again = SimpleNamespace(**{**vars(RECORD), "headers": first.headers})
    assert len(dead_letter(again, PermanentError("no"), AT).headers) == len(first.headers)


def test_a_long_message_is_cut() -> None:
    """An error text takes 256 bytes at most and stays valid UTF-8."""
    headers = dict(dead_letter(RECORD, PermanentError("ü" * 1000), AT).headers)
    assert len(headers["error-message"]) <= 256
    headers["error-message"].decode()
