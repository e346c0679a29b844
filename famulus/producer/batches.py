"""Build record batches for aiokafka directly.

One future and one linger timer per record would cost more than all other work of sending.
"""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any

import cramjam
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record._crecords import default_records
from aiokafka.structs import RecordMetadata

from famulus.serialization.records import Headers

METADATA_S = 0.05
BATCH_BYTES = 2**20  # about the default of a broker's message.max.bytes
LZ4_LEVEL = 1  # the fastest, as in the Java client


def lz4(payload: bytes | memoryview) -> bytes:
    """Return *payload* compressed as an LZ4 frame with independent blocks, see KIP-57.

    aiokafka compresses at level 9, which takes eight times as long for a slightly smaller result.
    Level 9 is the default in KIP-390, but there it selects the fast compressor of the Java client.
    """
    compressor = cramjam.lz4.Compressor(level=LZ4_LEVEL, content_checksum=False, block_linked=False)
    compressor.compress(payload)
    return bytes(compressor.finish())


default_records.lz4_encode = lz4  # the compiled batch builder looks it up in its module


class PartitionBatches:
    """Records of one partition, in as few record batches as possible.

    The order is that of `append`. *sent* has a future for each batch that was handed over. The
    future is done when the cluster has taken or refused the batch. A record larger than
    *batch_bytes* has a batch of its own.
    """

    def __init__(
        self, producer: AIOKafkaProducer, topic: str, partition: int, batch_bytes: int
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.sent: list[asyncio.Future[RecordMetadata]] = []
        self._producer = producer
        self._batch_bytes = batch_bytes
        self._counts: list[int] = []  # number of records of each batch that was handed over
        self._open = self._new()

    def append(
        self, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int
    ) -> bool:
        """Add a record to the open batch, or return False if the batch is full.

        After `go_on` the record fits.
        """
        added = self._open.append(
            key=key, value=value, timestamp=timestamp_ms, headers=list(headers)
        )
        return added is not None

    async def go_on(self) -> None:
        """Hand over the full batch and begin the next one."""
        await self.close()
        self._open = self._new()

    def answers(self) -> Iterator[tuple[RecordMetadata | None, int]]:
        """Yield, for each record handed over, the answer to its batch and its index there.

        The answer is None when the batch has none, or was refused.
        """
        for sent, count in zip(self.sent, self._counts, strict=True):
            is_there = sent.done() and not sent.cancelled() and sent.exception() is None
            answer = sent.result() if is_there else None
            for number in range(count):
                yield answer, number

    async def close(self) -> None:
        """Hand over the open batch."""
        sent = await handed_over(self._producer, self._open, self.topic, self.partition)
        sent.add_done_callback(_seen)
        self.sent.append(sent)
        self._counts.append(self._open.record_count())

    def _new(self) -> Any:  # Any: aiokafka is untyped
        return BatchBuilder(
            self._batch_bytes, self._producer._message_accumulator._compression_type
        )


def _seen(sent: "asyncio.Future[RecordMetadata]") -> None:
    """Retrieve the exception of *sent*, or asyncio logs it when no caller does."""
    if not sent.cancelled():
        sent.exception()


async def one_batch(
    producer: AIOKafkaProducer,
    topic: str,
    partition: int,
    rows: Iterable[tuple[bytes, bytes | None]],
    headers: Headers,
) -> "asyncio.Future[RecordMetadata | None]":
    """Hand *rows* over as exactly one record batch.

    Returns a future that is done when the cluster has it. Raises AssertionError when the rows do
    not fit.
    """
    compression: int = producer._message_accumulator._compression_type
    batch: Any = BatchBuilder(BATCH_BYTES, compression)  # Any: aiokafka is untyped
    for key, value in rows:
        there = batch.append(timestamp=None, key=key, value=value, headers=headers)
        assert there is not None, (
            f"the rows for {topic}-{partition} do not fit into one record batch"
        )
    return await handed_over(producer, batch, topic, partition)


async def handed_over(
    producer: AIOKafkaProducer, batch: Any, topic: str, partition: int
) -> "asyncio.Future[RecordMetadata]":
    """Hand *batch* over, trying again until aiokafka accepts it.

    Returns a future that is done when the cluster has taken or refused the batch.
    """
    batch.close()  # else a plain send to this partition may add its record
    # On a busy partition aiokafka counts its waiting time several times over and raises
    # KafkaTimeoutError long before its timeout. The batch was never taken then, so it is offered
    # again until the caller's own time limit ends the loop.
    while True:
        # The topic or partition was created only just now.
        if partition not in (await producer.partitions_for(topic)):
            await asyncio.sleep(METADATA_S)
            await producer.client.force_metadata_update()
            continue
        try:
            sent: asyncio.Future[RecordMetadata] = await producer.send_batch(
                batch, topic, partition=partition
            )
        except KafkaTimeoutError:
            continue
        return sent
