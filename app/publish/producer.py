"""The mission's direct producer: send records to topics and learn where they went.

Works inside a worker and in a plain script. What is wrong is one line with its cure, see `results`.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Iterable, Sequence
from itertools import islice
from typing import Self

import structlog
from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from aiokafka.structs import RecordMetadata
from faust import Record as Event

from app.config import ClaimCheckConfig, KafkaConfig, load_settings
from app.errors import ClaimStoreError, ClaimTooLargeError, ConfigError, UnsentError
from app.publish.attributes import new_headers
from app.publish.batches import one_batch
from app.publish.claims import ClaimStore
from app.publish.connection import STOP_S, Connection, explained
from app.publish.results import (
    Found,
    NotAcknowledgedError,
    Published,
    PublishError,
    RecordTooLargeError,
    TooLarge,
    cause,
    in_words,
)
from app.publish.sending import Sending, check_size, check_topic
from app.wire.codec import codec_of
from app.wire.envelope import Headers, Outgoing
from app.wire.partition import chooser

log = structlog.get_logger()
CHUNK = 10_000  # records of `produce_many` that are sent, and waited for, together
SMALL_BYTES = 8 * 1024  # what any topic takes
ROOM_BYTES, HEADER_BYTES = 100, 10  # more than a record, and one header of it, have beside their texts
Value = Event | bytes | None  # an event, bytes as they are, or a tombstone


class Producer:
    """Sends records and waits until the cluster has them.

        async with Producer() as producer:
            published = await producer.produce("order-events", customer_id, event)

    *settings* None reads appsettings.json and the environment. *claims* is where large payloads go.
    Raises ConfigError when the partitioner that the settings name is not there.
    """

    def __init__(self, settings: KafkaConfig | None = None, claims: ClaimStore | None = None) -> None:
        self.settings = settings or load_settings().kafka
        self.claims = claims or ClaimStore(load_settings().claim_check if settings is None else ClaimCheckConfig())
        self._choose = chooser(self.settings.producer_config.partitioner)
        self._connection: Connection | None = None
        self.sent: Counter[str] = Counter()  # records that the cluster has, by topic; state changelogs aside
        self._leaving: set[asyncio.Task[None]] = set()  # connections that were replaced

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect. Raises UnavailableError when no broker answers, AccessError when one does not let us in."""
        if without_effect := explained(self.settings.producer_config):
            log.info("settings that have no effect as they are", why="; ".join(without_effect))
        await self._connect()

    async def _connect(self) -> None:
        connection = Connection(self.settings)
        await connection.start()
        self._connection = connection

    async def stop(self) -> None:
        """Disconnect. What was sent in vain before is dropped after some seconds."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.stop()
        if self._leaving:
            _, late = await asyncio.wait(self._leaving, timeout=STOP_S)
            for leaving in late:
                leaving.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def produce(  # noqa: PLR0913  # what a Kafka record has
        self,
        topic: str,
        key: object,
        event: Value,
        *,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Published:
        """Send one record and wait until all in-sync replicas have it.

        *topic* is the name as models say it (the prefix setting is added). *key* is bytes or anything whose text is
        the key; None spreads records over the partitions. An event gets the headers of `wire.envelope` with a new id
        unless *headers* are given, and leaves as a claim check when it is larger than `ClaimCheck.ThresholdBytes`;
        bytes are sent as they are; None is a tombstone.
        Raises RecordTooLargeError, UnknownTopicError, NotAuthorizedError, and NotAcknowledgedError when no answer came
        in `ProducerConfig.DeliveryTimeoutMs` or the store is away; all are PublishErrors.
        """
        topic = self.settings.topic(topic)
        record = self._outgoing(topic, key, event, headers, partition, timestamp_ms)
        if isinstance(event, Event):
            record = await self._checked_in(record)
        return await self.send(record)

    async def send(self, record: Outgoing) -> Published:
        """Send *record* (its topic as on the cluster) as it is. Raises as `produce` does."""
        [published] = await self._produced(record.topic, [record])
        return published

    async def prepared(self, topic: str, key: object, event: Event, headers: Headers) -> Outgoing:
        """The record that `produce` sends, a claim check if it is to be one. Raises as that when it cannot be sent."""
        record = await self._checked_in(self._outgoing(self.settings.topic(topic), key, event, headers))
        if not self.is_small(record):
            await self.check(record)
        return record

    async def send_together(self, records: Sequence[Outgoing]) -> list[Published]:
        """Send *records* of one topic in few record batches. Raises as `produce` does, for all of them."""
        return await self._produced(records[0].topic, records)

    async def produce_many(
        self, topic: str, records: Iterable[tuple[object, Value] | tuple[object, Value, Headers]]
    ) -> list[Published]:
        """Send many *records*, each a key and an event or bytes as for `produce`, and headers if it has some.

        In as few record batches as they fit; those of one partition keep their order. Returns where they stand, in the
        order given. Thousands are sent and waited for at a time, so *records* may be a generator, and the time limit
        is that of each such portion. Raises as `produce` does; the error's `published` says which ones are there.
        """
        topic = self.settings.topic(topic)
        published: list[Published] = []
        rest = iter(records)
        while chunk := list(islice(rest, CHUNK)):
            ready = [self._outgoing(topic, key, event, next(iter(more), None)) for key, event, *more in chunk]
            for place, (_, event, *_) in enumerate(chunk):
                if isinstance(event, Event) and self.claims.wants(ready[place]):
                    ready[place] = await self._checked_in(ready[place], published)
            published += await self._produced(topic, ready, published)
        return published

    async def _checked_in(self, record: Outgoing, before: Sequence[Published] = ()) -> Outgoing:
        try:
            return await self.claims.check_in(record)
        except ClaimTooLargeError as error:
            raise RecordTooLargeError(f"a record for {record.topic} is too large: {error}", before) from error
        except ClaimStoreError as error:
            what = f"a record for {record.topic} was not sent: the store of large payloads is away: {error}"
            raise NotAcknowledgedError(what, before, may_be_sent=False) from error

    def _outgoing(  # noqa: PLR0913, PLR0917  # what a Kafka record has
        self, topic: str, key: object, event: Value, headers: Headers | None = None, partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Outgoing:  # fmt: skip
        if isinstance(event, Event):
            headers = headers if headers is not None else self.new_headers(event)
            event = codec_of(type(event)).encode(event)
        return Outgoing(topic, key_bytes(key), event, headers or (), partition, timestamp_ms)

    async def _produced(
        self, topic: str, records: Sequence[Outgoing], before: Sequence[Published] = ()
    ) -> list[Published]:
        """Send, and raise what is wrong in our words. *before* are those that were published already."""
        sending = self._sending(records)
        try:
            return await self._sent(sending)
        except (KafkaError, TimeoutError) as error:
            told = self._in_words(error, topic, [*before, *sending.published()], is_open=sending.is_open)
            if isinstance(error, KafkaError) and sending.is_begun:
                await self.renew()
            raise told from error

    def _in_words(
        self, error: Exception, topic: str, published: Sequence[Published | None], *, is_open: bool
    ) -> PublishError:
        found = Found(
            partitions=self._connection.partitions_known(topic) if self._connection is not None else 0,
            limit_ms=self.settings.producer_config.delivery_timeout_ms,
            is_open=is_open,
        )
        return in_words(error, topic, published, found)

    async def send_all(self, records: Sequence[Outgoing]) -> list[Published]:
        """Send *records* (their topics as on the cluster), in order per partition, and wait for every one.

        Raises what aiokafka raises, and TimeoutError after `ProducerConfig.DeliveryTimeoutMs`. When a record is too
        large, or a topic is not there, nothing was sent.
        """
        return await self._sent(self._sending(records))

    def _sending(self, records: Sequence[Outgoing]) -> Sending:
        config = self.settings.producer_config
        return Sending(self._connected(), records, self._choose, config.batch_size, config.max_request_size)

    async def _sent(self, sending: Sending) -> list[Published]:
        with sending.connection.in_use():
            async with asyncio.timeout(self.settings.producer_config.delivery_timeout_ms / 1000):
                try:
                    published = await sending.run()
                except MessageSizeTooLargeError as error:
                    if not isinstance(error, TooLarge):
                        self._connected().forget_limits()
                    raise
        self.sent.update([place.topic for place in published])
        return published

    def is_small(self, record: Outgoing) -> bool:
        """Whether any topic takes *record*, so that there is nothing to check. For most it is, and this is quick."""
        size = ROOM_BYTES + len(record.key or b"") + len(record.value or b"")
        for name, value in record.headers:
            size += 4 * len(name) + len(value) + HEADER_BYTES
        limit = min(SMALL_BYTES, self.settings.producer_config.max_request_size)
        return size < limit and not self.claims.wants(record)

    async def check(self, record: Outgoing) -> None:
        """Raise RecordTooLargeError when *record* (its topic as on the cluster) could never be sent.

        For what is sent later: then nobody is there who could be told.
        """
        try:
            size = check_size(record, self.settings.producer_config.max_request_size)
            if size > SMALL_BYTES and self._connection is not None:
                topic_limit = await self._connection.limit(record.topic)
                if topic_limit is not None and size > topic_limit:
                    await check_topic(self._connection, record, topic_limit)
        except TooLarge as error:
            raise self._in_words(error, record.topic, [], is_open=False) from None

    async def check_place(self, topic: str, partition: int) -> None:
        """Raise UnknownTopicError when *topic* (as on the cluster) has no such partition, NotAuthorizedError.

        As `check`, it asks nobody while there is no connection: a dry run sends nothing.
        """
        if self._connection is None:
            return
        try:
            await self._connection.partitions(topic, partition)
        except KafkaError as error:
            raise self._in_words(error, topic, [], is_open=False) from error

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Send what events publish and the dead letters among it, and wait for every one.

        A record that is too large leaves as its `fallback`, if it has one. Raises UnsentError with the cause and the
        cure when Kafka does not take one: some may have been sent. They may be delivered again, by the same ids.
        """
        topics = ", ".join(sorted({record.topic for record in records}))
        try:
            try:
                await self.send_all(
                    [record if self.is_small(record) else await self._fitting(record) for record in records]
                )
            except MessageSizeTooLargeError as error:
                if isinstance(error, TooLarge):  # and nothing that is smaller is there
                    raise
                await self.renew()
                for record in records:
                    await self._deliver_alone(record)
        except (KafkaError, TimeoutError) as error:
            if not isinstance(error, TooLarge):
                await self.renew()
            raise UnsentError(f"Kafka does not take records for {topics}: {cause(error)}") from error
        except ConfigError as error:  # of the partitioner
            raise UnsentError(f"records for {topics} cannot leave: {error}") from error

    async def _fitting(self, record: Outgoing) -> Outgoing:
        """*record*, or the first of its fallbacks that is not too large, as far as we know what its topic takes."""
        while record.fallback is not None:
            try:
                await self.check(record)
            except RecordTooLargeError as error:
                log.warning("something smaller leaves in its place", why=str(error), to=record.fallback.topic)
                record = record.fallback
            else:
                break
        return record

    async def _deliver_alone(self, record: Outgoing) -> None:
        """The same for a topic that did not say what it takes."""
        while True:
            try:
                await self.send_all([record])
            except MessageSizeTooLargeError as error:
                if record.fallback is None:
                    raise
                log.warning("something smaller leaves in its place", why=str(error), to=record.fallback.topic)
                record = record.fallback
                await self.renew()
            else:
                return

    async def renew(self) -> None:
        """Go on with a new producer id: after a batch that was refused, the sequence numbers of the old one do not fit.

        What the old one has in hand is sent by it.
        """
        old = self._connection
        if old is None:
            return
        await self._connect()
        leaving = asyncio.create_task(
            old.leave(self.settings.producer_config.delivery_timeout_ms / 1000), name="old producer"
        )
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def send_batch(
        self, topic: str, partition: int, rows: Iterable[tuple[bytes, bytes | None]], headers: Headers
    ) -> Awaitable[int]:
        """Send *rows* to one partition as one record batch, which Kafka appends whole or not at all.

        Returns when the batch is on its way; the result, awaited, is the offset of its first record, -1 when the
        cluster does not tell. This is how state changelogs are written. Raises AssertionError when the rows do not fit
        (our bug), what aiokafka raises, and TimeoutError after `ProducerConfig.DeliveryTimeoutMs`: the batch may have
        been written all the same.
        """
        limit_s = self.settings.producer_config.delivery_timeout_ms / 1000
        connection = self._connected()
        with connection.in_use():
            async with asyncio.timeout(limit_s):
                sent = await one_batch(connection.kafka, topic, partition, rows, headers)
        return _offset_of(sent, limit_s)

    def new_headers(self, event: Event) -> list[tuple[str, bytes]]:
        """Headers for an event that has no cause: a random id, this consumer group as the source."""
        return new_headers(event, self.settings.consumer_config.group_id)

    def _connected(self) -> Connection:
        if self._connection is None:
            raise PublishError("the producer is not connected: use `async with Producer() as producer`")
        return self._connection


async def _offset_of(sent: "asyncio.Future[RecordMetadata | None]", limit_s: float) -> int:
    async with asyncio.timeout(limit_s):
        metadata = await sent
    return -1 if metadata is None else int(metadata.offset)


def key_bytes(key: object) -> bytes | None:
    """The record key: bytes as they are, None as none, anything else by its text (a UUID, a number, a string)."""
    if key is None or isinstance(key, bytes):
        return key
    return str(key).encode()
