"""The mission's direct producer: send one record to a topic and learn where it went.

Works inside a worker and in a plain script. Always idempotent with acks=all: a plain producer reports batches as
failed that are in the log all the same.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self
from uuid import uuid4

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, MessageSizeTooLargeError
from aiokafka.structs import RecordMetadata
from faust import Record as Event

from app.config import KafkaConfig, load_settings
from app.errors import OperatingError, UnavailableError
from app.wire.codec import codec_of
from app.wire.envelope import Headers, Outgoing, headers_of


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
            await producer.stop()

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
        async with asyncio.timeout(self.settings.producer_config.delivery_timeout_ms / 1000):
            sent = [await self._send(record) for record in records]
            return [Published(at.topic, at.partition, at.offset, at.timestamp) for at in await asyncio.gather(*sent)]

    async def send_rows(self, topic: str, partition: int, rows: Sequence[tuple[bytes, bytes | None]]) -> int:
        """Append *rows* to one partition in as few record batches as they fit; returns the last one's offset.

        No future and no header per row: this is how changelogs are written. Raises as `send_all` does.
        """
        producer = self._connected()
        pending: list[asyncio.Future[RecordMetadata]] = []
        async with asyncio.timeout(self.settings.producer_config.delivery_timeout_ms / 1000):
            batch = producer.create_batch()
            for key, value in rows:
                if batch.append(key=key, value=value, timestamp=None) is None:
                    batch.close()
                    pending.append(await producer.send_batch(batch, topic, partition=partition))
                    batch = producer.create_batch()
                    batch.append(key=key, value=value, timestamp=None)
            left = int(batch.record_count())
            batch.close()
            pending.append(await producer.send_batch(batch, topic, partition=partition))
            sent = await asyncio.gather(*pending)
        last = int(sent[-1].offset)
        return last + left - 1

    def new_headers(self, event: Event) -> list[tuple[str, bytes]]:
        """Headers for an event that has no cause: a random id, this consumer group as the source."""
        return headers_of(
            event_id=str(uuid4()),
            event_type=str(type(event)._options.namespace),
            source=self.settings.consumer_config.group_id,
            time=datetime.now(UTC),
        )

    async def _send(self, record: Outgoing) -> "asyncio.Future[RecordMetadata]":
        return await self._connected().send(  # type: ignore[no-any-return]  # aiokafka is untyped
            record.topic,
            value=record.value,
            key=record.key,
            partition=record.partition,
            timestamp_ms=record.timestamp_ms,
            headers=list(record.headers),
        )

    def _connected(self) -> Any:  # Any: aiokafka is untyped
        if self._producer is None:
            raise PublishError("the producer is not connected: use `async with Producer() as producer`")
        return self._producer


def key_bytes(key: object) -> bytes | None:
    """The record key: bytes as they are, None as none, anything else by its text (a UUID, a number, a string)."""
    if key is None or isinstance(key, bytes):
        return key
    return str(key).encode()
