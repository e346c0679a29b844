"""What an event says of itself when it leaves: its id, its type, and what it has from the event that caused it.

What causes it is a unit of work; here is as much of one as the bus needs.
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
    """The event in hand, as far as those that it causes need it."""

    handler: str

    @property
    def event_id(self) -> str:
        """Its id."""

    @property
    def cause(self) -> Lineage:
        """What it hands on."""

    @property
    def position(self) -> int:
        """How many events the current handler has published so far."""


class Outbox(Causing, Protocol):
    """The unit of work of the event in hand, as far as the bus needs it."""

    is_ended: bool
    is_undone: bool
    record: ConsumerRecord

    def publish(self, record: ProducerRecord) -> None:
        """Let *record* leave with the event's other effects."""

    def publish_unchecked(self, record: ProducerRecord) -> None:
        """The same for a record that leaves only once `replace` has said what leaves in its place."""

    def replace(self, record: ProducerRecord, by: ProducerRecord | None) -> None:
        """Let *by*, or nothing, leave in the place of *record*.

        Does nothing once the attempt has ended.
        """


def new_headers(event: Event, source: str) -> list[tuple[str, bytes]]:
    """Headers for an event that has no cause: a random id, which is that of the chain that it begins."""
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
    """Headers for an event that a handler publishes: an id that is the same when the handler runs again."""
    return headers_of(
        event_id=derived_id(by.event_id, by.handler, by.position),
        event_type=str(type(event)._options.namespace),
        source=source,
        time=_now(),
        subject=subject_of(event),
        story=by.cause.story,
    )


def subject_of(event: Event) -> str:
    """What *event* is about: the field that its type names as its key.

    Nothing where that is no text to print.
    """
    name: Any = getattr(type(event), "__key__", None)  # Any: models are known by shape
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


# Many events leave in one millisecond, and a time takes as long as all their other headers.
@lru_cache(maxsize=1)
def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
