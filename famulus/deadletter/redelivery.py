"""Redeliveries: records that return to their group by a retry or redrive topic.

A redelivery is redriven, dropped or waiting for another attempt. Its record has the original key,
value and headers, followed by headers with the origin and the action. The time of the event is in a
header, too: the retention of these topics goes by the time of writing, which is the record's
timestamp.
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
COUNT_MAX = INT32_MAX  # limit of attempts, stages and hops
TIME_MAX_MS = 253_402_300_799_999  # the end of the year 9999
ACTIONS: dict[bytes, Action] = {b"redrive": "redrive", b"drop": "drop", b"retry": "retry"}


@dataclass(slots=True)
class Redelivery(RecordCopy):
    """The original record, with its origin as its position, plus what to do with it.

    In the pipeline it passes for a record that was read from its source. *handler* is the only
    handler that is to handle it, empty for all. For a retry, *due_ms* (since 1970) is when, and
    *attempts* and *first_ms* are carried on. *hops* is how often it was redriven.
    """

    action: Action
    hops: int = 0
    handler: str = ""
    stage: int = 0  # the number of the retry topic
    due_ms: int = 0
    attempts: int = 0
    first_ms: int = 0
    edited: str = ""  # the SHA-256 of its value before it was edited


def outgoing(topic: str, returned: Redelivery) -> ProducerRecord:
    """Return the record that sends *returned* to *topic*."""
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
    """Return the redelivery in *record*, due at *latest_ms* at the latest.

    Raises DecodeError when it is not one that this package wrote.
    """
    ours = our_headers(record.headers)

    def text(name: str) -> str:
        return ours.get(MARK + name, b"").decode()

    def number(name: str, most: int = COUNT_MAX) -> int:
        return number_in(ours.get(MARK + name, b"0"), 0, most)

    try:
        topic, partition, offset = origin_of(record.headers)
        if partition != record.partition:  # redeliveries keep the partition of their origin
            raise ValueError  # handled like an invalid number
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
    """Return the redelivery of *record* for its wait number *stage*, of *delay_s* seconds.

    Only the handler that failed gets it. Times are whole milliseconds, rounded down; one
    millisecond is added, so that it is never due too early.
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
    """Return the redelivery that sends a dead letter back with *value*.

    Raises KeyError, ValueError or struct.error when the record is not a dead letter that this
    package wrote.
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
