"""Tests of the dead letter record: original bytes, encoding of headers, no payload in errors."""

import struct
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famulus.deadletter.dead_letter import parse_dead_letter
from famulus.deadletter.failure_kind import FailureKind
from famulus.deadletter.masking import masked
from famulus.deadletter.record import (
    KEY_BYTES_MAX,
    DeadLetters,
    Failure,
    origin_of,
    our_headers,
    sender_headers,
)
from famulus.deadletter.redelivery import Redelivery, outgoing, parse_redelivery, returning
from famulus.deadletter.topics import (
    audit_topic,
    dead_letter_topic,
    redrive_topic,
    retry_number,
    retry_topic,
)
from famulus.errors import DecodeError, PermanentError, TransientError

AT_MS = 1_795_464_959_123
LETTERS = DeadLetters("order-events.dead-letter", 8, "billing", "1.4.2")
FAILURE = Failure(
    FailureKind.EXHAUSTED, TransientError("no"), AT_MS, "agents.orders.reserve", 3, AT_MS - 6_000
)
HEADERS_MAX = 4096


def record(**changes: Any) -> Any:
    """Return a record as it is read from Kafka."""
    return SimpleNamespace(
        **{
            "topic": "order-events",
            "partition": 7,
            "offset": 2**40,
            "timestamp": 1234,
            "key": b"\xff",
            "value": None,
            "headers": [("ce_id", b"1")],
            **changes,
        }
    )


def read(out: Any, offset: int = 0) -> Any:
    """Return an outgoing record as it is read again."""
    return record(
        topic=out.topic,
        partition=out.partition,
        offset=offset,
        key=out.key,
        value=out.value,
        headers=tuple(out.headers),
        timestamp=out.timestamp_ms if out.timestamp_ms is not None else 99,
    )


def test_names() -> None:
    """Topics of one group contain its name."""
    assert dead_letter_topic("orders") == "orders.dead-letter"
    assert dead_letter_topic("orders", "billing") == "orders.billing.dead-letter"
    assert audit_topic("orders.dead-letter") == "orders.dead-letter.audit"
    assert redrive_topic("orders", "billing") == "orders.billing.redrive"
    assert retry_topic("orders", "billing", 2) == "orders.billing.retry-2"


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("orders.billing.retry-1", 1),
        ("orders.billing.retry-12", 12),
        ("orders.billing.retry-0", 0),
        ("orders.billing.retry-01", 0),
        ("orders.billing.retry-", 0),
        ("orders.billing.retry-x", 0),
        ("orders.billing.retry-²", 0),
        ("orders.billing.redrive", 0),
        ("orders.other.retry-1", 0),
        ("orders", 0),
    ],
)
def test_retry_topic_is_known_by_its_name(name: str, number: int) -> None:
    """Retry topics to which the code no longer sends are recognised as well."""
    assert retry_number("orders", "billing", name) == number


def test_key_value_and_headers_are_unchanged() -> None:
    """Null stays null, and the dead letter keeps the partition of the record."""
    letter = LETTERS.letter(record(), FAILURE)
    assert (letter.topic, letter.key, letter.value, letter.partition) == (
        "order-events.dead-letter",
        b"\xff",
        None,
        7,
    )
    assert letter.headers[0] == ("ce_id", b"1")
    assert sender_headers(letter.headers) == [("ce_id", b"1")]


@pytest.mark.parametrize("at_ms", [-1, 1234, AT_MS + 40 * 86_400_000, AT_MS * 1_000_000])
@pytest.mark.parametrize("smaller", [0, 1, 2])
def test_letter_is_kept_from_its_writing_and_says_the_time_of_its_event(
    at_ms: int, smaller: int
) -> None:
    """A broker may refuse a timestamp in the future, and retention deletes an old one at once."""
    letter = LETTERS.letter(record(timestamp=at_ms, value=b"much"), FAILURE)
    for _ in range(smaller):
        assert letter.fallback is not None
        letter = letter.fallback
    assert letter.timestamp_ms is None  # set when it is written
    assert parse_dead_letter(read(letter)).timestamp_ms == at_ms
    back = parse_redelivery(read(outgoing("r", returning(read(letter), "redrive", b"much"))))
    assert back.timestamp == at_ms
    assert parse_dead_letter(read(LETTERS.letter(back, FAILURE))).timestamp_ms == at_ms


