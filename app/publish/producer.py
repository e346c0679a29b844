"""The mission's direct producer: send one record to a topic and learn where it went.

Works inside a worker and in a plain script. Always idempotent with acks=all: a plain producer reports batches as
failed that are in the log all the same.
"""

import asyncio
import time
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, NamedTuple, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, MessageSizeTooLargeError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import RecordMetadata
from faust import Record as Event

from app.config import KafkaConfig, load_settings
from app.errors import OperatingError, UnavailableError, UnsentError
from app.publish.attributes import new_headers
from app.publish.batches import PartitionBatches, one_batch
from app.wire.codec import codec_of
from app.wire.envelope import Headers, Outgoing


class Published(NamedTuple):
    """Where a record stands now. *timestamp_ms* is the record's time, milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


class PublishError(OperatingError):
    """A record could not be sent, or nobody can tell whether it was."""


class Producer:
    """Sends records and waits until the cluster has them.

        async with Producer() as producer:
            published = await producer.produce("order-events", customer_id, event)

    *settings* None reads appsettings.json and the environment.
    """

    def __init__(self, settings: KafkaConfig | None = None) -> None:
        self.settings = settings or load_settings().kafka
        self._producer: AIOKafkaProducer | None = None
        self._leaving: set[asyncio.Task[None]] = set()  # producers that were replaced

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect. Raises UnavailableError when no broker answers."""
        config = self.settings.producer_config
        producer = AIOKafkaProducer(
            bootstrap_servers=self.settings.bootstrap_servers,
            acks="all",
            enable_idempotence=True,
            compression_type=None if config.compression_type == "none" else config.compression_type,
            linger_ms=config.linger_ms,
            max_batch_size=config.batch_size,
            max_request_size=config.max_request_size,
        )
        try:
            await producer.start()
        except KafkaConnectionError as error:
            await producer.stop()
            raise UnavailableError(f"no Kafka broker answers at {self.settings.bootstrap_servers}") from error
        self._producer = producer

    async def stop(self) -> None:
        """Send what is still buffered and disconnect."""
        if self._producer is not None:
            producer, self._producer = self._producer, None
            await asyncio.gather(producer.stop(), *self._leaving, return_exceptions=True)

    async def produce(  # noqa: PLR0913  # what a Kafka record has
        self,
        topic: str,
        key: object,
        event: Event | bytes | None,
        *,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Published:
        """Send one record and wait until all in-sync replicas have it.

        *topic* is the name as models say it (the prefix setting is added). *key* is bytes or anything whose text is
        the key; None spreads records over the partitions. An event gets the headers of `wire.envelope` with a new id
        unless *headers* are given; bytes are sent as they are; None is a tombstone.
        Raises PublishError when the record is too large or the cluster refuses it, or when no answer came in
        `ProducerConfig.DeliveryTimeoutMs`: it may then have been sent.
        """
        if isinstance(event, Event):
            value: bytes | None = codec_of(type(event)).encode(event)
            headers = headers if headers is not None else self.new_headers(event)
        else:
            value = event
        topic = self.settings.topic(topic)
        try:
            [published] = await self.send_all(
                [Outgoing(topic, key_bytes(key), value, headers or (), partition, timestamp_ms)]
            )
        except MessageSizeTooLargeError as error:
            raise PublishError(f"record for {topic} is too large ({len(value or b'')} bytes): {error}") from error
        except TimeoutError as error:
            raise PublishError(
                f"no answer for a record to {topic} in {self.settings.producer_config.delivery_timeout_ms} ms: "
                "the topic may be missing or the cluster away; the record may have been sent"
            ) from error
        except KafkaError as error:
            raise PublishError(f"record for {topic} was refused: {error!r}") from error
        return published

    async def send_all(self, records: Sequence[Outgoing]) -> list[Published]:
        """Send *records* (their topics as on the cluster), in order per partition, and wait for every one.

        Raises what aiokafka raises, and TimeoutError after `ProducerConfig.DeliveryTimeoutMs`.
        """
        producer = self._connected()
        now_ms = time.time_ns() // 1_000_000
        places: list[tuple[tuple[str, int], tuple[int, int], int]] = []
        batches: dict[tuple[str, int], PartitionBatches] = {}
        async with asyncio.timeout(self.settings.producer_config.delivery_timeout_ms / 1000):
            for topic in {record.topic for record in records}:
                await producer.partitions_for(topic)  # learns where the topic lives
            for record in records:
                at = (record.topic, self._partition_of(record))
                batch = batches.get(at)
                if batch is None:
                    batch = batches[at] = self._batches(*at)
                written_ms = now_ms if record.timestamp_ms is None else record.timestamp_ms
                places.append(
                    (at, await batch.append(record.key, record.value, record.headers, written_ms), written_ms)
                )
            sent = {at: await batch.sent() for at, batch in batches.items()}
        return [
            # The broker says a time only for a topic that is stamped by it (LogAppendTime), else it is ours.
            Published(topic, partition, begin.offset + number, written_ms if begin.timestamp < 0 else begin.timestamp)
            for (topic, partition), (batch_number, number), written_ms in places
            for begin in (sent[topic, partition][batch_number],)
        ]

    async def deliver(self, records: Sequence[Outgoing]) -> None:
        """Send what events publish and the dead letters among it, and wait for every one.

        A record that is too large leaves as its `fallback`, if it has one. Raises UnsentError with the cause and the
        cure when Kafka does not take one: some may have been sent. They may be delivered again, by the same ids.
        """
        try:
            try:
                await self.send_all(records)
            except MessageSizeTooLargeError:
                await self._renew()
                for record in records:
                    await self._deliver_alone(record)
        except (KafkaError, TimeoutError) as error:
            await self._renew()
            topics = ", ".join(sorted({record.topic for record in records}))
            raise UnsentError(f"Kafka does not take records for {topics}: {_cause(error)}") from error

    async def _deliver_alone(self, record: Outgoing) -> None:
        try:
            await self.send_all([record])
        except MessageSizeTooLargeError:
            if record.fallback is None:
                raise
            await self._renew()
            await self.send_all([record.fallback])

    async def _renew(self) -> None:
        """Go on with a new producer id: after a batch that was refused, the sequence numbers of the old one do not fit.

        What the old one has in hand is sent by it.
        """
        old = self._producer
        if old is None:
            return
        await self.start()
        leaving = asyncio.create_task(old.stop(), name="old producer")
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
        async with asyncio.timeout(limit_s):
            sent = await one_batch(self._connected(), topic, partition, rows, headers)
        return _offset_of(sent, limit_s)

    def _partition_of(self, record: Outgoing) -> int:
        if record.partition is not None:
            return record.partition
        key = record.key
        partition: int = self._connected()._partition(record.topic, None, None, None, key, record.value)
        return partition

    def _batches(self, topic: str, partition: int) -> PartitionBatches:
        return PartitionBatches(self._connected(), topic, partition, self.settings.producer_config.max_request_size)

    def new_headers(self, event: Event) -> list[tuple[str, bytes]]:
        """Headers for an event that has no cause: a random id, this consumer group as the source."""
        return new_headers(event, self.settings.consumer_config.group_id)

    def _connected(self) -> Any:  # Any: aiokafka is untyped
        if self._producer is None:
            raise PublishError("the producer is not connected: use `async with Producer() as producer`")
        return self._producer


def _cause(error: Exception) -> str:
    """What is wrong, and what helps."""
    if isinstance(error, MessageSizeTooLargeError):
        return "one is larger than the topic takes; raise its max.message.bytes"
    if isinstance(error, TimeoutError):
        return "no answer in time; the topic may be missing, or the cluster away"
    return f"{type(error).__name__}: {error}"


async def _offset_of(sent: "asyncio.Future[RecordMetadata | None]", limit_s: float) -> int:
    async with asyncio.timeout(limit_s):
        metadata = await sent
    return -1 if metadata is None else int(metadata.offset)


def partition_of(key: bytes, partitions: int) -> int:
    """To which of so many partitions a record with *key* goes, as every producer of ours, and Java's, has it."""
    numbers = list(range(partitions))
    return int(DefaultPartitioner()(key, numbers, numbers))


def key_bytes(key: object) -> bytes | None:
    """The record key: bytes as they are, None as none, anything else by its text (a UUID, a number, a string)."""
    if key is None or isinstance(key, bytes):
        return key
    return str(key).encode()
