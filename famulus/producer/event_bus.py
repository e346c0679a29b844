"""Event bus: publish events; topic and key come from the event's type.

Requests, replies and events for a later time leave through the bus, too.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any, Self, TypeVar, cast

from faust import Record

from famulus.errors import ClaimStoreError
from famulus.observability.tracing import Tracing, tracing_of
from famulus.producer.event_headers import Outbox, caused_headers
from famulus.producer.producer import Producer
from famulus.producer.reply_headers import ReplyRefusedError, ReplyTo, check_id, reply_to
from famulus.producer.request_reply import PendingRequest, ReplyRouter, reply_in
from famulus.producer.results import Published, UnknownTopicError
from famulus.producer.scheduling import Scheduled, due_ms_of, scheduling_topic
from famulus.serialization.json_codec import codec_of
from famulus.serialization.key_text import key_bytes
from famulus.serialization.records import Headers, ProducerRecord, with_own

R = TypeVar("R", bound=Record)


class EventBus:
    """Publishes events.

    Inside a handler, `publish` joins the unit of work: nothing leaves when the handler fails, and
    everything has left before the event counts as handled. Anywhere else `publish` sends at once
    and returns when the cluster has the event. A task that outlives its handler also sends at once.
    If its attempt failed, it is refused with AttemptEndedError.

        async with EventBus() as bus:
            await bus.publish(OrderCreated(...))

    *tracing* is looked up at the start, see `observability.tracing`. In a handler, a `send` span
    ends when the event has joined the unit of work, and the event leaves later with its checkpoint.
    Without tracing, the trace context of the causing event is passed on unchanged.
    """

    def __init__(
        self, producer: Producer | None = None, outbox: Callable[[], Outbox | None] = lambda: None
    ) -> None:
        self._producer = producer or Producer()
        self._outbox = outbox
        self.tracing: Tracing | None = None
        self._requester: ReplyRouter | None = None

    async def __aenter__(self) -> Self:
        self.tracing = tracing_of("auto", self._producer.settings)
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_requests()
        await self._producer.stop()

    async def publish(
        self,
        event: Record,
        *,
        key: object = None,
        headers: Headers = (),
        not_before: datetime | None = None,
    ) -> None:
        """Publish *event* to the topic of its type.

        The key is the value of the field that the event's type names, unless *key* is given.
        *headers* are added to those of `serialization.records`, and replace those of the same name.
        In a handler the event's id is derived from the causing event. Publishing it again after a
        restart gives the same id, so that readers recognise it. Raises TypeError when the event's
        type names no topic, RecordTooLargeError (a PermanentError) when the event could never
        leave, and, outside a handler, what else `Producer.produce` raises.

        With *not_before* (with a time zone, at most `Kafka.ScheduleMaxH` hours ahead) the event
        reaches its topic at that time or some moments later, never before. Until then it waits in
        the topic GROUP.scheduled. A worker of the group forwards it, at least once and with the id
        that it has now. Meanwhile events of its key overtake it. A time that has passed means at
        once. Raises NotScheduledError (a PermanentError) for a time that is not allowed.
        """
        topic, key = _address(event, key)
        due_ms = 0 if not_before is None else self._due_ms(not_before)
        unit = self._outbox()
        if unit is None:
            ours = self._producer.new_headers(event)
        else:
            ours = caused_headers(event, self._producer.settings.consumer_config.group_id, unit)
        trace = [] if unit is None else unit.cause.trace
        if self.tracing is not None:
            with self.tracing.send(
                self._producer.settings.topic(topic), key_bytes(key), ours, headers
            ) as span:
                all_headers = with_own(ours + (span.context or trace), headers)
                span.sent(
                    await self._send(
                        topic, key, event, headers=all_headers, unit=unit, due_ms=due_ms
                    )
                )
            return
        all_headers = with_own(ours + trace if trace else ours, headers)
        if unit is None and not due_ms:
            await self._producer.send_event(topic, key, event, all_headers)
        elif unit is None or due_ms:
            await self._send(topic, key, event, headers=all_headers, unit=unit, due_ms=due_ms)
        elif (
            large := self._join(topic, key, event, all_headers, unit)
        ) is not None:  # most records are small: nothing is awaited
            await self._check(large, unit)

    def _due_ms(self, not_before: datetime) -> int:
        now_ms = time.time_ns() // 1_000_000
        due_ms = due_ms_of(not_before, now_ms, self._producer.settings.schedule_max_h)
        return due_ms if due_ms > now_ms else 0

    # Requests and replies.

    @property
    def late_replies(self) -> int:
        """Return how many replies came after their requests had timed out."""
        return 0 if self._requester is None else self._requester.late

    async def stop_requests(self) -> None:
        """Stop reading replies."""
        if self._requester is not None:
            await self._requester.stop()

    async def request(
        self,
        event: Record,
        *,
        timeout_s: float,
        reply_type: type[R],
        key: object = None,
        headers: Headers = (),
        request_id: str = "",
    ) -> R:
        """Publish *event* outside of handlers, and return the event that its handler replies.

        *request_id* identifies a request that is sent again. Within the responder's dedupe window
        it is handled once. The first reply is returned for as long as the reply topic keeps it
        (`Kafka.Replies.RetentionH`). *key* and *headers* are as for `publish`. Raises
        RequestTimeoutError after *timeout_s* seconds, TooManyRequestsError, DecodeError when the
        reply is not a *reply_type*, TypeError in a handler, and what `publish` raises.
        """
        if self._outbox() is not None:
            raise TypeError(
                "request is not for handlers, whose events would wait for each other: publish "
                "an event"
            )
        if request_id:
            check_id(request_id)
        if self._requester is None:
            self._requester = ReplyRouter(self._producer.settings)
        asking = PendingRequest(self._requester, request_id)
        send = partial(self._ask, event, key, headers)
        try:
            async with asyncio.timeout(timeout_s):
                return reply_in(await asking.reply(send), reply_type)
        except TimeoutError:
            raise asking.timed_out(type(event).__name__, timeout_s) from None

    async def _ask(self, event: Record, key: object, headers: Headers, own: Headers) -> None:
        topic, key = _address(event, key)
        ours = with_own(with_own(self._producer.new_headers(event), headers), own)
        if self.tracing is None:
            await self._producer.send_event(topic, key, event, ours)
            return
        with self.tracing.send(
            self._producer.settings.topic(topic), key_bytes(key), ours, ()
        ) as span:
            span.sent(
                await self._producer.send_event(
                    topic, key, event, with_own(ours, span.context or ())
                )
            )

    async def reply(self, event: Record) -> bool:
        """Reply to the request being handled with *event*.

        The reply leaves with the other effects of the request. Returns False, and does nothing,
        when the event being handled asks for no reply. *event* may be any Record; its topic and key
        do not matter. The first reply counts. Raises ReplyRefusedError (a PermanentError) when the
        request names a topic that does not exist, or that is not in `Kafka.Replies.AllowedTopics`;
        RecordTooLargeError; TypeError outside of a handler.
        """
        unit = self._outbox()
        if unit is None:
            raise TypeError("reply is for handlers: there is no request in hand")
        settings = self._producer.settings
        place = reply_to(unit.record.headers, settings.replies.allowed_topics)
        if place is None:
            return False
        ours = caused_headers(event, settings.consumer_config.group_id, unit)
        key = dict(ours)["ce_correlationid"]
        if self.tracing is None:
            await self._reply(place, key, event, ours + unit.cause.trace, unit)
        else:
            with self.tracing.send(place.topic, key, ours, ()) as span:
                await self._reply(
                    place, key, event, ours + (span.context or unit.cause.trace), unit
                )
        return True

    async def _reply(
        self, place: ReplyTo, key: bytes, event: Record, headers: Headers, unit: Outbox
    ) -> None:
        record = ProducerRecord(
            place.topic, key, codec_of(type(event)).encode(event), headers, place.partition
        )
        async with self._checking(record, unit) as leaving:
            try:
                await self._producer.check_place(*place)
                await self._producer.check(record)
            except UnknownTopicError as error:
                raise ReplyRefusedError(
                    f"the request's reply topic cannot be used: {error}"
                ) from error
            leaving.append(record)

    async def _send(
        self,
        topic: str,
        key: object,
        event: Record,
        *,
        headers: Headers,
        unit: Outbox | None,
        due_ms: int,
    ) -> Published | None:
        if unit is None and not due_ms:
            return await self._producer.send_event(topic, key, event, headers)
        if due_ms:
            return await self._send_later(
                Scheduled(self._outgoing(topic, key, event, headers), due_ms), unit
            )
        assert unit is not None
        if (large := self._join(topic, key, event, headers, unit)) is not None:
            await self._check(large, unit)
        return None

    def _join(
        self, topic: str, key: object, event: Record, headers: Headers, unit: Outbox
    ) -> ProducerRecord | None:
        """Add *event* to the unit of work.

        Returns its record instead when it must be checked first, see `_check`.
        """
        record = self._outgoing(topic, key, event, headers)
        if not self._producer.is_small(record):
            return record
        unit.publish(record)
        return None

    @asynccontextmanager
    async def _checking(
        self, record: ProducerRecord, unit: Outbox
    ) -> AsyncIterator[list[ProducerRecord]]:
        """Hold the place of *record* in *unit* while the block checks what may leave.

        Yields a list. The record that the block appends to it replaces *record* in the unit;
        without one, nothing leaves. The place is taken before anything is awaited, because event
        ids depend on the order of publishing. When the attempt ends meanwhile, the record cannot
        leave with the unit: it is sent at once, or refused if the attempt failed.
        """
        unit.publish_unchecked(record)
        leaving: list[ProducerRecord] = []
        try:
            yield leaving
        finally:
            unit.replace(record, leaving[0] if leaving else None)
        if unit.is_ended:
            self._outbox()  # raises AttemptEndedError if the attempt failed
            for late in leaving:
                await self._producer.send(late)

    def _outgoing(self, topic: str, key: object, event: Record, headers: Headers) -> ProducerRecord:
        value = codec_of(type(event)).encode(event)
        return ProducerRecord(self._producer.settings.topic(topic), key_bytes(key), value, headers)

    async def _send_later(self, event: Scheduled, unit: Outbox | None) -> Published | None:
        """Write *event* to the scheduling topic.

        A large payload stays in the record until the event is due, because a claim check might
        expire.
        """
        topic = scheduling_topic(self._producer.settings.consumer_config.group_id)
        waiting = event.to_wait(topic, time.time_ns() // 1_000_000)
        if unit is not None:
            async with self._checking(waiting, unit) as leaving:
                await self._check_to_wait(waiting, event)
                leaving.append(waiting)
            return None
        await self._check_to_wait(waiting, event)
        try:
            return await self._producer.send(waiting)
        except UnknownTopicError as error:
            cure = "a worker of the group makes it when it starts with Kafka.ScheduleMaxH"
            raise UnknownTopicError(f"topic {topic} is not there, or not whole: {cure}") from error

    async def _check_to_wait(self, waiting: ProducerRecord, event: Scheduled) -> None:
        """Raise RecordTooLargeError when *event* could not be scheduled, or not forwarded later."""
        if not self._producer.is_small(waiting):
            await self._producer.check(waiting)
            if not self._producer.claims.wants(event.record):
                await self._producer.check(event.record)

    async def _check(self, record: ProducerRecord, unit: Outbox) -> None:
        """Replace a large payload by a claim check, and check the size of the result.

        When the payload store is unavailable, the event being handled is undone and handled again
        later, even if its handler catches the error.
        """
        async with self._checking(record, unit) as leaving:
            try:
                checked = await self._producer.claims.check_in(record)
                await self._producer.check(checked)
            except ClaimStoreError:
                unit.is_undone = True
                raise
            leaving.append(checked)


def _address(event: Record, key: object) -> tuple[str, object]:
    """Return topic and key of *event* from its type.

    The type has `__topic__` and `__key__`, see famulus/model.py. Raises TypeError when it has
    neither.
    """
    # Any: the attributes are looked up by name, because this package never imports the models.
    shape = cast(Any, type(event))
    try:
        return shape.__topic__, getattr(event, shape.__key__) if key is None else key
    except AttributeError:
        raise TypeError(
            f"{type(event).__name__} names no topic and key: derive it from famulus.model.Event"
        ) from None
