"""Record batches made by hand: a future and a linger for each of many records would cost more than the rest."""

import asyncio
from collections.abc import Iterable
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import RecordMetadata

from app.wire.envelope import Headers

METADATA_S = 0.05
BATCH_BYTES = 2**20  # what a broker takes unless it is told otherwise


class PartitionBatches:
    """Records of one partition on their way, in as few record batches as they fit, in the order of `append`."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, partition: int, record_bytes_max: int) -> None:
        self._producer = producer
        self._topic = topic
        self._partition = partition
        self._record_bytes_max = record_bytes_max
        self._sent: list[asyncio.Future[RecordMetadata]] = []
        self._open: Any = producer.create_batch()  # Any: aiokafka is untyped

    async def append(
        self, key: bytes | None, value: bytes | None, headers: Headers = (), timestamp_ms: int | None = None
    ) -> tuple[int, int]:
        """Add a record; returns its place: which batch of this object, which record of that.

        Raises MessageSizeTooLargeError before anything of the record is sent.
        """
        pairs = list(headers)
        size = DefaultRecordBatchBuilder.estimate_size_in_bytes(key, value, pairs)
        if size > self._record_bytes_max:
            raise MessageSizeTooLargeError(f"{size} bytes, the limit is {self._record_bytes_max}")
        if self._open.append(key=key, value=value, timestamp=timestamp_ms, headers=pairs) is None:
            await self._send()
            self._open = self._producer.create_batch()
            self._open.append(key=key, value=value, timestamp=timestamp_ms, headers=pairs)
        return len(self._sent), self._open.record_count() - 1

    async def sent(self) -> list[RecordMetadata]:
        """Send what is left and wait for every batch: where each begins. Raises what aiokafka raises."""
        await self._send()
        return list(await asyncio.gather(*self._sent))

    async def _send(self) -> None:
        self._sent.append(await _handed_over(self._producer, self._open, self._topic, self._partition))


async def one_batch(
    producer: AIOKafkaProducer, topic: str, partition: int,
    rows: Iterable[tuple[bytes, bytes | None]], headers: Headers,
) -> "asyncio.Future[RecordMetadata | None]":  # fmt: skip
    """Hand *rows* over as one record batch, however many there are. Raises AssertionError when they do not fit."""
    compression: int = producer._message_accumulator._compression_type
    batch: Any = BatchBuilder(BATCH_BYTES, compression)  # Any: aiokafka is untyped
    for key, value in rows:
        there = batch.append(timestamp=None, key=key, value=value, headers=headers)
        assert there is not None, f"the rows for {topic}-{partition} do not fit into one record batch"
    return await _handed_over(producer, batch, topic, partition)


async def _handed_over(
    producer: AIOKafkaProducer, batch: Any, topic: str, partition: int
) -> "asyncio.Future[RecordMetadata]":
    batch.close()  # else a plain send to this partition may add its record
    # aiokafka counts the waiting times of a busy partition many times over and gives up long before its timeout,
    # always before it takes the batch: offered again until the time limit of whoever sends ends this.
    while True:
        if partition not in (await producer.partitions_for(topic)):  # a topic that was only just made
            await asyncio.sleep(METADATA_S)
            await producer.client.force_metadata_update()
            continue
        try:
            sent: asyncio.Future[RecordMetadata] = await producer.send_batch(batch, topic, partition=partition)
        except KafkaTimeoutError:
            continue
        return sent
