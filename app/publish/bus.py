"""The mission's event bus: publish what happened; topic and key come from the event's type."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol, Self, cast

from faust import Record

from app.errors import ClaimStoreError
from app.publish.producer import Producer, key_bytes
from app.wire.codec import codec_of
from app.wire.envelope import Headers, Outgoing, derived_id, headers_of


class Outbox(Protocol):
    """The unit of work of the event in hand, as far as the bus needs it."""

    handler: str
    is_undone: bool

    @property
    def event_id(self) -> str:
        """The id of the event in hand."""

    @property
    def position(self) -> int:
        """How many events the current handler has published so far."""

    def publish(self, record: Outgoing) -> None:
        """Let *record* leave with the event's other effects."""

    def replace(self, record: Outgoing, by: Outgoing | None) -> None:
        """Let *by*, or nothing, leave in the place of *record*, which was published."""


class EventBus:
    """Publishes events.

    Inside a handler `publish` joins the unit of work: nothing leaves when the handler fails, everything has left before
    the event counts as handled. Anywhere else it sends at once and returns when the cluster has the event:

        async with EventBus() as bus:
            await bus.publish(OrderCreated(...))
    """

    def __init__(self, producer: Producer | None = None, outbox: Callable[[], Outbox | None] = lambda: None) -> None:
        self._producer = producer or Producer()
        self._outbox = outbox

    async def __aenter__(self) -> Self:
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    async def publish(self, event: Record, *, key: object = None, headers: Headers = ()) -> None:
        """Publish *event* to the topic of its type, keyed by the field that its type names unless *key* is given.

        *headers* are added to those of `wire.envelope`. In a handler the event's id is derived from the causing event,
        so publishing it again after a restart is recognised by whoever reads it. Raises TypeError when the event's
        type names no topic, RecordTooLargeError (a PermanentError) when it could never leave and, outside a handler,
        what else `Producer.produce` raises.
        """
        topic, key = _address(event, key)
        unit = self._outbox()
        if unit is None:
            await self._producer.produce(topic, key, event, headers=[*self._producer.new_headers(event), *headers])
            return
        envelope = headers_of(
            event_id=derived_id(unit.event_id, unit.handler, unit.position),
            event_type=str(type(event)._options.namespace),
            source=self._producer.settings.consumer_config.group_id,
            time=datetime.now(UTC),
        )
        record = Outgoing(
            self._producer.settings.topic(topic),
            key_bytes(key),
            codec_of(type(event)).encode(event),
            [*envelope, *headers],
        )
        unit.publish(record)  # before anything is waited for: its id is made from its place
        if not self._producer.is_small(record):
            await self._check(record, unit)

    async def _check(self, record: Outgoing, unit: Outbox) -> None:
        """Have a claim check leave instead, if it is to be one, and make sure that what leaves is not too large.

        When the store is away the event in hand is undone, and handled again later, whatever its handler makes of that.
        """
        instead = None
        try:
            leaving = await self._producer.claims.check_in(record)
            await self._producer.check(leaving)
            instead = leaving
        except ClaimStoreError:
            unit.is_undone = True
            raise
        finally:
            unit.replace(record, instead)


def _address(event: Record, key: object) -> tuple[str, object]:
    """Topic and key of *event* by its type, which has `__topic__` and `__key__` (see models/event.py)."""
    shape = cast(Any, type(event))  # Any: models are known by shape, this package never imports them
    try:
        return shape.__topic__, getattr(event, shape.__key__) if key is None else key
    except AttributeError:
        raise TypeError(f"{type(event).__name__} names no topic and key: derive it from models.event.Event") from None
