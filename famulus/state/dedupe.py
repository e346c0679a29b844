"""Each event id takes effect once: a mark per event id, settled together with the event's effects.

Time is the stream's: the newest timestamp among the records up to an event, in the order of the
log. So whether an event that comes again is still recognised does not depend on when it is read,
and a rebuilt state decides the same.
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

DIGEST_BYTES = 16  # of an id: two ids in 2**64 would collide by chance
PERIODS = 8  # parts of a window; marks are forgotten a part at a time
DEFAULT_WINDOW = timedelta(days=7)
Identity = Callable[[Event], object]
_digest = blake2b(digest_size=DIGEST_BYTES)


def is_within(mark: SeenMark, stream_ms: int, window_ms: int) -> bool:
    """Whether an event that comes again at the stream's time *stream_ms* is still recognised by its mark."""
    return stream_ms - mark.seen_ms < window_ms


@dataclass(frozen=True)
class Dedupe:
    """How the events of one subscription are recognised, and for how long.

    *identity* gives what makes an event the same event; None: what `wire.envelope.event_id_of`
    says, which needs no decoding. *windows_ms* has the event types that are remembered for another
    time than *window_ms*.
    """

    window_ms: int
    windows_ms: Mapping[type[Event], int] = field(default_factory=dict)
    identity: Identity | None = None

    @cached_property
    def longest_ms(self) -> int:
        """The longest window: marks older than this are of no use."""
        return max(self.window_ms, *self.windows_ms.values(), 0)

    @property
    def period_ms(self) -> int:
        """What is forgotten at once."""
        return max(self.longest_ms // PERIODS, 1)

    def keys(self, records: Iterable[ConsumerRecord]) -> list[bytes]:
        """What each record's mark is kept under, as far as that is known before decoding; else nothing for all."""
        if self.identity is not None:
            return []
        return [mark_key(event_id_bytes_of(record)) for record in records]

    def stored(self, partition: PartitionState, keys: list[bytes]) -> list[bytes | None]:
        """What the store has under each of *keys*. One look for all."""
        assert partition.store is not None, "marks need a store"
        return partition.store.get_many(keys)

    def keys_of(self, event: Event, record: ConsumerRecord) -> list[bytes]:
        """Make the keys that the mark of an event may be kept under when an *identity* was given.

        New marks are kept under the first one, which has the type in it: one id may stand in events
        of several types. Marks that were written before are under the other. An event without an
        identity is known as any event is. Raises PermanentError, without payload, when the identity
        cannot be told.
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
        """The mark of an event that was seen before, as the store keeps it; None when it is forgotten by now."""
        mark = stored_mark(raw)
        return mark if is_within(mark, stream_ms, self.window_of(event_type)) else None

    def window_of(self, event_type: type[Event]) -> int:
        """For how long events of a type are recognised, milliseconds."""
        return self.windows_ms.get(event_type, self.window_ms)


@dataclass(frozen=True)
class FieldIdentity:
    """Gives a field of an event, or of a part of it (`customer.id`); None where a type has no such field."""

    field: str

    def __call__(self, event: Event) -> object:
        """Read it."""
        value: object = event
        for name in self.field.split("."):
            value = getattr(value, name, None)
        return value


def _name_of(identity: Identity) -> str:
    return str(getattr(identity, "__qualname__", type(identity).__name__))


def redelivery_key(back: Redelivery, dedupe: Dedupe | None) -> bytes:
    """What the mark of a record that comes back is kept under, where *dedupe* is that of its subscription.

    Empty where only decoding tells: then it is what `Dedupe.keys_of` says of the event.
    """
    if back.handler:  # the event itself was handled, but for this handler
        return mark_key(f"{event_id_of(back)}\0{back.handler}\0{back.stage}\0{back.hops}".encode())
    if dedupe is None:  # two events may have one id, and both be meant
        return mark_key(place_of(back).encode())
    return mark_key(event_id_bytes_of(back)) if dedupe.identity is None else b""


def mark_key(event_id: bytes) -> bytes:
    """What the mark of an event is kept under in the store."""
    digest = _digest.copy()  # to make a new one takes longer than all else here
    digest.update(event_id)
    return MARK + digest.digest()
