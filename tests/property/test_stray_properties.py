"""Properties of the decoders of the group's own topics: any bytes give one error without quotes.

A module that decodes records of such a topic has a line in DECODERS. A module in ELSEWHERE names
the reason for which it needs none.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from famulus import Event
from famulus.control.control_state import ControlState
from famulus.deadletter.dead_letter import audit_in, audit_of, audit_record, parse_dead_letter
from famulus.deadletter.failure_kind import FailureKind
from famulus.deadletter.record import DeadLetters, Failure
from famulus.deadletter.redelivery import outgoing, parse_redelivery, returning
from famulus.errors import ClaimError, DecodeError, PermanentError
from famulus.inspection.changelog_reader import Fold
from famulus.producer.reply_headers import ReplyRefusedError, ReplyTo, reply_to
from famulus.producer.reply_reader import answered
from famulus.producer.request_reply import reply_in
from famulus.producer.scheduling import Scheduled, scheduled
from famulus.serialization.claim_check import REFERENCE, SHA256, SIZE, claim_of, is_claim_check
from famulus.serialization.json_codec import codec_of
from famulus.serialization.records import ProducerRecord, RecordCopy
from famulus.serialization.stray_records import StrayRecordError, read
from famulus.state.changelog import (
    CLAIM,
    PROCESSED,
    RESET,
    WHOLE,
    OwnershipClaim,
    SourcePosition,
    encode,
    epoch_bytes,
    epoch_of,
    fault_in,
    offset_key,
    offsets_in,
    pack_key,
    period_of,
    row_key,
    table_and_key,
    unpack,
)
from famulus.state.failure_state import FailureState, attempts_row
from famulus.state.identity import ChangelogPartition, note_of
from famulus.state.replica import Replica
from tests.support.in_memory.stored import MemoryStore

ROOT = Path(__file__).resolve().parents[2]
SECRET = "4929-1234"  # part of the junk: an error that quotes its input contains it
AT_MS = 1_700_000_000_000
HOME = ChangelogPartition("cluster", "s", "id", 0)


class Answer(Event, namespace="test.Answer", topic="t", key="name"):
    """An event that may be a reply."""

    name: str


# The decoders, called as their modules do; their results are used as in the worker, the commands
# or the console.


def _replayed(record: RecordCopy) -> None:
    store = MemoryStore({})
    store.open()
    replica = Replica(HOME, "t", store)  # type: ignore[arg-type]
    replica.replay([record, record], record.offset)  # type: ignore[list-item]
    json.dumps(replica.unreadable)
    if (processed := replica.store.get(PROCESSED)) is not None:
        offsets_in(msgspec.json.decode(processed, type=SourcePosition))
    for key, _ in [*replica.store.items(b"p")]:
        period_of(key)
    FailureState([*replica.store.items(b"a"), *replica.store.items(b"d")])


def _folded(record: RecordCopy) -> None:
    fold = Fold()
    fold.add(record)  # type: ignore[arg-type]
    fold.add(record)  # type: ignore[arg-type]
    offsets_in(fold.decoded)
    for key in fold.rows:
        table_and_key(key)
    for key in fold.packs:
        period_of(key)
    FailureState(fold.failure_state.items())


def _checked(record: RecordCopy) -> None:
    if (
        not fault_in(record.key, record.value, epoch_of(record.headers))
        and (record.key or b"")[:1] == b"p"
    ):
        list(unpack(record.value or b""))


def _control_state(record: RecordCopy) -> None:
    control_state = ControlState()
    control_state.take(record.key, record.value)
    msgspec.json.encode(
        [
            control_state.words(),
            control_state.pauses.rows(),
            control_state.seeks.rows(),
            control_state.concurrency_overrides.rows(),
        ]
    )


def _came_back(record: RecordCopy) -> None:
    back = parse_redelivery(record, record.timestamp + 60_000)
    assert back.due_ms <= record.timestamp + 60_000
    outgoing("t", back)
    LETTERS.letter(
        back,
        Failure(
            FailureKind.PERMANENT,
            PermanentError("no"),
            AT_MS,
            "h.work",
            back.attempts,
            back.first_ms,
        ),
    )


def _letter(record: RecordCopy) -> None:
    letter = parse_dead_letter(record)
    back = returning(record, "redrive", b"")
    audit_record("t", audit_of(letter, back, "me", AT_MS, ""))
    outgoing("t", back)


def _audit(record: RecordCopy) -> None:
    audit = audit_in(record)
    json.dumps([str(audit.id), audit.at_ms])


def _scheduled(record: RecordCopy) -> None:
    waits = scheduled(record, AT_MS)
    assert waits.until_ms <= AT_MS + 86_400_000
    waits.to_wait("t", AT_MS)


def _request(record: RecordCopy) -> None:
    try:
        reply_to(record.headers, "*")
    except ReplyRefusedError as error:
        raise DecodeError("$", str(error)) from None


def _claim_check(record: RecordCopy) -> None:
    if is_claim_check(record):
        claim_of(record, 1_000)


DECODERS: dict[str, Callable[[RecordCopy], object]] = {
    "famulus.state.changelog": _checked,
    "famulus.state.replica": _replayed,
    "famulus.state.identity": lambda record: note_of(
        (record.value or b"").decode("utf-8", "replace")
    ),
    "famulus.inspection.changelog_reader": _folded,
    "famulus.control.control_state": _control_state,
    "famulus.deadletter.redelivery": _came_back,
    "famulus.deadletter.dead_letter": _letter,
    "famulus.deadletter.dead_letter (audit)": _audit,
    "famulus.producer.scheduling": _scheduled,
    "famulus.producer.reply_reader": answered,
    "famulus.producer.request_reply": lambda record: reply_in(record, Answer),
    "famulus.producer.reply_headers": _request,
    "famulus.serialization.claim_check": _claim_check,
}
# Modules that decode bytes of other topics, or that one of the decoders above calls.
ELSEWHERE = {
    "famulus.serialization.json_codec": "events",
    "famulus.serialization.cloudevents": "events",
    "famulus.serialization.redaction": "what is shown of events",
    "famulus.processing.handlers": "events",
    "famulus.state.row_codec": "values of tables",
    "famulus.state.tables": "keys of tables",
    "famulus.state.failure_state": "what changelog.fault_in has looked at",
    "famulus.formatting": "what is shown",
    "famulus.state.checkpointer": "what changelog.fault_in has looked at",
    "famulus.control.pauses": "of told",
    "famulus.control.seeks": "of told",
    "famulus.control.concurrency": "of told",
    "famulus.control.hold_ups": "of told",
    "famulus.deadletter.record": "of letter and returned",
    "famulus.cli.publish": "a file",
    "famulus.cli.state.json_lines": "a file",
    "famulus.web.json_view": "a request of the web",
    "famulus.dev.node": "a broker's answer",
}
NAMING = {
    "famulus.producer.request_reply",
    "famulus.producer.reply_headers",
}  # name the type or the topic, which the requester chose
DECODES = re.compile(r"json\.decode\(|json\.Decoder\(|\.unpack\(|iter_unpack\(|origin_of\(")


def test_every_module_that_decodes_is_known() -> None:
    """A new module needs a line, so that the records below are tried on it too."""
    found = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "famulus").rglob("*.py")
        if DECODES.search(path.read_text("utf-8"))
    }
    assert found <= {name.partition(" ")[0] for name in DECODERS} | ELSEWHERE.keys()


# Records: those of the group with changes, and arbitrary ones.

LETTERS = DeadLetters("t.dead-letter", 4, "g", "v1")
EVENT = RecordCopy("t", 0, 5, AT_MS, b"k", b'{"name": "a"}', [("ce_id", b"1")])
FAILURE = Failure(FailureKind.PERMANENT, PermanentError("no"), AT_MS, "h.work", 3, AT_MS)
LETTER = LETTERS.letter(EVENT, FAILURE)


def as_read(record: ProducerRecord) -> RecordCopy:
    """Return *record* as it is read."""
    return RecordCopy(
        record.topic,
        record.partition or 0,
        7,
        AT_MS,
        record.key,
        record.value,
        list(record.headers),
    )


BACK = returning(as_read(LETTER), "redrive", b"{}")
AUDIT = audit_record("t", audit_of(parse_dead_letter(as_read(LETTER)), BACK, "me", AT_MS, "note"))
WAITS = Scheduled(ProducerRecord("orders", b"k", b"{}", [("ce_id", b"1")]), AT_MS + 5_000).to_wait(
    "g.scheduled", AT_MS
)
EPOCH = [("epoch", epoch_bytes(3))]
REPLY = [
    ("ce_type", b"test.Answer"),
    ("ce_correlationid", b"1"),
    *ReplyTo("g.replies", 0).headers(),
]
CLAIM_CHECK = [(REFERENCE, b"t/" + b"a" * 64), (SIZE, b"5"), (SHA256, b"a" * 64)]
MARKS = b"m" + bytes(16) + bytes(16)
OURS = [
    as_read(LETTER),
    as_read(outgoing("t.g.redrive", BACK)),
    as_read(AUDIT),
    as_read(WAITS),
    RecordCopy("s", 0, 7, AT_MS, row_key("count", b"k"), b"1", EPOCH),
    RecordCopy("s", 0, 7, AT_MS, pack_key(0, 3, 1), MARKS, EPOCH),
    RecordCopy("s", 0, 7, AT_MS, PROCESSED, encode(SourcePosition(5, (1, 2))), EPOCH),
    RecordCopy(
        "s",
        0,
        7,
        AT_MS,
        PROCESSED,
        encode(SourcePosition(5, home=HOME, source_id="id", leader_epoch=3)),
        EPOCH,
    ),
    RecordCopy("s", 0, 7, AT_MS, WHOLE, b"5", EPOCH),
    RecordCopy("s", 0, 7, AT_MS, CLAIM, encode(OwnershipClaim(3, "me", "host:1")), EPOCH),
    RecordCopy("s", 0, 7, AT_MS, RESET, b"", EPOCH),
    RecordCopy("s", 0, 7, AT_MS, *attempts_row(5, {}), EPOCH),
    RecordCopy("s", 0, 7, AT_MS, offset_key(b"d", 5), b"k", EPOCH),
    RecordCopy("g.admin", 0, 7, AT_MS, b"things/0", b'{"by": "me", "at": "now"}', []),
    RecordCopy(
        "g.admin", 0, 7, AT_MS, b"seek:things/0/1", b'{"offset": 5, "by": "me", "at": "now"}', []
    ),
    RecordCopy(
        "g.admin", 0, 7, AT_MS, b"concurrency:*", b'{"concurrency": 5, "by": "me", "at": "now"}', []
    ),
    RecordCopy("g.replies", 0, 7, AT_MS, b"k", codec_of(Answer).encode(Answer(name="a")), REPLY),
    RecordCopy("t", 0, 7, AT_MS, b"k", b'"famulus-claim"', CLAIM_CHECK),
]
# Valid but for an epoch that cannot exist.
NEARLY = [
    RecordCopy("s", 0, 7, AT_MS, PROCESSED, encode(SourcePosition(5, leader_epoch=2**40)), EPOCH)
]
DEEP = b"[" * 100_000
UNKNOWN_DEEP = b'{"by":"me","at":"now","x":' + DEEP
NUMBERS = [
    b"9" * 400,
    b"1" + b"0" * 18,
    b"-1",
    b"1_000",
    b" 5",
    "\u0665".encode(),
    b"9" * 5_000,
    b"1e400",
    b"NaN",
    b"",
]
JUNK = [
    None,
    b"",
    b"\0",
    b"\xff\xfe" * 50,
    DEEP,
    UNKNOWN_DEEP,
    b'{"a":' * 5_000,
    b"null",
    b"[]",
    b'"\\ud800"',
    *NUMBERS,
    SECRET.encode(),
    b'{"partition": ' + b"9" * 400 + b"}",
    b"\0claim",
    b"\0processed",
    b"\0position",
    b"t",
    b"p",
    b"d",
    epoch_bytes(3),
    epoch_bytes(-1),
    epoch_bytes(2**62),
    b"abc",
    MARKS[:-1],
    b"\0processed" + bytes(23),
    b"*",
    b"seek:",
    b"things/" + b"9" * 400,
    b"things/\xb2",
    "concurrency:\u202e".encode(),
]
anything = st.one_of(st.sampled_from(JUNK), st.binary(max_size=40), st.none())
times = st.sampled_from([AT_MS, 0, -1, 2**63 - 1, -(2**63)])


@st.composite
def records(draw: st.DrawFn) -> RecordCopy:
    """Draw a record of the group with one or more changes, or only junk."""
    ours = draw(st.sampled_from(OURS + NEARLY))
    key, value, headers = ours.key, ours.value, cast(Any, list(ours.headers))
    for what in draw(
        st.sets(st.sampled_from(["key", "value", "headers", "part", "all"]), min_size=1, max_size=2)
    ):
        if what == "key":
            key = draw(anything)
        elif what == "value":
            value = draw(anything)
        elif what == "part" and value:
            number = draw(st.sampled_from(NUMBERS))
            value = re.sub(rb"\d+", number, value, count=draw(st.integers(0, 3)))
        elif what == "headers" and headers:
            at = draw(st.integers(0, len(headers) - 1))
            headers[at] = (headers[at][0], draw(anything))
        elif what == "all":
            headers = draw(
                st.lists(
                    st.tuples(st.sampled_from([name for name, _ in headers] or ["x"]), anything)
                )
            )
    return RecordCopy(
        draw(st.sampled_from([ours.topic, "t"])),
        draw(st.sampled_from([0, 77])),
        draw(st.sampled_from([7, 2**62])),
        draw(times),
        key,
        value,
        headers,
    )


def refused(record: RecordCopy, decode: Callable[[RecordCopy], object]) -> StrayRecordError | None:
    """Return the error with which *decode* refuses *record*, or None.

    Any other error fails the test.
    """
    try:
        read(record, decode)
    except StrayRecordError as error:
        return error
    return None


def tried(record: RecordCopy) -> None:
    """Try every decoder on *record*."""
    for name, decode in DECODERS.items():
        if (error := refused(record, decode)) is not None:
            assert (error.topic, error.partition, error.offset) == (
                record.topic,
                record.partition,
                record.offset,
            )
            assert "it cannot be read" not in error.reason, f"{name}: {error.reason}"
            assert SECRET not in str(error) or name in NAMING, name
            assert len(str(error)) < 500, name


# Any: a header may have no value.
def changed(ours: RecordCopy, junk: Any) -> Iterator[RecordCopy]:
    """Yield copies of *ours* with *junk* in each of its parts in turn."""
    yield replace(ours, key=junk)
    yield replace(ours, value=junk)
    for at, (name, _) in enumerate(ours.headers):
        yield replace(ours, headers=[*ours.headers[:at], (name, junk), *ours.headers[at + 1 :]])


@given(records())
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_in_a_record_it_ends_there(record: RecordCopy) -> None:
    """No decoder raises another error or quotes the record."""
    tried(record)


@pytest.mark.parametrize("value", JUNK, ids=lambda junk: repr(junk)[:20])
def test_junk_in_each_part_of_each_record(value: Any) -> None:
    for ours in OURS + NEARLY:
        for record in changed(ours, value):
            tried(record)


def test_what_is_ours_is_read() -> None:
    """Otherwise, the changed records would test nothing."""
    for name in (
        "famulus.deadletter.dead_letter",
        "famulus.deadletter.redelivery",
        "famulus.deadletter.dead_letter (audit)",
        "famulus.producer.scheduling",
        "famulus.control.control_state",
        "famulus.producer.request_reply",
    ):
        assert any(refused(ours, DECODERS[name]) is None for ours in OURS), name
    for ours in OURS:
        if ours.topic == "s":
            assert fault_in(ours.key, ours.value, 3) == ""
    assert all(fault_in(record.key, record.value, 3) for record in NEARLY)


def test_the_error_of_a_claim_check_is_ours() -> None:
    """The error names the fault and quotes nothing of the record."""
    record = replace(OURS[-1], topic="other")
    with pytest.raises(StrayRecordError, match="below the record's topic"):
        read(record, _claim_check)
    assert issubclass(ClaimError, DecodeError)


@example(b"9" * 400)
@given(st.binary(max_size=30))
@settings(deadline=None)
def test_an_epoch_is_one_or_nobodys(value: bytes) -> None:
    """A header of another length, or a number beyond all claims, counts as no epoch."""
    assert 0 <= epoch_of([("epoch", value)]) <= 2**40
