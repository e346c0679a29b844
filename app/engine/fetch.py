"""What a fetch brought, left as it came until somebody wants its records.

Kafka is spoken to in a thread of its own, which unpacks records while the handlers' thread wants the interpreter too:
the two take it from each other in the middle of everything. So that thread only reads the headers of the record
batches, which say where to fetch next, and the records are unpacked where they are handled. Subscriptions get records
with no more than they need, which halves the cost of making them.
"""

import asyncio
import time
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any, NamedTuple

from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords
from aiokafka.structs import TopicPartition

from app.wire.envelope import Headers


class FetchedRecord(NamedTuple):
    """One record of a subscription: what `wire.envelope.Record` asks for."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Batches:
    """The record batches of one partition's fetch, in the shape in which aiokafka unpacks them."""

    def __init__(self, unread: Any) -> None:  # Any: aiokafka's MemoryRecords, in C
        self._batches = []
        while unread.has_next():
            self._batches.append(unread.next_batch())
        self.next_offset: int | None = self._batches[-1].next_offset if self._batches else None
        self._batches.reverse()

    def has_next(self) -> bool:
        """Whether another batch is left."""
        return bool(self._batches)

    def next_batch(self) -> Any:
        """Take the next one."""
        return self._batches.pop()


class Packed:
    """One partition's fetch, unpacked by `records`."""

    def __init__(self, packed: PartitionRecords) -> None:
        self._packed = packed

    def records(self, limit: int, *, lean: bool) -> Iterator[list[Any]]:
        """The records, *limit* at a time, as FetchedRecord if *lean*, else as aiokafka's own ConsumerRecord.

        Raises CorruptRecordException when a batch is not what the broker's checksum says.
        """
        if lean:
            self._packed._consumer_record = _lean
        unpacking = self._packed._records_iterator  # what the iterator itself asks, with a call less for each record
        while records := list(islice(unpacking, limit)):
            yield records


_new = tuple.__new__  # half the time of the class's own, which is Python


def _lean(tp: TopicPartition, record: Any) -> FetchedRecord:
    fields = tp.topic, tp.partition, record.offset, record.timestamp, record.key, record.value, record.headers
    return _new(FetchedRecord, fields)


def _take(result: FetchResult) -> Packed | list[Any]:
    """What `FetchResult.getall` does without unpacking anything: the position moves behind the last batch."""
    if not result.check_assignment(result._topic_partition) or not result.has_more():
        return []
    packed = result._partition_records
    packed._records = batches = Batches(packed._records)
    if batches.next_offset is not None:
        result._assignment.state_value(result._topic_partition).consumed_to(batches.next_offset)
    result._partition_records = None
    return Packed(packed)


async def take(
    fetcher: Fetcher, partitions: Collection[TopicPartition], timeout_s: float
) -> dict[TopicPartition, Packed]:
    """What has been fetched of *partitions*, waiting for it for *timeout_s* at most."""
    deadline = time.monotonic() + timeout_s
    while True:
        for result in fetcher._records.values():
            if type(result) is FetchResult:
                result.getall = lambda _max_records, result=result: _take(result)
        taken: dict[TopicPartition, Packed] = await fetcher.fetched_records(partitions, timeout=0)
        left_s = deadline - time.monotonic()
        if taken or left_s <= 0:
            return taken
        waiter = fetcher._create_fetch_waiter()
        done, _ = await asyncio.wait([waiter], timeout=left_s)
        if not done:
            waiter.cancel()
            return {}
        waiter.result()  # raises what keeps the fetcher from fetching, such as a missing authorization