OLD = [
    ("ce_id", b"1"),
    ("original-topic", b"orders"),
    ("original-partition", b"\x01\x00\x00\x00"),
    ("original-offset", b"\x07\x00\x00\x00\x00\x00\x00\x00"),
    ("error-timestamp", b"2026-11-23T20:15:59.1230000Z"),
    ("__streams.errors.exception", b"famulus.errors.PermanentError"),
    ("__streams.errors.message", b"no"),
    ("__streams.errors.stacktrace", b""),
    ("__streams.errors.topic", b"orders"),
    ("__streams.errors.partition", b"1"),
    ("__streams.errors.offset", b"7"),
    ("famulus-failure", b"permanent"),
    ("famulus-group", b"billing"),
    ("famulus-handler", b"h.work"),
    ("famulus-attempts", b"1"),
    ("famulus-first-failure", b"2026-11-23T20:15:59.1230000Z"),
    ("famulus-event-id", b"#1"),
    ("famulus-hops", b"0"),
    ("famulus-version", b"1.0"),
]


@pytest.mark.parametrize(
    "said", [[], [("famulus-timestamp", b"")], [("famulus-timestamp", b"9" * 400)]]
)
def test_letter_of_an_earlier_commit_has_the_time_of_its_event_as_its_own(
    said: list[tuple[str, bytes]],
) -> None:
    """Earlier versions wrote no header with the time of the event.

    An invalid header has the same effect.
    """
    letter = record(
        topic="orders.dead-letter", timestamp=1_700_000_000_123, value=b"{}", headers=[*OLD, *said]
    )
    assert parse_dead_letter(letter).timestamp_ms == 1_700_000_000_123
    assert returning(letter, "redrive", b"{}") == Redelivery(
        "orders", 1, 7, 1_700_000_000_123, b"\xff", b"{}", [("ce_id", b"1")], "redrive", hops=1
    )


def test_a_partition_that_the_topic_does_not_have_is_left_to_the_key() -> None:
    """The dead letter topic may have fewer partitions."""
    assert LETTERS.letter(record(partition=8), FAILURE).partition is None


def test_the_four_headers_have_the_missions_encoding() -> None:
    """The encodings are text, little-endian int32 and int64, and a .NET round-trip time.

    Such a time has seven fraction digits and ends with Z.
    """
    headers = dict(LETTERS.letter(record(), FAILURE).headers)
    assert headers["original-topic"] == b"order-events"
    assert headers["original-partition"] == struct.pack("<i", 7)
    assert headers["original-offset"] == struct.pack("<q", 2**40)
    assert headers["error-timestamp"] == b"2026-11-23T20:15:59.1230000Z"
    assert origin_of(list(headers.items())) == ("order-events", 7, 2**40)


def test_the_other_families_are_text() -> None:
    """These are the headers of Kafka Streams and of Famulus."""
    headers = dict(LETTERS.letter(record(), FAILURE).headers)
    assert headers["__streams.errors.exception"] == b"famulus.errors.TransientError"
    assert headers["__streams.errors.message"] == b"no"
    assert (headers["__streams.errors.partition"], headers["__streams.errors.offset"]) == (
        b"7",
        b"1099511627776",
    )
    assert {
        name: headers[f"famulus-{name}"]
        for name in ("failure", "group", "handler", "attempts", "version")
    } == {
        "failure": b"exhausted",
        "group": b"billing",
        "handler": b"agents.orders.reserve",
        "attempts": b"3",
        "version": b"1.4.2",
    }
    assert headers["famulus-first-failure"] == b"2026-11-23T20:15:53.1230000Z"
    assert (headers["famulus-event-id"], headers["famulus-hops"]) == (b"#1", b"0")


def test_the_place_is_the_line_of_the_handler_or_the_path_in_the_value() -> None:
    """Causes are distinguished by this place."""
    try:
        raise PermanentError("no")  # raised for its traceback
    except PermanentError as error:
        failure = Failure(FailureKind.PERMANENT, error, AT_MS, f"{__name__}.handler")
        poison = Failure(FailureKind.POISON, DecodeError("$.items[0].price", "a number"), AT_MS)
    assert failure.place.startswith(f"{__name__}:")
    assert poison.place == "$.items[0].price"


@given(st.integers(1, 4), st.text(max_size=600), st.text(max_size=600))
def test_however_often_it_fails_the_headers_stay_as_few(
    times: int, text: str, handler: str
) -> None:
    """Headers of an earlier failure are replaced, and all take 4 KiB at most."""
    failure = Failure(FailureKind.EXHAUSTED, TransientError(text), AT_MS, handler, 3, AT_MS)
    again = record(headers=[("ce_id", b"x" * 300), ("mine", b"\0")])
    for _ in range(times):
        letter = LETTERS.letter(again, failure)
        again = read(letter)
    ours = letter.headers[2:]
    assert letter.headers[:2] == [("ce_id", b"x" * 300), ("mine", b"\0")]
    assert len({name for name, _ in ours}) == len(ours)
    assert sum(len(name) + len(value) for name, value in ours) <= HEADERS_MAX


def test_headers_of_the_same_names_that_a_sender_wrote_stay() -> None:
    """A dead letter topic of another system may be a source."""
    theirs = [("original-topic", b"theirs"), ("original-offset", b"12")]
    letter = LETTERS.letter(record(headers=theirs), FAILURE)
    assert sender_headers(letter.headers) == theirs
    assert origin_of(letter.headers) == ("order-events", 7, 2**40)


