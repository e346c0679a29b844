"""Properties of foreign records: any headers, keys and values give an event or poison.

A log has one line about such a record, and its dead letter has few bytes of added headers.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from famulus import Event
from famulus.deadletter.dead_letter import parse_dead_letter
from famulus.deadletter.failure_kind import FailureKind
from famulus.deadletter.masking import masked
from famulus.deadletter.record import DeadLetters, Failure, our_headers, sender_headers
from famulus.deadletter.redelivery import outgoing, parse_redelivery, returning
from famulus.errors import ClaimError, DecodeError, PermanentError
from famulus.observability.logs import as_line
from famulus.processing.failure_policy import words
from famulus.processing.handlers import EventTypes
from famulus.producer.reply_headers import ReplyRefusedError, reply_to
from famulus.serialization.claim_check import claim_of, is_claim_check
from famulus.serialization.records import (
    attributes_of,
    cause_of,
    delivery_of,
    event_id_of,
    event_type_of,
)
from famulus.state.dedupe import redelivery_key

OUR_HEADERS_BYTES = 4096
AT_MS = 1_795_464_959_123


class Thing(Event, namespace="hostile.Thing", topic="things", key="key"):
    """An event."""

    key: str


class Other(Event, namespace="hostile.Other", topic="things", key="key"):
    """An event of a second type."""

    key: str


LETTERS = DeadLetters("things.dead-letter", 8, "g" * 249, "v" * 64)
TYPES = EventTypes("things", [Thing, Other])
KNOWN = (
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_specversion",
    "ce_correlationid",
    "ce_causationid",
    "ce_time",
    "content-type",
    "ce_replytopic",
    "ce_replypartition",
    "traceparent",
    "tracestate",
    "original-topic",
    "original-partition",
    "original-offset",
    "error-timestamp",
    "famulus-failure",
    "famulus-hops",
    "famulus-action",
    "famulus-timestamp",
    "famulus-scope",
    "famulus-handler",
    "famulus-event-id",
    "famulus-stage",
    "famulus-due",
    "famulus-attempts",
    "famulus-first-failure",
    "famulus-value-bytes",
    "famulus-claim-reference",
    "famulus-claim-size",
    "famulus-claim-sha256",
    "__streams.errors.message",
    "Faust-Ag-ReplyTo",
)
TEXTS = st.sampled_from(
    [
        b"",
        b"hostile.Thing",
        b"1",
        b"-1",
        b"1e9",
        b"\0\0\0\0",
        b"\0" * 8,
        b"redrive",
        b"application/cloudevents+json",
        b"application/cloudevents+json; charset=\xff",
        b"2026-11-23T20:15:59.1230000Z",
        b"\x1b[2J\r\nERROR forged",
        "\u202egnp.exe\u2028".encode(),
        b"9" * 40,
        b"g.replies",
        b"\xff\xfe",
    ]
)
header_values = st.none() | TEXTS | st.binary(max_size=60) | st.just(b"x" * 5000)
names = st.sampled_from(KNOWN) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
all_headers = st.lists(st.tuples(names, header_values), max_size=12)
keys = st.none() | st.binary(max_size=60) | TEXTS
values = (
    st.none()
    | st.binary(max_size=80)
    | st.sampled_from(
        [
            b'{"key":"k"}',
            b'{"specversion":"1.0","id":"1","source":"s","type":"hostile.Thing","data":{"key":"k"}}',
            b'{"specversion":1,"id":null}',
            b'"famulus-claim"',
            b'{"key":"k","__faust":{"ns":"hostile.Thing"}}',
            b'{"key":1,"__faust":{"ns":["@ReqRepRequest"]}}',
            b"[" * 5000,
            b"null",
            b'{"key":"k","__faust":{"ns":"\xff"}}',
            b'{"key":"k","q":' + b"[" * 5000 + b"]" * 5000 + b',"__faust":{"ns":"hostile.Thing"}}',
        ]
    )
)


def record(
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]],
    offset: int = 1,
) -> Any:
    """Return a record as it arrives from Kafka, where a header may be null."""
    return SimpleNamespace(
        topic="things",
        partition=0,
        offset=offset,
        timestamp=AT_MS,
        key=key,
        value=value,
        headers=tuple(headers),
    )


def refusal(kind: type[Exception], call: Callable[..., object], *arguments: object) -> str:
    """Return the text of the error of *kind* that *call* raises, or an empty text."""
    try:
        call(*arguments)
    except kind as error:
        return str(error)
    return ""


def read(out: Any) -> Any:
    """Return an outgoing record as it is read again."""
    return record(out.key, out.value, out.headers)


@given(key=keys, value=values, headers=all_headers)
def test_a_record_is_an_event_or_poison(
    key: bytes | None, value: bytes | None, headers: Any
) -> None:
    of = record(key, value, headers)
    assert "\n" not in refusal(DecodeError, TYPES.decode, of)
    identity = event_id_of(of)
    assert identity
    event_type_of(of.headers)
    attributes_of(of)
    cause_of(of)
    delivery = delivery_of(of, identity, 1)
    assert delivery.correlation_id
    delivery.causation_id  # noqa: B018  # it must not raise
    if is_claim_check(of):
        assert refusal(ClaimError, claim_of, of, 2**20).isprintable()
    assert refusal(ReplyRefusedError, reply_to, of.headers, "*.replies").isprintable()


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("value", [None, b"", b"\xff"])
def test_a_known_header_may_have_no_value(name: str, value: bytes | None) -> None:
    """Kafka allows null headers, and random headers have each of these names too rarely."""
    test_a_record_is_an_event_or_poison.hypothesis.inner_test(b"k", b'{"key":"k"}', [(name, value)])  # type: ignore[attr-defined]
    letter: Any = test_what_only_looks_like_a_letter_is_refused_in_words
    letter.hypothesis.inner_test(b"k", b"", [(name, value)])


@given(key=keys, value=values, headers=all_headers, text=st.text(max_size=1000))
def test_its_letter_is_whole_and_ours_is_small(
    key: bytes | None, value: bytes | None, headers: Any, text: str
) -> None:
    """The headers of the sender stay unchanged.

    The headers of the worker have at most 4 KB and are read back with the same meaning.
    """
    of = record(key, value, headers)
    failure = Failure(FailureKind.PERMANENT, PermanentError(text), AT_MS, "h" * 500, 3, AT_MS)
    letter = LETTERS.letter(of, failure)
    assert (letter.key, letter.value) == (key, value)
    before = sender_headers(of.headers)
    assert list(letter.headers[: len(before)]) == list(before)
    ours = letter.headers[len(before) :]
    assert sum(len(name.encode()) + len(said) for name, said in ours) <= OUR_HEADERS_BYTES
    assert parse_dead_letter(read(letter)).id.origin == ("things", 0, 1)
    back = parse_redelivery(
        read(outgoing("things.g.redrive", returning(read(letter), "redrive", value)))
    )
    assert (back.key, back.value, list(back.headers)) == (key, value, list(before))
    redelivery_key(back, None)
    assert our_headers(letter.headers)["famulus-hops"] == b"0"


@given(key=keys, value=values, headers=all_headers)
def test_what_only_looks_like_a_letter_is_refused_in_words(
    key: bytes | None, value: bytes | None, headers: Any
) -> None:
    """Any client may write to a dead letter topic or a redrive topic."""
    for look in (parse_dead_letter, parse_redelivery):
        assert refusal(DecodeError, look, record(key, value, headers)).isprintable()


@given(key=keys, value=values, headers=all_headers, text=st.text(max_size=300))
def test_what_is_logged_of_it_is_one_line(
    key: bytes | None, value: bytes | None, headers: Any, text: str
) -> None:
    of = record(key, value, headers)
    line = as_line(
        None,
        "warning",
        {
            "event": "dead letter",
            "record": words(of),
            "event_id": event_id_of(of),
            "reason": masked(text, of),
        },
    )
    assert line.isprintable()
