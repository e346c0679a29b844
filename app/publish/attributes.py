"""What an event says of itself when it leaves: its id, its type, and what it has from the event that caused it."""

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Protocol
from uuid import uuid4

from faust import Record as Event

from app.wire.envelope import Cause, derived_id, headers_of


class Causing(Protocol):
    """The event in hand, as far as those that it causes need it."""

    handler: str

    @property
    def event_id(self) -> str:
        """Its id."""

    @property
    def cause(self) -> Cause:
        """What it hands on."""

    @property
    def position(self) -> int:
        """How many events the current handler has published so far."""


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
    """What *event* is about: the field that its type names as its key. Nothing where that is no text to print."""
    name: Any = getattr(type(event), "__key__", None)  # Any: models are known by shape
    subject = getattr(event, name, None) if name is not None else None
    if subject is None or isinstance(subject, bytes):
        return ""
    text = str(subject)
    return text if text.isprintable() else ""


def _now() -> str:
    at_s, rest_us = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{_second(at_s)}.{rest_us:06}+00:00"


@lru_cache(maxsize=1)
def _second(at_s: int) -> str:
    """What all times of a second begin with. Making it takes longer than the rest of an event's headers."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