def test_what_is_too_large_leaves_its_digest() -> None:
    """An operator can verify the value with it and fetch the value from the source."""
    slim = LETTERS.letter(record(value=b"much"), FAILURE).fallback
    assert slim is not None
    headers = our_headers(slim.headers)
    assert (slim.key, slim.value, slim.partition) == (b"\xff", None, 7)
    assert headers["famulus-value-bytes"] == b"4"
    assert headers["famulus-value-sha256"][:8] == b"543b1c4b"


def test_a_letter_that_is_too_large_even_then_leaves_without_what_is_large() -> None:
    """Headers and keys are limited only by the size of the record.

    Such a record must not block its partition.
    """
    large = record(
        key=b"k" * (KEY_BYTES_MAX + 1), headers=[("h", b"x" * 1_000_000)] * 2, value=b"much"
    )
    letter = LETTERS.letter(large, FAILURE)
    slim = letter.fallback
    assert slim is not None
    assert (slim.key, list(slim.headers[:2])) == (large.key, large.headers)
    last = slim.fallback
    assert last is not None
    assert (last.key, last.value, last.partition, last.fallback) == (None, None, 7, None)
    assert sum(len(name) + len(value) for name, value in last.headers) < HEADERS_MAX
    headers = our_headers(last.headers)
    assert headers["famulus-headers-dropped"] == b"2"
    assert headers["famulus-value-sha256"] == our_headers(slim.headers)["famulus-value-sha256"]
    assert parse_dead_letter(read(last)).id == parse_dead_letter(read(letter)).id
    without_value = LETTERS.letter(record(headers=[("h", b"x")]), FAILURE).fallback
    assert without_value is not None
    assert (without_value.key, sender_headers(without_value.headers)) == (b"\xff", [])


def test_error_texts_quote_nothing_of_the_event() -> None:
    """The key is not quoted either, in any case and nesting.

    Short values identify no person and stay.
    """
    event = record(
        key=b"customer-7",
        value=b'{"name":"Ada Lovelace","born":1815,"tags":[{"a":"secret"}],"n":2}',
    )
    text = "no ADA LOVELACE born 1815 with secret of customer-7 in 2 rows\nof 'Ada Lovelace'"
    assert masked(text, event) == "no *** born *** with *** of *** in 2 rows of '***'"
    letter = LETTERS.letter(event, Failure(FailureKind.PERMANENT, PermanentError(text), AT_MS, "h"))
    assert not any(b"Lovelace" in value or b"LOVELACE" in value for _, value in letter.headers)


@given(st.binary(max_size=200), st.text(max_size=2000))
def test_masking_copes_with_everything(value: bytes, text: str) -> None:
    found = masked(text, record(value=value))
    assert len(found.encode()) <= 256
    assert "\n" not in found


def test_what_comes_back_is_what_it_was() -> None:
    original = record(key=b"k", value=b"\xff\0", headers=[("ce_id", b"1"), ("mine", b"\0")])
    letter = read(LETTERS.letter(original, FAILURE))
    back = parse_redelivery(
        read(outgoing("order-events.billing.redrive", returning(letter, "redrive", letter.value)))
    )
    assert back == Redelivery(
        "order-events",
        7,
        2**40,
        1234,
        b"k",
        b"\xff\0",
        (("ce_id", b"1"), ("mine", b"\0")),
        "redrive",
        hops=1,
    )
    twice = read(
        LETTERS.letter(
            back,
            Failure(
                FailureKind.PERMANENT, PermanentError("no"), AT_MS, "h", 1, AT_MS, hops=back.hops
            ),
        )
    )
    assert returning(twice, "drop", None).hops == 2
    assert len(twice.headers) == len(letter.headers)


def test_a_letter_of_one_handler_comes_back_to_it_alone() -> None:
    """The other handlers have finished with the event."""
    failure = Failure(
        FailureKind.EXHAUSTED,
        TransientError("no"),
        AT_MS,
        "agents.a",
        4,
        AT_MS,
        is_partial=True,
        edited="ab",
    )
    back = returning(read(LETTERS.letter(record(), failure)), "redrive", b"")
    assert (back.handler, back.edited) == ("agents.a", "ab")
    assert parse_redelivery(read(outgoing("t", back))).handler == "agents.a"


@pytest.mark.parametrize(
    "headers",
    [[], [("original-topic", b"t")], [("original-topic", b"t"), ("famulus-action", b"explode")]],
)
def test_a_record_that_is_none_of_ours_does_not_come_back(headers: list[tuple[str, bytes]]) -> None:
    """A foreign producer may write to the topic."""
    with pytest.raises(DecodeError, match="sent back"):
        parse_redelivery(record(headers=headers))
