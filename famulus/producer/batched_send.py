"""Send many records at once, and report the offset of each.

Record batches are built here directly. With one future and one linger timer per record, these would
cost more than all other work of sending.
"""

import asyncio
import time
from collections.abc import Collection, Sequence

from aiokafka.errors import UnknownTopicOrPartitionError
from aiokafka.structs import RecordMetadata

from famulus.kafka.partitioner import Choose
from famulus.producer.batches import PartitionBatches
from famulus.producer.connection import MISSING_S, Connection, size_of
from famulus.producer.results import Published, TooLarge
from famulus.serialization.records import ProducerRecord

LOOK_S = 0.5  # interval of the check whether a topic still exists


class BatchedSend:
    """One call of `send_all`: sends *records* in order per partition.

    The topics of *records* are named as on the cluster.
    """

    def __init__(
        self,
        connection: Connection,
        records: Sequence[ProducerRecord],
        choose: Choose,
        batch_bytes: int,
        bytes_max: int,
    ) -> None:
        self.connection = connection
        self.records = records
        self._choose = choose
        self._batch_bytes = batch_bytes
        self._bytes_max = bytes_max
        self._now_ms = time.time_ns() // 1_000_000
        self._batches: dict[tuple[str, int], PartitionBatches] = {}
        self._placed: list[PartitionBatches] = []  # one for each record, in their order

    async def run(self) -> None:
        """Send the records and wait until the cluster has answered for every one.

        Raises TooLarge before anything was sent, else what aiokafka raises.
        """
        topics = {record.topic for record in self.records}
        counts = {topic: await self.connection.partitions(topic) for topic in topics}
        limits = {topic: await self.connection.limit(topic) for topic in topics}
        await self._check(limits)
        for record in self.records:
            partition = record.partition
            if partition is None:
                partition = self._partition(record, counts[record.topic])
            elif partition >= counts[record.topic]:
                await self.connection.partitions(record.topic, partition)
            batches = self._batches.get((record.topic, partition))
            if batches is None:
                batches = self._begin(record.topic, partition, limits[record.topic])
            written_ms = self._now_ms if record.timestamp_ms is None else record.timestamp_ms
            if not batches.append(record.key, record.value, record.headers, written_ms):
                await batches.go_on()
                batches.append(record.key, record.value, record.headers, written_ms)
            self._placed.append(batches)
        await asyncio.gather(*(batches.close() for batches in self._batches.values()))
        await self._wait()

    def published(self) -> list[Published | None]:
        """Return the position of each record in the log, None where it is unknown."""
        answers = {batches: batches.answers() for batches in self._batches.values()}
        found: list[Published | None] = []
        for record, batches in zip(self.records, self._placed, strict=False):
            begin, number = next(answers[batches], (None, 0))
            if begin is None:
                found.append(None)
                continue
            written_ms = self._now_ms if record.timestamp_ms is None else record.timestamp_ms
            # The broker returns a timestamp only for a topic that it stamps itself (LogAppendTime).
            # For other topics the record keeps the one set here.
            at_ms = written_ms if begin.timestamp < 0 else begin.timestamp
            found.append(Published(batches.topic, batches.partition, begin.offset + number, at_ms))
        return found + [None] * (len(self.records) - len(found))

    @property
    def is_begun(self) -> bool:
        """Return whether any batch was handed over to aiokafka."""
        return any(batches.sent for batches in self._batches.values())

    @property
    def is_open(self) -> bool:
        """Return whether a batch that was handed over has no answer yet.

        Such a batch may still be sent.
        """
        return any(not sent.done() for batches in self._batches.values() for sent in batches.sent)

    async def _check(self, limits: dict[str, int | None]) -> None:
        any_takes = min(
            (limit for limit in limits.values() if limit is not None), default=self._bytes_max
        )
        any_takes = min(any_takes, self._bytes_max)
        for record in self.records:
            if (record.size or size_of(record.key, record.value, record.headers)) <= any_takes:
                continue
            size = check_size(record, self._bytes_max)
            limit = limits[record.topic]
            if limit is not None and size > limit:
                limits[record.topic] = await check_topic(self.connection, record, limit)

    def _partition(self, record: ProducerRecord, count: int) -> int:
        chosen = self._choose(record.key, count) if record.key is not None else None
        return self.connection.any_partition(record.topic) if chosen is None else chosen

    def _begin(self, topic: str, partition: int, limit: int | None) -> PartitionBatches:
        size = self._batch_bytes if limit is None else min(self._batch_bytes, limit)
        batches = PartitionBatches(self.connection.kafka, topic, partition, size)
        self._batches[topic, partition] = batches
        return batches

    async def _wait(self) -> None:
        """Wait for every answer, then raise the first refusal among them.

        Raises UnknownTopicOrPartitionError when a topic stays missing for MISSING_S meanwhile.
        """
        every = [sent for batches in self._batches.values() for sent in batches.sent]
        pending: Collection[asyncio.Future[RecordMetadata]] = every
        gone_since = 0.0
        while pending:
            _, pending = await asyncio.wait(pending, timeout=LOOK_S)
            gone = [topic for topic, _ in self._batches if self.connection.is_gone(topic)]
            gone_since = (gone_since or time.monotonic()) if gone else 0.0
            if pending and gone_since and time.monotonic() - gone_since > MISSING_S:
                raise UnknownTopicOrPartitionError(gone[0])
        for sent in every:
            sent.result()


def check_size(record: ProducerRecord, bytes_max: int) -> int:
    """Return the size of *record* in bytes, not compressed.

    Raises TooLarge when the size is more than *bytes_max*.
    """
    size = size_of(record.key, record.value, record.headers)
    if size > bytes_max:
        raise TooLarge(record.topic, size, bytes_max, "Kafka.ProducerConfig.MaxRequestSize")
    return size


async def check_topic(connection: Connection, record: ProducerRecord, limit: int) -> int | None:
    """Raise TooLarge when the topic does not take *record*, even compressed.

    *limit* is the cached limit of the topic in bytes. The cluster is asked again before the record
    is refused. Returns the present limit, None when the cluster does not report it.
    """
    size = connection.size_sent(record.key, record.value, record.headers, record.timestamp_ms or 0)
    if size <= limit:
        return limit
    now = await connection.limit(record.topic, is_new=True)
    if now is not None and size > now:
        raise TooLarge(record.topic, size, now, "the topic's max.message.bytes")
    return now
