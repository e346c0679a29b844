"""Headers of an event that is published: its id, its type and its lineage.

The cause of an event is a unit of work. The protocols here have the part of one that the bus needs.
"""

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Protocol
from uuid import uuid4

from faust import Record as Event

from famulus.serialization.key_text import key_bytes
from famulus.serialization.records import (
    ConsumerRecord,
    Lineage,
    ProducerRecord,
    derived_id,
    headers_of,
)


class Causing(Protocol):
    """Part of the event being handled that the events it causes need."""

    handler: str

    @property
    def event_id(self) -> str:
        """Return the event's id."""

    @property
    def cause(self) -> Lineage:
        """Return the lineage that the event passes on."""

    @property
    def position(self) -> int:
        """Return how many events the current handler has published so far."""


class Outbox(Causing, Protocol):
    """Part of the unit of work of the event being handled that the bus needs."""

    is_ended: bool
    is_undone: bool
    record: ConsumerRecord

    def publish(self, record: ProducerRecord) -> None:
        """Let *record* leave with the event's other effects."""

    def publish_unchecked(self, record: ProducerRecord) -> None:
        """Hold a place for *record*, which leaves only once `replace` was called for it."""

    def replace(self, record: ProducerRecord, by: ProducerRecord | None) -> None:
        """Let *by*, or nothing for None, leave in the place of *record*.

        Does nothing once the attempt has ended.
        """


def new_headers(event: Event, source: str) -> list[tuple[str, bytes]]:
    """Return the headers of an event without a cause.

    The event gets a random id, which is also the correlation id of the chain that it begins.
    """
    identifier = str(uuid4())
    return headers_of(
        event_id=identifier,
        event_type=str(type(event)._options.namespace),
        source=source,
        time=_now(),
        subject=subject_of(event),
        story=[("ce_correlationid", identifier.encode())],
    )


def caused_headers(event: Event, source: str, by: Causing) -> list[tuple[str, bytes]]:
    """Return the headers of an event that a handler publishes.

    Its id is derived, so that it stays the same when the handler runs again.
    """
    return headers_of(
        event_id=derived_id(by.event_id, by.handler, by.position),
        event_type=str(type(event)._options.namespace),
        source=source,
        time=_now(),
        subject=subject_of(event),
        story=by.cause.story,
    )


def subject_of(event: Event) -> str:
    """Return the text of *event*'s key field, for the subject header.

    Returns "" when there is no such field, or when its value is not printable text.
    """
    name: Any = getattr(type(event), "__key__", None)  # Any: models are never imported here
    subject = getattr(event, name, None) if name is not None else None
    if subject is None or isinstance(subject, bytes):
        return ""
    try:
        text = (key_bytes(subject) or b"").decode()
    except (TypeError, UnicodeDecodeError):
        return ""
    return text if text.isprintable() else ""


def _now() -> str:
    return _iso(time.time_ns() // 1_000_000)


# Many events leave in one millisecond, and formatting the time takes as long as all other headers.
@lru_cache(maxsize=1)
def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
