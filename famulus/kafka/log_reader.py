"""Reading of partitions without a group, to an end or as they grow."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from famulus.config import KafkaConfig
from famulus.kafka.client import client_options
from famulus.kafka.record_batches import TRIES, UnreadableBatchError

Skipped = Callable[[UnreadableBatchError], None]
POLL_MS = 200


def log_consumer(settings: KafkaConfig, fetch_max_wait_ms: int = 100) -> AIOKafkaConsumer:
    """Make a consumer without a group, for reading logs from their beginnings.

    A fetch without data waits for *fetch_max_wait_ms* milliseconds.
    """
    return AIOKafkaConsumer(
        **client_options(settings),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=4 * 2**20,
        fetch_max_wait_ms=fetch_max_wait_ms,
    )


async def opened(
    settings: KafkaConfig,
    at: TopicPartition,
    fetch_max_wait_ms: int = 500,
    *,
    from_end: bool = False,
) -> AIOKafkaConsumer:
    """Return a started consumer of the partition *at*, at its beginning or, *from_end*, its end.

    A fetch without data waits for *fetch_max_wait_ms* milliseconds. Raises what aiokafka raises.
    """
    consumer = log_consumer(settings, fetch_max_wait_ms)
    try:
        await consumer.start()
        consumer.assign([at])
        if from_end:
            consumer.seek(at, (await consumer.end_offsets([at]))[at])
    except BaseException:
        await consumer.stop()
        raise
    return consumer


async def poll(
    consumer: AIOKafkaConsumer,
    *places: TopicPartition,
    timeout_ms: int,
    max_records: int | None = None,
    skipped: Skipped = lambda _: None,
) -> dict[TopicPartition, list[Any]]:
    """Return the records of *places* that arrive within *timeout_ms*, by partition.

    *places* are partitions of the group's own topics. An unreadable batch that a foreign client
    wrote is skipped, and its error is passed to *skipped*. A damaged batch is fetched again. Raises
    UnreadableBatchError when it stays damaged, is too large or has no known end; the records before
    it are returned first.
    """
    for left in range(TRIES, -1, -1):
        try:
            found: dict[TopicPartition, list[Any]] = await consumer.getmany(
                *places, timeout_ms=timeout_ms, max_records=max_records
            )
        except UnreadableBatchError as error:
            if await consumer.position(error.place) < error.first_offset:
                max_records = 1  # to return the records before the batch first
            elif error.is_stray:
                skipped(error)
                consumer.seek(error.place, error.next_offset)
            elif not (error.is_damaged and left):
                raise
        else:
            return found
    return {}


async def read_to(
    consumer: AIOKafkaConsumer,
    ends: Mapping[TopicPartition, int],
    *,
    timeout_s: float = math.inf,
    max_records: int | None = None,
    skipped: Skipped = lambda _: None,
) -> AsyncIterator[tuple[TopicPartition, list[Any]]]:
    """Yield the records of assigned partitions before *ends*, in lists of one partition.

    Reading begins at the positions of *consumer*. Compacted records and transaction markers leave
    gaps. Raises TimeoutError when nothing arrives for *timeout_s* seconds, and as `poll` does.
    """
    waited_s = 0.0
    while left := [at for at in ends if await consumer.position(at) < ends[at]]:
        found = await poll(
            consumer, *left, timeout_ms=POLL_MS, max_records=max_records, skipped=skipped
        )
        waited_s = 0.0 if found else waited_s + POLL_MS / 1000
        if waited_s > timeout_s:
            raise TimeoutError(f"no record of {left[0].topic}-{left[0].partition} came")
        for at, records in found.items():
            yield at, [record for record in records if record.offset < ends[at]]


async def closed(task: asyncio.Task[Any] | None, consumer: AIOKafkaConsumer | None) -> None:
    """Cancel the *task* that follows a log, and stop its *consumer*; None is no fault."""
    if task is not None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    if consumer is not None:
        await consumer.stop()
