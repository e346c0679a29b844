"""Records that come back to the group that they failed in: redriven, dropped, or waiting for another attempt.

They carry what the record was, with where it came from and what is to be done about it behind its
own headers, and the record's time in a header: the topics that they go through keep records by the
time of their writing.
"""

import math
import struct
from dataclasses import dataclass
from typing import Literal

from famulus.deadletter.record import (
    MARK,
    TIME,
    Failure,
    event_ms_of,
    origin_headers,
    origin_of,
    our_headers,
    sender_headers,
)
from famulus.errors import DecodeError
from famulus.serialization.records import ConsumerRecord, ProducerRecord, RecordCopy
from famulus.serialization.stray_records import INT32_MAX, INT64_MAX, number_in

Action = Literal["redrive", "drop", "retry"]
COUNT_MAX = INT32_MAX  # of attempts, of stages, of times that it was sent back
TIME_MAX_MS = 253_402_300_799_999  # the end of the year 9999
ACTIONS: dict[bytes, Action] = {b"redrive": "redrive", b"drop": "drop", b"retry": "retry"}


@dataclass(slots=True)
class Redelivery(RecordCopy):
    """The record as it was, with its origin as its place, so that it passes for it: it has the shape of one.

    *handler* is the only one that is to handle it, if it says one. When it waits for another
    attempt, *due_ms* (since 1970) is when, and *attempts* and *first_ms* count on. *hops* is how
    often it was redriven.
    """

    action: Action
    hops: int = 0
    handler: str = ""
    stage: int = 0  # the number of the retry topic
    due_ms: int = 0
    attempts: int = 0
    first_ms: int = 0
    edited: str = ""  # the SHA-256 of its value before somebody changed it


def outgoing(topic: str, returned: Redelivery) -> ProducerRecord:
    """The record by which *returned* goes to *topic*."""
    headers = [
        *returned.headers,
        *origin_headers(returned.topic, returned.partition, returned.offset),
        (MARK + "action", returned.action.encode()),
        (MARK + "hops", b"%d" % returned.hops),
        (TIME, b"%d" % returned.timestamp),
    ]
    if returned.edited:
        headers.append((MARK + "edited", returned.edited.encode()))
    if returned.handler:
        headers.append((MARK + "handler", returned.handler.encode()))
    if returned.action == "retry":
        headers += [
            (MARK + "stage", b"%d" % returned.stage),
            (MARK + "due", b"%d" % returned.due_ms),
            (MARK + "attempts", b"%d" % returned.attempts),
            (MARK + "first", b"%d" % returned.first_ms),
        ]
    return ProducerRecord(
        topic, returned.key, returned.value, headers, partition=returned.partition
    )


def parse_redelivery(record: ConsumerRecord, latest_ms: int = INT64_MAX) -> Redelivery:
    """What comes back by *record*, due at *latest_ms* at the latest.

    Raises DecodeError when that is none of ours.
    """
    ours = our_headers(record.headers)

    def text(name: str) -> str:
        return ours.get(MARK + name, b"").decode()

    def number(name: str, most: int = COUNT_MAX) -> int:
        return number_in(ours.get(MARK + name, b"0"), 0, most)

    try:
        topic, partition, offset = origin_of(record.headers)
        if partition != record.partition:  # records come back to the partition that they came from
            raise ValueError  # noqa: TRY301  # like what is no number
        hops = number_in(ours[MARK + "hops"], 0, COUNT_MAX)
        due_ms = number_in(ours.get(MARK + "due", b"0"), -INT64_MAX)
        return Redelivery(
            topic,
            partition,
            offset,
            number_in(ours[TIME], -INT64_MAX),
            record.key,
            record.value,
            sender_headers(record.headers),
            ACTIONS[ours[MARK + "action"]],
            hops,
            handler=text("handler"),
            stage=number("stage"),
            due_ms=min(due_ms, latest_ms),
            attempts=number("attempts"),
            first_ms=number("first", TIME_MAX_MS),
            edited=text("edited"),
        )
    except (KeyError, ValueError, struct.error):
        raise DecodeError(
            "$", "not a record that we sent back: its headers do not say where it comes from"
        ) from None


def retry_of(record: ConsumerRecord, failure: Failure, stage: int, delay_s: float) -> Redelivery:
    """*record* on its way to its *stage*-th wait, of *delay_s*, for the handler that failed.

    Times are whole milliseconds, cut, so one is added: never too early.
    """
    return Redelivery(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        sender_headers(record.headers),
        "retry",
        failure.hops,
        failure.handler,
        stage,
        failure.at_ms + 1 + math.ceil(delay_s * 1000),
        failure.attempts,
        failure.first_ms,
        failure.edited,
    )


def returning(
    letter: ConsumerRecord, action: Action, value: bytes | None, edited: str = ""
) -> Redelivery:
    """What sends the dead letter *letter* back with *value*.

    Raises KeyError when it is no dead letter of ours.
    """
    ours = our_headers(letter.headers)
    topic, partition, offset = origin_of(letter.headers)
    return Redelivery(
        topic,
        partition,
        offset,
        event_ms_of(letter),
        letter.key,
        value,
        sender_headers(letter.headers),
        action,
        int(ours[MARK + "hops"]) + 1,
        handler=ours[MARK + "handler"].decode() if MARK + "scope" in ours else "",
        edited=edited or ours.get(MARK + "edited", b"").decode(),
    )
