"""Record batches made by hand: a future and a linger for each of many records would cost more than the rest."""

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
BATCH_BYTES = 2**20  # what a broker takes unless it is told otherwise
LZ4_LEVEL = 1  # the fastest, as in Java's client


def lz4(payload: bytes | memoryview) -> bytes:
    """*payload* packed as Kafka wants it: a frame whose blocks do not know each other (KIP-57).

    aiokafka packs at level 9, where the search for a little less takes eight times as long. That is
    the number of the default in KIP-390, by which Java's client means its fast way.
    """
    compressor = cramjam.lz4.Compressor(level=LZ4_LEVEL, content_checksum=False, block_linked=False)
    compressor.compress(payload)
    return bytes(compressor.finish())


default_records.lz4_encode = lz4  # whose compiled builder holds it by name


class PartitionBatches:
    """Records of one partition on their way, in as few record batches as they fit, in the order of `append`.

    *sent* is done, batch by batch, when the cluster has it, or refuses it. A record larger than
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
        self._counts: list[int] = []  # of records, of each batch that was handed over
        self._open = self._new()

    def append(
        self, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int
    ) -> bool:
        """Add a record. False when the batch is full: `go_on`, and then it fits."""
        added = self._open.append(
            key=key, value=value, timestamp=timestamp_ms, headers=list(headers)
        )
        return added is not None

    async def go_on(self) -> None:
        """Hand over the batch that is full, and begin the next one."""
        await self.close()
        self._open = self._new()

    def answers(self) -> Iterator[tuple[RecordMetadata | None, int]]:
        """Of each record that was handed over: what the cluster said of its batch, None if nothing; its place there."""
        for sent, count in zip(self.sent, self._counts, strict=True):
            is_there = sent.done() and not sent.cancelled() and sent.exception() is None
            answer = sent.result() if is_there else None
            for number in range(count):
                yield answer, number

    async def close(self) -> None:
        """Hand over what is left."""
        sent = await handed_over(self._producer, self._open, self.topic, self.partition)
        sent.add_done_callback(_seen)
        self.sent.append(sent)
        self._counts.append(self._open.record_count())

    def _new(self) -> Any:  # Any: aiokafka is untyped
        return BatchBuilder(
            self._batch_bytes, self._producer._message_accumulator._compression_type
        )


def _seen(sent: "asyncio.Future[RecordMetadata]") -> None:
    """Nobody may be left who looks at its error, which asyncio would then tell of."""
    if not sent.cancelled():
        sent.exception()


async def one_batch(
    producer: AIOKafkaProducer,
    topic: str,
    partition: int,
    rows: Iterable[tuple[bytes, bytes | None]],
    headers: Headers,
) -> "asyncio.Future[RecordMetadata | None]":
    """Hand *rows* over as one record batch, however many there are.

    Raises AssertionError when they do not fit.
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
    """Hand *batch* over, however often it has to be offered.

    Returns what is done when the cluster has it.
    """
    batch.close()  # else a plain send to this partition may add its record
    # aiokafka counts the waiting times of a busy partition many times over and gives up long before
    # its timeout, always before it takes the batch: offered again until the time limit of whoever
    # sends ends this.
    while True:
        # A topic that was only just made.
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
