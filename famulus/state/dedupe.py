"""Deduplication: each event id takes effect once.

A seen mark per event id is made durable together with the event's effects.

Time is stream time: the newest timestamp among the records up to an event, in the order of the log.
Recognition of a redelivered event therefore does not depend on the time of reading, and a restored
state gives the same answer.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from hashlib import blake2b

from faust import Record as Event

from famulus.deadletter.redelivery import Redelivery
from famulus.errors import PermanentError
from famulus.serialization.records import ConsumerRecord, event_id_bytes_of, event_id_of, place_of
from famulus.state.changelog import MARK, SeenMark, stored_mark
from famulus.state.partition_state import PartitionState

DIGEST_BYTES = 16  # of an id; among 2**64 ids two would collide by chance
PERIODS = 8  # parts of a window; marks expire one part at a time
DEFAULT_WINDOW = timedelta(days=7)
Identity = Callable[[Event], object]
_digest = blake2b(digest_size=DIGEST_BYTES)


def is_within(mark: SeenMark, stream_ms: int, window_ms: int) -> bool:
    """Return True if a *mark* is still valid.

    *stream_ms* is the stream time of the event that is seen again.
    """
    return stream_ms - mark.seen_ms < window_ms


@dataclass(frozen=True)
class Dedupe:
    """Rules by which one subscription recognizes events that it has seen.

    *identity* returns the identity of an event. None stands for
    `serialization.records.event_id_of`, which needs no decoding. *windows_ms* has the event types
    whose window differs from *window_ms*. All windows are in milliseconds of stream time.
    """

    window_ms: int
    windows_ms: Mapping[type[Event], int] = field(default_factory=dict)
    identity: Identity | None = None

    @cached_property
    def longest_ms(self) -> int:
        """Return the longest window; older marks are of no use."""
        return max(self.window_ms, *self.windows_ms.values(), 0)

    @property
    def period_ms(self) -> int:
        """Return the span of time whose marks expire together, in milliseconds."""
        return max(self.longest_ms // PERIODS, 1)

    def keys(self, records: Iterable[ConsumerRecord]) -> list[bytes]:
        """Return the mark key of each record.

        The list is empty where an *identity* was given, since that needs the decoded event.
        """
        if self.identity is not None:
            return []
        return [mark_key(event_id_bytes_of(record)) for record in records]

    def stored(self, partition: PartitionState, keys: list[bytes]) -> list[bytes | None]:
        """Return the store's values of *keys*, None where there is none, in one lookup."""
        assert partition.store is not None, "marks need a store"
        return partition.store.get_many(keys)

    def keys_of(self, event: Event, record: ConsumerRecord) -> list[bytes]:
        """Return the keys that the mark of an event may have when an *identity* was given.

        New marks use the first key. This key includes the event type, because events of several
        types may have the same id. Older versions wrote marks under the second key. An event
        without an identity is known by its event id.

        Raises PermanentError, without payload, when *identity* raises or is async.
        """
        assert self.identity is not None
        try:
            identity = self.identity(event)
            text = "" if identity is None or identity == b"" else str(identity)
        except Exception as error:
            raise PermanentError(
                f"the identity of {type(event).__name__} cannot be told: "
                f"{_name_of(self.identity)} raised "
                f"{type(error).__name__}"
            ) from error
        if inspect.isawaitable(identity):
            if inspect.iscoroutine(identity):
                identity.close()
            raise PermanentError(
                f"the identity of {type(event).__name__}: {_name_of(self.identity)} must not "
                "be async"
            )
        if not text:
            return [mark_key(event_id_bytes_of(record))]
        raw = text.encode("utf-8", "backslashreplace")
        return [mark_key(f"{event._options.namespace}\0".encode() + raw), mark_key(raw)]

    def remembered(self, raw: bytes, event_type: type[Event], stream_ms: int) -> SeenMark | None:
        """Decode the stored mark of an event that was seen before.

        Returns None when the mark has left the window of *event_type*.
        """
        mark = stored_mark(raw)
        return mark if is_within(mark, stream_ms, self.window_of(event_type)) else None

    def window_of(self, event_type: type[Event]) -> int:
        """Return the window of an event type, in milliseconds."""
        return self.windows_ms.get(event_type, self.window_ms)


@dataclass(frozen=True)
class FieldIdentity:
    """Identity from a *field* of an event or of a part of it (`customer.id`).

    The identity is None for a type without such a field.
    """

    field: str

    def __call__(self, event: Event) -> object:
        """Return the value of the field."""
        value: object = event
        for name in self.field.split("."):
            value = getattr(value, name, None)
        return value


def _name_of(identity: Identity) -> str:
    return str(getattr(identity, "__qualname__", type(identity).__name__))


def redelivery_key(back: Redelivery, dedupe: Dedupe | None) -> bytes:
    """Return the mark key of a redelivered record.

    *dedupe* is that of the record's subscription. The key is empty if only the decoded event gives
    it, by `Dedupe.keys_of`.
    """
    if back.handler:  # all other handlers have handled the event
        return mark_key(f"{event_id_of(back)}\0{back.handler}\0{back.stage}\0{back.hops}".encode())
    if dedupe is None:  # two events may have the same id, and both count
        return mark_key(place_of(back).encode())
    return mark_key(event_id_bytes_of(back)) if dedupe.identity is None else b""


def mark_key(event_id: bytes) -> bytes:
    """Return the key of an event's mark in the store."""
    digest = _digest.copy()  # a new object would take longer than everything else here
    digest.update(event_id)
    return MARK + digest.digest()
