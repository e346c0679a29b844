"""Producer: send records to topics and learn their offsets.

Works inside a worker and in a plain script. Each error is one line with its cure, see `results`.
"""

import re
import types
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Self

from aiokafka.errors import KafkaError
from faust import Record as Event

from famulus.config import ClaimCheckConfig, KafkaConfig, load_settings
from famulus.errors import ClaimStoreError, ClaimTooLargeError
from famulus.observability.tracing import Tracing, tracing_of
from famulus.producer.coalescing import CoalescingSender
from famulus.producer.connection import size_of
from famulus.producer.event_headers import new_headers
from famulus.producer.payload_store import PayloadStore
from famulus.producer.record_sender import SMALL_BYTES, RecordSender
from famulus.producer.results import NotAcknowledgedError, Published, RecordTooLargeError
from famulus.serialization.json_codec import codec_of
from famulus.serialization.key_text import key_bytes
from famulus.serialization.records import Headers, ProducerRecord, with_own

CHUNK = 10_000  # records of `produce_many` that are sent, and waited for, together
Value = Event | bytes | None  # an event, bytes sent unchanged, or None for a tombstone
# A key and its value, and optionally headers.
Pair = tuple[object, Value] | tuple[object, Value, Headers]


class Producer(RecordSender):
    """Sends records and waits until the cluster has them.

        async with Producer() as producer:
            published = await producer.produce("order-events", customer_id, event)

    With *settings* None, appsettings.json and the environment are read. *claims* is the store for
    large payloads. *tracing* is looked up on entering, see `observability.tracing`. With tracing
    there is a span for each `produce` and for each portion of `produce_many`, and events carry its
    context. Raises ConfigError when the partitioner that the settings name does not exist.
    """

    def __init__(
        self, settings: KafkaConfig | None = None, claims: PayloadStore | None = None
    ) -> None:
        super().__init__(settings or load_settings().kafka)
        self.claims = claims or PayloadStore(
            load_settings().claim_check if settings is None else ClaimCheckConfig()
        )
        self.tracing: Tracing | None = None
        self._together = CoalescingSender(self, self.is_small, self._prepared)
        self._small = min(SMALL_BYTES, self.settings.producer_config.max_request_size)

    async def __aenter__(self) -> Self:
        self.tracing = tracing_of("auto", self.settings)
        return await super().__aenter__()

    async def stop(self) -> None:
        """Send the waiting records, within STOP_S seconds, and disconnect."""
        await self._together.stop()
        await super().stop()

    async def produce(
        self,
        topic: str,
        key: object,
        event: Value,
        *,
        headers: Headers | Mapping[str, bytes] | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Published:
        """Send one record and wait until all in-sync replicas have it.

        *topic* is the name that models use (the prefix setting is added). *key* is converted by
        `serialization.key_text`; None spreads records over the partitions. An event gets the
        headers of `serialization.records` with a new id unless *headers* are given, and leaves as a
        claim check when it is larger than `ClaimCheck.ThresholdBytes`. Bytes are sent unchanged;
        None is a tombstone. Raises TypeError or ValueError at once for values that no record can
        have, such as a partition below zero. Raises RecordTooLargeError, UnknownTopicError,
        NotAuthorizedError, and NotAcknowledgedError when no answer came in
        `ProducerConfig.DeliveryTimeoutMs` or the payload store is unavailable; all are
        PublishErrors.
        """
        if isinstance(headers, Mapping):
            headers = list(headers.items())
        _check(self.settings.topic(topic), headers or (), partition, timestamp_ms)
        if self.tracing is None:
            name = self.settings.topic(topic)
            is_event = isinstance(event, Event)
            return await self._together.send(
                name, is_event, self._outgoing, name, key, event, headers, partition, timestamp_ms
            )
        record = self._outgoing(
            self.settings.topic(topic), key, event, headers, partition, timestamp_ms
        )
        own = headers or ()
        with self.tracing.send(
            record.topic, record.key, record.headers, own, is_tombstone=event is None
        ) as span:
            traced = _traced(record, event, span.context, own)
            published = await self._together.send(
                record.topic, isinstance(event, Event), lambda: traced
            )
            span.sent(published)
        return published

    async def send(self, record: ProducerRecord, *, is_event: bool = False) -> Published:
        """Send *record* unchanged; its topic is named as on the cluster.

        With *is_event*, a large record leaves as a claim check. Raises as `produce` does.
        """
        return await self._together.send(record.topic, is_event, lambda: record)

    def send_event(
        self, topic: str, key: object, event: Event, headers: Headers
    ) -> Awaitable[Published]:
        """Send *event* with exactly these *headers*, otherwise as `produce` does.

        Raises as `produce` does.
        """
        name = self.settings.topic(topic)
        return self._together.send(name, True, self._outgoing, name, key, event, headers)

    async def _prepared(self, record: ProducerRecord, is_event: bool) -> ProducerRecord:
        """Return the record to send for *record*, which may be too large.

        Raises as `produce` does.
        """
        if is_event:
            record = await self._checked_in(record)
        await self.check(record)
        return record

    async def send_together(self, records: Sequence[ProducerRecord]) -> list[Published]:
        """Send *records* of one topic in few record batches.

        Raises as `produce` does; an error is raised for all of them together.
        """
        return await self._produced(records[0].topic, records)

    async def produce_many(self, topic: str, records: Iterable[Pair]) -> list[Published]:
        """Send many *records* to one topic and return their positions, in the order given.

        Each record is a key and an event or bytes, as for `produce`, and optionally headers. As few
        record batches as possible are used; records of one partition keep their order. Portions of
        CHUNK records are sent and awaited together, so *records* may be a generator. The time limit
        applies to each such portion. Raises as `produce` does; the error's `published` has the
        positions of the records that the cluster has.
        """
        topic = self.settings.topic(topic)
        published: list[Published] = []
        rest = iter(records)
        while chunk := list(islice(rest, CHUNK)):
            if self.tracing is None:
                published += await self._produce_together(topic, chunk, published)
                continue
            with self.tracing.send_many(topic, len(chunk)) as span:
                published += await self._produce_together(topic, chunk, published, span.context)
        return published

    async def _produce_together(
        self, topic: str, chunk: Sequence[Pair], before: Sequence[Published], trace: Headers = ()
    ) -> list[Published]:
        ready = [
            self._outgoing(topic, key, event, next(iter(more), None)) for key, event, *more in chunk
        ]
        for place, (_, event, *more) in enumerate(chunk):
            if trace:
                ready[place] = _traced(ready[place], event, trace, next(iter(more), ()))
            if isinstance(event, Event) and self.claims.wants(ready[place]):
                ready[place] = await self._checked_in(ready[place], before)
        return await self._produced(topic, ready, before)

    async def _checked_in(
        self, record: ProducerRecord, before: Sequence[Published] = ()
    ) -> ProducerRecord:
        try:
            return await self.claims.check_in(record)
        except ClaimTooLargeError as error:
            raise RecordTooLargeError(
                f"a record for {record.topic} is too large: {error}", before
            ) from error
        except ClaimStoreError as error:
            what = (
                f"a record for {record.topic} was not sent: the store of large payloads is "
                f"away: {error}"
            )
            raise NotAcknowledgedError(what, before, may_be_sent=False) from error

    def _outgoing(  # noqa: PLR0917  # the fields of a Kafka record
        self,
        topic: str,
        key: object,
        event: Value,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> ProducerRecord:
        if isinstance(event, Event):
            headers = headers if headers is not None else self.new_headers(event)
            event = codec_of(type(event)).encode(event)
        return ProducerRecord(topic, key_bytes(key), event, headers or (), partition, timestamp_ms)

    async def _produced(
        self, topic: str, records: Sequence[ProducerRecord], before: Sequence[Published] = ()
    ) -> list[Published]:
        """Send *records*, and raise a PublishError in the place of aiokafka's error.

        *before* are the positions of records that were published already.
        """
        sending = self._sending(records)
        try:
            await self._send(sending)
        except (KafkaError, TimeoutError) as error:
            publish_error = self.to_publish_error(
                error, topic, [*before, *sending.published()], is_open=sending.is_open
            )
            if isinstance(error, KafkaError) and sending.is_begun:
                await self.renew()
            raise publish_error from error
        return [place for place in sending.published() if place is not None]

    def is_small(self, record: ProducerRecord) -> bool:
        """Return whether any topic takes *record*, so that no check is needed.

        Sets the record's size. This is quick, and true for most records.
        """
        record.size = size_of(record.key, record.value, record.headers)
        return record.size < self._small and not self.claims.wants(record)

    def new_headers(self, event: Event) -> list[tuple[str, bytes]]:
        """Return the headers of an event without a cause, with this group as its source."""
        return new_headers(event, self.settings.consumer_config.group_id)


def _traced(record: ProducerRecord, event: Value, trace: Headers, own: Headers) -> ProducerRecord:
    """Return *record* with the trace context *trace*, if it is of an event.

    A trace context in *own*, the caller's headers, takes precedence.
    """
    if not isinstance(event, Event):
        return record
    return replace(record, headers=with_own([*(() if own else record.headers), *trace], own))


def _check(topic: str, headers: Headers, partition: int | None, timestamp_ms: int | None) -> None:
    """Raise TypeError or ValueError, with the cure, for values that Kafka does not allow."""
    if not _topic_name.fullmatch(topic) or topic in {".", ".."}:
        raise ValueError(
            f"{topic!r} is no name of a topic: 1 to 249 letters, digits, dots, underscores "
            "and hyphens"
        )
    for name, limit in (("partition", 2**31), ("timestamp_ms", 2**63)):
        number = partition if name == "partition" else timestamp_ms
        if number is None:
            continue
        if type(number) is not int:
            raise TypeError(f"{name} is a {type(number).__name__}: give a whole number, or None")
        if not 0 <= number < limit:
            cure = (
                "leave it out, or None, to have one chosen"
                if name == "partition"
                else "milliseconds since 1970"
            )
            raise ValueError(f"{name}={number} is none that Kafka has: {cure}")
    for header in headers:
        if not (
            isinstance(header, tuple)
            and len(header) == _PAIR
            and isinstance(header[0], str)
            and isinstance(header[1], (bytes, types.NoneType))
        ):
            raise TypeError(
                "headers are pairs of a name (text) and a value (bytes), or a dict of these"
            )


_topic_name = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_PAIR = 2
